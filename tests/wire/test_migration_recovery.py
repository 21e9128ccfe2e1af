"""Recovery while migrating, migration while recovering, and back-ends that crash in mid-switch."""

import pytest
from svqwire import message as wire
from svqwire.backend import PROTOCOL
from svqwire.dirtylog import DirtyLog
from svqwire.message import Id
from svqwire.migration import Copy
from svqwire.pairs import Pair
from svqwire.qmp import QmpError
from svqwire.scene import Scene
from svqwire.wait import wait_until

FORMATS = ("split-split", "packed-packed")
MODES = ("direct", "shadow")


def finish_migration(made, copy, logs):
    """The VM stops at the source: every page that was written is in a log."""
    made.pump.finish()
    made.unit.vmm.stop()
    for log in logs:
        copy.dirty(log.pages())
        assert log.intact()
    copy.finish()


@pytest.mark.parametrize("pair", FORMATS)
@pytest.mark.parametrize("mode", MODES)
def test_crashes_while_it_logs(scene, mode, pair):
    """What the dead one had written is in the log, and so is what its successor writes."""
    made = scene(mode, pair=Pair(pair))
    made.mend()
    logs = [made.start_log()]
    copy = Copy(made.guest)
    copy.everything()
    for turn, point in enumerate(("executed", "put", "published", "taken", "called", "popped") * 3):
        deaths = made.backend.deaths
        made.backend.doom(point, turn % 4)
        made.pump.until(lambda d=deaths: made.backend.deaths > d, point)
        if turn % 3 == 0:  # a round of the migration, maybe while the link is lost
            logs.append(DirtyLog.for_memory(made.guest.memory))
            made.unit.vmm.set_log_base(logs[-1])
        made.pump.rounds(1)
    made.wait_link("up")
    assert made.state()["logging"] == "shadow"
    finish_migration(made, copy, logs)


@pytest.mark.parametrize("pair", FORMATS)
def test_crashes_while_it_logs_itself(scene, pair):
    """dirty-log=backend: what the dead one had used and not logged yet is in the log, although
    nobody uses the ring again before the copy is made."""
    made = scene(pair=Pair(pair), logged=True, keys={"dirty-log": "backend"},
                 backend_options={"logs": True})
    made.mend()
    made.pump.finish()
    queue, copy = made.guest.queues[0], Copy(made.guest)
    for count in range(1, 4):
        copy.everything()
        made.log.clear()
        deaths = made.backend.deaths
        made.backend.doom("unlogged")
        for _ in range(count):
            queue.submit_random()
        wait_until(lambda d=deaths: made.backend.deaths > d, "the crash")
        made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
        made.pump.finish()
        assert made.state()["mode"] == "pass-through"
        copy.dirty(made.log.pages())
        copy.finish()
        assert made.log.intact()


@pytest.mark.parametrize("state", ["lost", "refused"])
@pytest.mark.parametrize("mode", MODES)
def test_logging_starts_while_lost(scene, mode, state):
    """The answer comes now, not when the back-end is back; nothing that its successor writes, or
    that the dead one left to be completed, escapes."""
    made = scene(mode)
    made.lose() if state == "lost" else made.refuse()
    log = made.start_log()
    assert made.link() == state, "answered only now"
    copy = Copy(made.guest)
    copy.everything()
    made.mend()
    made.wait_link("up")
    made.pump.rounds(3)
    assert (made.state()["mode"], made.state()["logging"]) == ("shadow", "shadow")
    finish_migration(made, copy, [log])


def test_completed_by_the_dead_one(scene):
    """It had published in the shadow ring what the guest was not told yet, died, and logging starts
    before it is back: the completions are logged when they are told."""
    made = scene("shadow")
    made.pump.fill(2)
    made.backend.doom("published", 3)
    made.backend.down = None
    made.backend.run(lambda: setattr(made.backend, "hold", False))
    for queue in made.guest.queues:
        queue.kick.signal()
    made.pump.fill(1)
    made.wait_link("lost")
    copy = Copy(made.guest)
    copy.everything()
    log = made.start_log()
    for gpa in copy.device_pages() & set(copy.pages):
        copy.take(gpa)  # the first round is after logging has started
    made.mend()
    made.wait_link("up")
    finish_migration(made, copy, [log])


@pytest.mark.parametrize("state", ["lost", "refused"])
def test_logging_ends_while_lost(scene, state):
    """A migration that failed: back to pass-through when the back-end is back."""
    made = scene()
    made.mend()
    made.start_log()
    made.hold()
    made.lose() if state == "lost" else made.refuse()
    made.stop_log()
    made.mend()
    made.wait_link("up")
    made.svqd.wait_mode("dev0", "pass-through")
    assert made.state()["logging"] == "off"
    made.serves()


def test_migrated_away_while_lost(scene):
    """The VM stops at the source, and the back-end never comes back: the bases tell the destination
    where to go on, and what was in flight is still in the rings."""
    made = scene("shadow")
    made.lose()
    log = made.start_log()
    copy = Copy(made.guest)
    copy.everything()
    bases = made.unit.vmm.stop()
    for queue, base in zip(made.guest.queues, bases):
        queue.complete(0)
        assert base == queue.ring.base() - len(queue.ring.outstanding)
    copy.dirty(log.pages())
    copy.finish()
    made.backend.recorder = None
    for queue in made.guest.queues:
        queue.recorder = None
    made.anew()


# Crashes in a switch.


def switch_messages(made, enable):
    """The messages of a switch to and of one back."""
    start = len(made.backend.log)
    made.svqd.shadow("dev0", enable)
    names = [message.name for message in made.backend.log[start:]]
    made.svqd.shadow("dev0", not enable)
    return names


@pytest.mark.parametrize("pair", FORMATS)
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("enable", [True, False], ids=["on", "off"])
def test_crash_in_a_switch(scene, pair, enable, side):
    """At every message: the command fails or works, and the device ends in one of the two modes
    with everything done."""
    made = scene("direct" if enable else "shadow", pair=Pair(pair))
    made.mend()
    names, failed = switch_messages(made, enable), 0
    assert names.count("GET_VRING_BASE") == len(made.guest.queues)
    for number, name in enumerate(names):
        made.hold()
        deaths = made.backend.deaths
        made.backend.run(lambda: setattr(made.backend, "hold", False))
        made.backend.doom(f"{side} {name}", names[:number].count(name))
        try:
            made.svqd.shadow("dev0", enable)
        except QmpError as error:
            assert error.error_class == "GenericError", error
            failed += 1
        wait_until(lambda d=deaths: made.backend.deaths > d, f"the crash {side} {name}")
        made.wait_link("up")
        made.pump.finish()
        made.pump.rounds(2)
        made.pump.finish()
        made.backend.plan = None
        if made.state()["mode"] == ("shadow" if enable else "pass-through"):
            made.svqd.shadow("dev0", not enable)
        made.qmp.drain().clear()
    made.serves()


@pytest.mark.parametrize("theirs", [True, False], ids=["vmm-s-region", "svqd-s-region"])
@pytest.mark.parametrize("pair", FORMATS)
@pytest.mark.parametrize("enable", [True, False], ids=["on", "off"])
def test_crash_while_a_switch_drains(scene, enable, pair, theirs):
    """The old rings are stopped, what they hold is not complete, and the back-end dies with it.
    Nobody waits for the rest of drain-timeout."""
    made = scene("direct" if enable else "shadow", pair=Pair(pair), theirs=theirs,
                 keys={"drain-timeout": 60})
    made.in_switch(enable)
    made.backend.hold = False
    made.backend.kill()
    made.command.done()
    made.wait_link("up")
    made.serves()
    assert made.recorder.again() == 6, "what was held is done again"


def test_crash_while_an_in_order_ring_drains(scene):
    """No region: it goes on at the used index, and not where it was stopped."""
    made = scene(pair=Pair("split-split"), has=wire.F_IN_ORDER, in_order=True,
                 keys={"drain-timeout": 60}, backend_options=dict(protocol=PROTOCOL))
    made.in_switch()
    made.backend.hold = False
    made.backend.kill()
    made.command.done()
    made.wait_link("up")
    made.serves()
    assert made.recorder.again() == 6, "what was held is done again"


def test_crash_while_an_unsafe_ring_drains(scene):
    """Nobody knows what was in flight: the front-end is let go."""
    made = scene(keys={"drain-timeout": 60}, backend_options=dict(protocol=PROTOCOL))
    made.in_switch()
    made.backend.kill()
    event = made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    assert "cannot recover" in event["data"]["reason"], event
    made.ended()


@pytest.fixture(params=[True, False], ids=["vmm-s-region", "svqd-s-region"])
def undrained(scene, request):
    """A ring that was stopped with requests in flight, and that goes on with them."""
    made = scene(theirs=request.param)
    made.backend.drain = "asked"
    made.svqd.refused("dev0", True)
    return made


def test_crash_after_a_switch_that_failed(undrained):
    """They are not in the back-end's region: it is not crash-safe, until they are seen to be
    complete."""
    made = undrained
    safe = made.state()["crash-safe"]
    assert safe["safe"] is False and "when it was stopped" in safe["reason"], safe
    made.backend.kill()
    event = made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    assert "cannot recover" in event["data"]["reason"], event
    made.ended()


def test_crash_when_it_has_caught_up(undrained):
    """Everything that is available is complete or in the region."""
    made = undrained
    made.backend.run(made.backend.finish_stopped)
    made.hold()
    made.backend.hold = False
    made.backend.kill()
    made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    assert made.state()["crash-safe"] == {"safe": True}
    made.serves()
    assert made.recorder.again() == 6, "what was held is done again"
    made.svqd.shadow("dev0", True)
    made.serves()


def test_unsafe_pass_through_ends(folder, closing):
    """A back-end that tracks nothing, with requests in flight: the front-end is let go, and told
    why; with nothing in flight it stays."""
    options = {"recorder": None, "protocol": PROTOCOL}
    made = closing(Scene(folder, closing, backend_options=options))
    made.start()
    for queue in made.guest.queues:
        queue.recorder = None
    made.unit.io()
    made.backend.kill()
    made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    made.unit.io()
    safe = made.state()["crash-safe"]
    assert safe["safe"] is False and safe["reason"]
    made.backend.hold = True
    made.pump.fill(1)
    wait_until(lambda: made.backend.held() == 2, "requests held")
    made.backend.kill()
    made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0", recovering=False)
    event = made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    assert "cannot recover" in event["data"]["reason"], event
    made.ended()


def test_reconnect_0(folder, closing):
    """As it was before there was a recovery, whatever could be recovered."""
    made = closing(Scene(folder, closing, shadow="on", keys={"reconnect": 0}))
    made.serve()
    made.backend.kill()
    event = made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
    assert event["data"]["recovering"] is False
    made.ended()


def test_attempts_are_spaced(folder, closing):
    """50 ms, 100 ms, 200 ms, ... and then reconnect= apart."""
    made = closing(Scene(folder, closing, shadow="on", keys={"reconnect": 0.2}))
    made.serve()
    begun, start = made.backend.begun, len(made.backend.begun)
    for _ in range(8):
        made.backend.fault("close", Id.GET_FEATURES)
    made.backend.kill()
    wait_until(lambda: len(begun) >= start + 5, "five attempts")
    times = begun[start : start + 5]
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert gaps[0] > 0.08 and all(0.17 < gap < 1.0 for gap in gaps[1:]), gaps
    assert made.state()["backend"]["attempts"] >= 5
    made.serves()


def test_configuration(scene):
    """Known while the back-end is away; what the guest wrote is written again."""
    made = scene("shadow")
    whole = made.unit.vmm.get_config(0, 60)
    made.unit.vmm.set_config(32, b"\1")
    made.config = bytes(made.backend.config)
    made.lose()
    assert made.unit.vmm.get_config(0, 60)[:32] == whole[:32]
    made.serves()
    assert made.backend.count(Id.SET_CONFIG) == 2, "config writes are replayed"
