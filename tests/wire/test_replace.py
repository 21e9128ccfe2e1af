"""device-set-backend: from one back-end to another under a running guest. Nothing is lost, and in a
planned change nothing is done twice either."""

import random

import pytest
from svqwire import message as wire
from svqwire.load import Load
from svqwire.message import Id
from svqwire.migration import Copy
from svqwire.mortal import TRACKING
from svqwire.pairs import Pair
from svqwire.pump import SEED
from svqwire.qmp import QmpError
from svqwire.scene import Command
from svqwire.wait import wait_until

SECOND = 1_000_000  # microseconds
MODES = ("direct", "shadow")
PATIENT = {"message-timeout": 5}  # for a machine that has much else to do


def change(scene, backend, while_waiting=None):
    """Changes to it; how long the pause was."""
    command = scene.replace(backend)
    if while_waiting:
        while_waiting()
    command.done(5)
    if command.error:
        raise command.error
    return command.answer["pause-microseconds"]


def cause(scene, backend):
    with pytest.raises(QmpError) as raised:
        change(scene, backend)
    text = raised.value.desc
    assert text.startswith("Can't change the back-end of dev0: "), text
    assert raised.value.error_class == "GenericError"
    return text.partition(": ")[2]


def once(scene):
    """What a planned change promises."""
    assert not scene.recorder.twice(), scene.recorder.twice()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pair", ["split-split", "packed-packed", "packed-split", "split-packed"])
def test_there_and_back_under_load(scene, pair, mode):
    """The pause is reported, by the answer and by the event."""
    made = scene(mode, pair=Pair(pair), keys=PATIENT)
    made.mend()
    load = Load(made.guest)
    ends, pauses = (made.other, made.backend), []
    for turn in range(12):
        new, old = ends[turn % 2], ends[1 - turn % 2]
        load.wait_rounds(1)
        pauses.append(change(made, new))
        event = made.qmp.wait_event("DEVICE_BACKEND_CHANGED", id="dev0")["data"]
        assert event == {"id": "dev0", "backend": f"vhost-user:{new.path}",
                         "microseconds": pauses[-1]}
        old.wait_disconnected()
        made.qmp.drain().clear()
    load.wait_rounds(2)
    load.close()
    assert 0 < max(pauses) < SECOND, pauses
    state = made.state()["backend"]
    assert (state["link"], state["outages"], state["resubmitted"]) == ("up", 0, 0)
    made.serves()
    once(made)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_held_is_drained(scene, mode):
    """The old one completes what it took, the new one takes the rest."""
    made = scene(mode)
    made.backend.drain = "asked"
    command = made.replace(made.other)
    made.wait_stopped()
    made.pump.fill(2)
    assert not command.answer, "answered before the old one was drained"
    made.mend()
    command.done()
    assert command.error is None
    made.serves()
    once(made)
    assert made.other.queues[0].chains >= 2


def shorter(backend):
    backend.config[8:16] = bytes(8)


UNFIT = {
    "features": lambda scene: scene.third(features=scene.features & ~wire.bit(6)),
    "ring-features": lambda scene: scene.third(features=scene.features & ~wire.F_EVENT_IDX),
    "protocol-features": lambda scene: scene.third(protocol=TRACKING & ~wire.P_CONFIG),
    "queues": lambda scene: scene.third(queues=1),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", [*UNFIT, "config"])
def test_does_not_fit(scene, what, mode):
    """The old one goes on, and the cause says what is wrong."""
    made = scene(mode)
    made.unit.vmm.get_config(0, 60)
    third = UNFIT[what](made) if what in UNFIT else made.third()
    if what == "config":
        shorter(third)
    text = cause(made, third)
    word = {"ring-features": "feature", "features": "feature", "config": "config",
            "protocol-features": "feature", "queues": "queue"}[what]
    assert word in text.lower(), text
    third.wait_disconnected()
    state = made.state()["backend"]
    assert state["address"] == f"vhost-user:{made.backend.path}" and state["link"] == "up"
    assert made.backend.sessions == 1, "the old one was let go"
    made.serves()
    once(made)


def test_more_than_needed_fits(scene):
    """Other features, more queues: what is used counts."""
    made = scene()
    third = made.third(features=made.features | wire.bit(13) | wire.F_IN_ORDER, queues=8)
    third.recorder = made.recorder
    third.portions = False
    made.mend()
    change(made, third)
    made.serves()
    once(made)


@pytest.mark.parametrize("mode", MODES)
def test_nobody_there(scene, mode):
    made = scene(mode)
    assert cause(made, "vhost-user:/nowhere/at/all")
    assert made.backend.sessions == 1
    made.serves()
    once(made)


def test_silent(scene):
    """The new one never answers: given up after message-timeout, and the old one goes on."""
    made = scene()
    made.other.fault("silent", Id.GET_FEATURES)
    assert cause(made, made.other)
    made.other.wait_disconnected()
    made.serves()
    once(made)


@pytest.mark.parametrize("theirs", [True, False], ids=["vmm-s-region", "svqd-s-region"])
@pytest.mark.parametrize("pair", ["split-split", "packed-packed"])
@pytest.mark.parametrize("mode", MODES)
def test_the_old_one_never_drains(scene, mode, pair, theirs):
    """After drain-timeout it goes on, and completes what it has later: nothing is done again,
    though its in-flight region lists it. Then it can be replaced."""
    made = scene(mode, pair=Pair(pair), theirs=theirs, keys={"drain-timeout": 0.3})
    made.backend.drain = "asked"
    assert cause(made, made.other)
    made.other.wait_disconnected()
    assert made.state()["mode"] == ("shadow" if mode == "shadow" else "pass-through")
    made.pump.fill(2)
    assert cause(made, made.other), "it still has requests"
    made.serves()
    change(made, made.other)
    made.serves()
    once(made)


def dry_run(scene):
    """How many messages the new one gets until it serves."""
    scene.mend()
    start = len(scene.other.log)
    change(scene, scene.other)
    count = len(scene.other.log) - start
    change(scene, scene.backend)
    scene.qmp.drain().clear()
    return count


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("action", ["close", "closed", "silent"])
def test_the_new_one_dies(scene, mode, action):
    """At every message. Before the old one was drained the old one goes on; after it nothing is
    lost either, whoever serves in the end."""
    made = scene(mode, keys={"message-timeout": 0.15} if action == "silent" else PATIENT)
    count = dry_run(made)
    assert count > 12
    numbers = range(count)
    if action == "silent":
        numbers = random.Random(SEED).sample(numbers, 6)
    for number in numbers:
        made.hold()
        made.other.fault(action, skip=number)
        command = made.replace(made.other).done()
        made.mend()
        made.wait_link("up")
        serving = made.state()["backend"]["address"].endswith(made.other.path)
        if command.error is None:
            assert serving, "it worked and another one serves"
        made.pump.finish()
        made.pump.rounds(2)
        if serving:
            change(made, made.backend)
        made.qmp.drain().clear()
    made.serves()


def test_the_old_one_falls_silent(scene):
    """When it is asked to stop a ring: it is lost, and the new one was never put in its place."""
    made = scene("shadow")
    made.backend.fault("silent", Id.GET_VRING_BASE)
    assert "lost" in cause(made, made.other)
    made.wait_link("up")
    assert made.state()["backend"]["address"] == f"vhost-user:{made.backend.path}"
    assert made.state()["backend"]["outages"] == 1
    made.serves()


def test_without_a_front_end(scene):
    """Only the address changes, once somebody was reached there."""
    made = scene(start=False)
    assert cause(made, "vhost-user:/nowhere/at/all")
    assert change(made, made.other) >= 0
    made.other.wait_disconnected()
    made.start()
    made.serves()
    assert made.backend.sessions == 0 and made.other.sessions == 2


@pytest.mark.parametrize("state", ["lost", "refused"])
def test_the_same_address_again(scene, state):
    """A retry now, not when the next attempt is due."""
    made = scene("shadow", keys={"reconnect": 30})
    made.lose() if state == "lost" else made.refuse()
    assert cause(made, made.backend)
    assert made.link() == state
    made.mend()
    assert change(made, made.backend) > 0
    data = made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]
    assert data["resubmitted"] == 6
    made.serves()


@pytest.mark.parametrize("state", ["lost", "refused"])
def test_another_one_to_the_rescue(scene, state):
    """The one that is gone will not come back: its requests are done by another one."""
    made = scene("shadow", keys={"reconnect": 30})
    made.lose() if state == "lost" else made.refuse()
    change(made, made.other)
    assert made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]["resubmitted"] == 6
    made.serves()
    assert made.other.sessions == 1


@pytest.mark.parametrize("mode", MODES)
def test_while_migrating(scene, mode):
    """The log goes on: the copy is right."""
    made = scene(mode, keys=PATIENT)
    made.mend()
    made.pump.finish()
    log = made.start_log()
    copy = Copy(made.guest)
    copy.everything()
    load = Load(made.guest)
    for turn in range(6):
        load.wait_rounds(1)
        change(made, (made.other, made.backend)[turn % 2])
    load.wait_rounds(1)
    load.close()
    assert made.state()["logging"] == "shadow"
    made.unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()
    once(made)


def test_the_address_it_has(scene):
    """Nothing to do, or told so; a back-end that serves one connection only is not disturbed."""
    made = scene()
    try:
        assert change(made, made.backend) >= 0
    except QmpError as error:
        assert error.desc.startswith("Can't change the back-end of dev0: ")
    assert made.link() == "up"
    made.serves()
    once(made)


def test_one_after_the_other(scene):
    """Commands of several clients take turns, in no order that anybody knows."""
    made = scene(keys=PATIENT)
    made.mend()
    others = [made.third(recorder=made.recorder, features=made.features) for _ in range(5)]
    for other in others:
        other.portions = False
    commands = [made.replace(other) for other in (made.other, *others)]
    commands.append(Command(made, "x-vhost-enable-shadow-vq", name="dev0", enable=True))
    for command in commands:
        assert command.done().error is None, command.error
    made.serves()
    once(made)
    assert not any(other.violations for other in others), [other.violations for other in others]


def test_leaks_nothing(scene):
    """Descriptors and mappings after many changes."""
    made = scene("shadow", keys=PATIENT)
    made.mend()
    for turn in range(4):
        change(made, (made.other, made.backend)[turn % 2])
    fds, maps = made.svqd.fds(), made.svqd.maps()
    for turn in range(60):
        change(made, (made.other, made.backend)[turn % 2])
        made.qmp.drain().clear()
    made.svqd.wait_fds(fds)
    wait_until(lambda: made.svqd.maps() <= maps + 2, lambda: f"{made.svqd.maps()} maps, {maps}")
    made.serves()


def test_kept_for_the_next_front_end(scene):
    """The new address is where the next session goes."""
    made = scene()
    made.mend()
    change(made, made.other)
    made.pump.finish()
    sessions = made.backend.sessions
    made.anew()
    assert made.backend.sessions == sessions
    assert made.other.connection
