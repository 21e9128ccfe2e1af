"""What comes back must fit, or it waits; and back-ends that are kept when the front-end leaves."""

import os

import pytest
from svqwire import message as wire
from svqwire.message import Id
from svqwire.mortal import TRACKING
from svqwire.qemu import DRIVER_OK
from svqwire.scene import Scene
from svqwire.wait import wait_until

KEEP = {"keep-backend": "on"}


def smaller(backend):
    backend.config[8:16] = bytes(8)


SPOIL = {
    "features": lambda b: setattr(b, "features", b.features & ~wire.bit(6)),
    "ring-features": lambda b: setattr(b, "features", b.features & ~wire.F_EVENT_IDX),
    "protocol-features": lambda b: setattr(b, "protocol", b.protocol & ~wire.P_CONFIG),
    "queues": lambda b: setattr(b, "queue_num", 1),
    "config": smaller,
}
WORDS = {"queues": "1 queues", "config": "configuration"}


@pytest.mark.parametrize("mode", ["direct", "shadow"])
@pytest.mark.parametrize("what", SPOIL)
def test_comes_back_smaller(scene, what, mode):
    """Refused, with the reason, for as long as it is so; the front-end waits, and is served by the
    next one that fits."""
    made = scene(mode)
    made.unit.vmm.get_config(0, 60)
    backend, protocol = made.backend, made.backend.protocol
    backend.run(lambda: SPOIL[what](backend))
    backend.down, backend.hold = 0, False
    backend.kill()
    event = made.qmp.wait_event("DEVICE_BACKEND_REFUSED", id="dev0")
    assert WORDS.get(what, "features") in event["data"]["reason"], event
    assert made.qmp.wait_event("DEVICE_ERROR", id="dev0")
    made.wait_link("refused")
    assert made.state()["backend"]["reason"] == event["data"]["reason"]
    assert backend.held() == 0 and not any(queue.ring for queue in backend.queues)
    backend.protocol = protocol
    made.mend()
    data = made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]
    assert data["resubmitted"] == (6 if mode == "shadow" else 0)
    made.serves()
    assert made.recorder.again() == 6


@pytest.mark.parametrize("mode", ["direct", "shadow"])
def test_comes_back_with_more(scene, mode):
    """What is not in use may change."""
    made = scene(mode)
    backend = made.backend
    backend.features |= wire.bit(13) | wire.F_IN_ORDER
    backend.protocol |= wire.P_STATUS
    backend.queue_num = 8
    backend.down, backend.hold = 0, False
    backend.kill()
    made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    made.features = backend.features
    made.serves()
    assert made.recorder.again() == 6


def test_comes_back_without_a_region(scene):
    """It kept one, and its successor keeps none: a relay does again what is listed there."""
    made = scene("direct")
    made.backend.protocol &= ~wire.P_INFLIGHT
    made.backend.down, made.backend.hold = 0, False
    made.backend.kill()
    data = made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]
    assert data["attempts"] >= 1
    made.serves()
    assert made.recorder.again() == 6 and not made.recorder.violations


def test_what_the_dead_one_completed(scene):
    """It was published in the shadow ring and not called for: the guest has it now, not when
    somebody comes back."""
    made = scene("shadow")
    made.backend.down, made.backend.hold = None, False
    made.backend.doom("published")
    queue = made.guest.queues[0]
    queue.submit_random()
    made.wait_link("lost")
    assert made.recorder.used
    for queue in made.guest.queues:
        of_it = {name for name in made.recorder.used if name[0] == queue.index}
        queue.complete(len(of_it - made.recorder.seen))
    assert made.link() == "lost"
    assert made.recorder.used <= made.recorder.seen
    made.serves()


def scribble(backend):
    for queue in backend.queues:
        if queue.ring:
            for index in range(len(queue.ring.used)):
                queue.ring.used[index] = 0x1111 * (index % 15)
            os.eventfd_write(queue.call, 1)


def test_the_undead(scene):
    """It was believed dead, hears nothing, and goes on: in rings that nobody reads any more, and
    with kicks and calls that are nobody else's. (What it writes into buffers nobody can help.)"""
    made = scene("shadow")
    old = made.backend
    old.run(lambda: old.unwatch(old.connection.fileno()))
    made.svqd.refused("dev0", False)
    made.wait_link("lost")
    assert made.replace(made.other).done().error is None
    made.pump.rounds(20)
    old.run(lambda: scribble(old))
    made.pump.rounds(20)
    made.pump.finish()
    assert made.recorder.again() == 6
    assert not [e for e in made.qmp.drain() if e["event"] == "QUEUE_ERROR"]
    old.disconnect()


# What it is told.


def known(backend):
    """All that a back-end is told, less where its rings are and who is to be called."""
    return backend.run(lambda: {
        "features": backend.acked, "protocol": backend.acked_protocol, "mtu": backend.mtu,
        "status": backend.status, "config": bytes(backend.config[32:36]),
        "memory": sorted(region[:3] for region in backend.memory.regions),
        "channel": backend.requests is not None, "log": backend.dirty_log is not None,
        "region": backend.inflight is not None,
        "rings": [(queue.num, queue.enabled, queue.flags) for queue in backend.queues],
    })


@pytest.mark.parametrize("way", ["crash", "replacement"])
@pytest.mark.parametrize("mode", ["direct", "shadow"])
def test_is_told_everything(folder, closing, mode, way):
    """The newcomer knows what its predecessor knew, and reaches the front-end as that did."""
    made = closing(Scene(folder, closing, logged=True, keys={"dirty-log": "backend"},
                         backend_options=dict(logs=True, protocol=TRACKING | wire.P_STATUS)))
    made.start()
    vmm, backend = made.unit.vmm, made.backend
    vmm.tell(Id.NET_SET_MTU, wire.u64(1400))
    vmm.set_config(32, b"\1\2\3\4")
    made.other.config[32:36] = b"\1\2\3\4"
    if mode == "shadow":
        made.svqd.shadow("dev0", True)
    made.pump.rounds(2)
    made.pump.finish()
    before, start = known(backend), len(backend.log)
    assert before["mtu"] == 1400 and before["status"] and before["channel"] and before["log"]
    if way == "crash":
        backend.config[32:36] = bytes(4)
        backend.kill()
        made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    else:
        made.other.config[32:36] = bytes(4)
        backend, start = made.other, 0
        assert made.replace(backend).done().error is None
    assert known(backend) == before
    names = [message.name for message in backend.log[start:]]
    statuses = [message.u64() for message in backend.log[start:] if message.id == Id.SET_STATUS]
    assert statuses == [before["status"] & ~DRIVER_OK, before["status"]]
    assert names.index("SET_STATUS") < names.index("SET_VRING_KICK"), "before any ring starts"
    vmm.channel.settimeout(5)
    backend.run(lambda: wire.Message(wire.BackendId.CONFIG_CHANGE, wire.VERSION).send(
        backend.requests))
    assert wire.receive(vmm.channel).id == wire.BackendId.CONFIG_CHANGE
    made.pump.rounds(2)
    made.pump.finish()


# Kept when the front-end leaves.


ENTER = {
    "direct": lambda made: None,
    "shadow": lambda made: made.svqd.shadow("dev0", True),
    "lost": lambda made: made.lose(),
    "refused": lambda made: made.refuse(),
    "switching": lambda made: made.in_switch(),
    "replacing": lambda made: made.in_replacement(),
}


def gone(made, serving):
    """The device goes, and with it the connection that is kept."""
    made.qmp.command("device-del", id="dev0")
    serving.wait_disconnected()
    made.made.idle_fds += 100  # one device fewer, and its socket


@pytest.mark.parametrize("state", ENTER)
def test_kept(folder, closing, state):
    """The next front-end finds it, whole, on the same connection; one that was gone is connected
    anew."""
    made = closing(Scene(folder, closing, keys=KEEP))
    made.serve(shadow=state in ("lost", "refused"))
    if state == "shadow":
        made.backend.hold = False
        made.mend()
        made.pump.finish()
    ENTER[state](made)
    made.unit.hang_up()
    if made.command:
        made.command.join(0.1)
    made.mend()
    if made.command:
        made.command.done()
    wait_until(lambda: not made.state()["frontend"]["connected"], "the end of the session")
    serving = made.backend
    if made.state()["backend"]["address"].endswith(made.other.path):
        serving = made.other
    kept = state not in ("lost", "refused")
    assert made.state()["backend"]["connected"] is kept
    if kept:
        wait_until(lambda: not any(queue.ring for queue in serving.queues), "rings that rest")
        assert len(serving.memory.regions) <= 1, "guest memory is taken away"
    sessions = serving.sessions
    made.anew()
    assert serving.sessions == sessions + (not kept)
    gone(made, serving)


@pytest.mark.parametrize("how", ["closes", "speaks"])
def test_kept_and_lost(folder, closing, how):
    """Nobody waits for it: it is let go, and connected anew for the next front-end."""
    made = closing(Scene(folder, closing, keys=KEEP))
    made.start()
    made.pump.rounds(2)
    made.pump.finish()
    made.unit.hang_up()
    made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    assert made.state()["backend"]["connected"] is True
    made.backend.kill() if how == "closes" else made.garbage()
    made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
    assert made.state()["backend"]["connected"] is False
    assert made.link() == "none" and made.state()["backend"]["outages"] == 0
    sessions = made.backend.sessions
    made.anew()
    assert made.backend.sessions == sessions + 1
    gone(made, made.backend)


def test_kept_and_replaced(folder, closing):
    """Between two front-ends: the new one is kept instead."""
    made = closing(Scene(folder, closing, keys=KEEP))
    made.start()
    made.pump.rounds(2)
    made.pump.finish()
    made.unit.hang_up()
    made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    command = made.replace(made.other).done()
    assert command.error is None, command.error
    made.backend.wait_disconnected()
    assert made.state()["backend"]["connected"] is True
    made.anew()
    assert made.other.sessions == 1, "the connection that was kept"
    gone(made, made.other)
