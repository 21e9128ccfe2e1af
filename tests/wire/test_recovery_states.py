"""One test for each state of a device and each event that may come in it; names as in the table of
docs/architecture.md.

A state is entered with requests in flight where there can be any. An event's function says what has
to follow, and returns how the story ends:

    SERVES  the session goes on: what was in flight is done, once towards the guest, and more is
    ANEW    the guest's driver starts over in this or in a new session
    ENDED   the front-end was let go
    GONE    there is no such device any more
"""

import collections
import contextlib
import re
import threading
import time

import pytest
from svqwire import message as wire
from svqwire.daemon import REPOSITORY
from svqwire.frontend import Refused
from svqwire.memory import MIB
from svqwire.message import Id
from svqwire.qmp import QmpError
from svqwire.scene import SILENCE, Command, Scene
from svqwire.wait import wait_until

SERVES, ANEW, ENDED, GONE = "serves", "anew", "ended", "gone"
AWAY = ("lost", "refused")
RUNNING = ("direct", "shadow")
BUSY = ("switching", "replacing")
NO_SESSION = ("idle", "connecting")


def awaited(scene):
    """A front-end is there, and no back-end yet."""
    scene.backend.run(scene.backend.leave)
    scene.unit.dial().post(Id.GET_FEATURES)
    wait_until(lambda: scene.state()["frontend"]["connected"], "the front-end")


STATES = {
    "idle": lambda scene: None,
    "connecting": awaited,
    "direct": lambda scene: scene.serve(),
    "shadow": lambda scene: scene.serve(shadow=True),
    "switching": lambda scene: (scene.serve(), scene.in_switch()),
    "lost": lambda scene: (scene.serve(shadow=True), scene.lose()),
    "refused": lambda scene: (scene.serve(shadow=True), scene.refuse()),
    "replacing": lambda scene: (scene.serve(), scene.in_replacement()),
}


def finish_connecting(scene):
    """The front-end's first request is answered once there is a back-end."""
    scene.mend()
    vmm = scene.unit.vmm
    assert wire.U64.unpack(vmm.reply(Id.GET_FEATURES, 8))[0]
    vmm.connect()
    vmm.start()
    return SERVES


def refused(command):
    assert isinstance(command.done().error, QmpError), command.answer
    return command.error.desc


def asked(scene, id, payload):
    """A request that may have to wait: sent now, the reply is read when all is well again."""
    scene.unit.vmm.post(id, payload, flags=wire.VERSION | wire.NEED_REPLY)


@contextlib.contextmanager
def meanwhile(scene, state):
    """What is asked in here comes when the device is busy, and is answered when it no longer is."""
    timer = threading.Timer(0.05, scene.mend)
    if state in BUSY:
        timer.start()
    yield
    if state in BUSY:
        timer.join()


def given_up(scene):
    """The command that was at work fails; the one that served before serves again, as it did."""
    refused(scene.command)
    scene.wait_link("up")
    scene.svqd.wait_mode("dev0", "pass-through")  # relays that had been made come first
    assert scene.state()["backend"]["address"] == f"vhost-user:{scene.backend.path}"


# ---- The back-end.


def back_end_closes(scene, state):
    if state == "connecting":
        scene.backend.doom("before GET_FEATURES")
        scene.backend.run(scene.backend.rise)
        wait_until(lambda: scene.backend.deaths, "the first attempt")
        return finish_connecting(scene)
    if state in AWAY:  # it comes, and goes in the middle of the conversation
        before = scene.backend.deaths
        scene.backend.doom("before SET_FEATURES" if state == "lost" else "after GET_FEATURES")
        scene.backend.run(lambda: setattr(scene.backend, "down", 0))
        scene.backend.run(scene.backend.rise)
        wait_until(lambda: scene.backend.deaths > before, "an attempt")
        return SERVES
    scene.backend.down = 0
    scene.backend.hold = False
    scene.backend.kill()
    if state in RUNNING:
        event = scene.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
        assert event["data"]["recovering"] is True
        event = scene.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
        assert event["data"]["resubmitted"] == 6 or state == "direct"
        assert event["data"]["attempts"] >= 1
    else:
        given_up(scene)
    return SERVES


def back_end_breaks_the_protocol(scene, state):
    if state == "connecting":
        scene.backend.fault("alter", Id.GET_FEATURES, alter=short)
        scene.backend.run(scene.backend.rise)
        scene.backend.wait_for(Id.GET_FEATURES)
        return ended_or_found(scene)
    if state in AWAY:
        scene.backend.fault("alter", Id.GET_FEATURES, alter=short)
        scene.backend.run(lambda: setattr(scene.backend, "down", 0))
        scene.backend.run(scene.backend.rise)
        wait_until(lambda: scene.backend.faults[0].fired, "an attempt")
        return SERVES
    scene.garbage()
    if state in RUNNING:
        scene.backend.run(lambda: setattr(scene.backend, "hold", False))
        scene.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    else:
        scene.mend()
        given_up(scene)
    return SERVES


def short(reply):
    reply.payload = reply.payload[:4]
    return reply


def ended_or_found(scene):
    """svqd may try another time, or give up."""
    scene.mend()
    try:
        return finish_connecting(scene)
    except (wire.Closed, BrokenPipeError, ConnectionResetError):
        return ANEW


def back_end_is_silent(scene, state):
    backend = scene.backend
    if state == "connecting":
        backend.fault("silent", Id.GET_FEATURES)
        backend.run(backend.rise)
        backend.wait_for(Id.GET_FEATURES)
        wait_until(lambda: not backend.connection, "the end of its patience", 4 * SILENCE)
        return ended_or_found(scene)
    if state in AWAY:
        backend.fault("silent", Id.GET_FEATURES)
        backend.run(backend.rise)
        sessions = backend.sessions
        wait_until(lambda: backend.sessions > sessions + 1, "another attempt", 4 * SILENCE)
        return SERVES
    if state in BUSY:
        who = scene.other if state == "replacing" else backend
        who.fault("silent", Id.SET_VRING_ENABLE)
        backend.run(backend.finish_stopped)
        backend.run(backend.complete_held)
        given_up(scene)
        assert scene.state()["backend"]["outages"] == (state == "switching")
        return SERVES
    scene.backend.fault("silent", Id.GET_VRING_BASE)
    asked(scene, Id.GET_VRING_BASE, wire.vring_state(0, 0))
    event = scene.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0", seconds=4 * SILENCE)
    assert event["data"]["recovering"] is True
    return after_stop(scene)


def it_returns_and_fits(scene, state):
    scene.mend()
    data = scene.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]
    assert data["resubmitted"] == 6 and data["attempts"] >= 1 and data["microseconds"] > 0
    return SERVES


def it_returns_and_does_not_fit(scene, state):
    backend = scene.backend
    if state == "refused":
        sessions = backend.sessions
        wait_until(lambda: backend.sessions > sessions + 1, "it is tried again")
    else:
        backend.features &= ~wire.bit(6)
        backend.run(backend.rise)
    event = scene.qmp.wait_event("DEVICE_BACKEND_REFUSED", id="dev0")
    assert event["data"]["reason"]
    scene.wait_link("refused")
    assert scene.state()["backend"]["reason"] == event["data"]["reason"]
    assert scene.state()["frontend"]["connected"]
    return SERVES


# ---- The front-end.


def front_end_leaves(scene, state):
    scene.unit.hang_up()
    if state in BUSY:
        scene.command.join(0.1)
        scene.mend()
        scene.command.done()
    scene.mend()
    wait_until(lambda: not scene.state()["frontend"]["connected"], "the end of the session")
    wait_until(lambda: not scene.backend.connection and not scene.other.connection, "the links")
    scene.wait_link("none")
    scene.svqd.wait_fds(scene.made.idle_fds)
    return ANEW


def after_stop(scene, ids=(Id.GET_VRING_BASE,)):
    """Ring 0 was asked to stop; it is started again where it stopped."""
    vmm, queue = scene.unit.vmm, scene.guest.queues[0]
    scene.mend()
    vmm.sock.settimeout(5)
    if Id.GET_VRING_BASE in ids:
        index, base = wire.VRING_STATE.unpack(vmm.reply(Id.GET_VRING_BASE, 8))
        assert index == 0
        queue.complete(0)
        ahead = len(queue.ring.outstanding)
        assert (base + ahead - queue.ring.base()) & 0xFFFF == 0, "requests were skipped or dropped"
        vmm.start_queue(queue, base)
    else:
        assert vmm.reply(Id.SET_VRING_ENABLE, 8) == wire.u64(0)
    vmm.vring_enable(queue)
    return SERVES


def front_end_stops_a_ring(scene, state):
    asked(scene, Id.GET_VRING_BASE, wire.vring_state(0, 0))
    return after_stop(scene)


def front_end_stops_a_ring_for_good(scene, state):
    """Nobody comes back in time: the answer is what is known, and what was in flight is in the ring
    for whoever starts it."""
    if state == "refused":
        scene.backend.down = None
        scene.backend.kill()
    started = time.monotonic()
    asked(scene, Id.GET_VRING_BASE, wire.vring_state(0, 0))
    body = scene.unit.vmm.reply(Id.GET_VRING_BASE, 8)
    assert time.monotonic() - started < 3 * SILENCE
    queue = scene.guest.queues[0]
    assert wire.VRING_STATE.unpack(body) == (0, queue.ring.base() - len(queue.ring.outstanding))
    scene.unit.vmm.start_queue(queue, wire.VRING_STATE.unpack(body)[1])
    scene.unit.vmm.vring_enable(queue)
    return SERVES


def disable(scene, state):
    asked(scene, Id.SET_VRING_ENABLE, wire.vring_state(0, 0))
    return after_stop(scene, [Id.SET_VRING_ENABLE])


def reset(scene, state):
    """RESET_DEVICE: what was in flight is forgotten."""
    vmm = scene.unit.vmm
    asked(scene, Id.RESET_DEVICE, b"")
    scene.mend()
    assert vmm.reply(Id.RESET_DEVICE, 8) == wire.u64(0)
    if scene.command:
        scene.command.done()
    taken = set(scene.recorder.takes)
    scene.guest.restart()
    vmm.start()
    vmm.sync()
    scene.wait_link("up")
    for queue in scene.guest.queues:
        queue.recorder = None
    again = [name for name, count in scene.recorder.takes.items() if count > 1 and name in taken]
    assert state not in AWAY or not again, "done again after the reset"
    scene.backend.recorder = scene.other.recorder = None
    scene.unit.io()
    return ANEW


def memory_table(scene, state):
    """New memory, which later requests use."""
    region = scene.guest.memory.add(1 << 34, MIB, 0x7C0000000000)
    with meanwhile(scene, state):
        scene.unit.vmm.update_memory()
    for queue in scene.guest.queues:
        for pool in queue.ring.buffers.values():
            pool.region = scene.guest.memory.regions.index(region)
            pool.free = collections.defaultdict(list)
    return SERVES


def logging_starts(scene, state):
    with meanwhile(scene, state):
        log = scene.start_log()
    scene.mend()
    scene.wait_link("up")
    scene.pump.rounds(2)
    scene.pump.finish()
    assert scene.state()["logging"] == "shadow" and log.pages()
    assert log.intact()
    return SERVES


def logging_stops(scene, state):
    """Before the state was entered it was on, and the back-end logged."""
    assert scene.state()["logging"] == "backend"
    with meanwhile(scene, state):
        scene.stop_log()
    assert scene.state()["logging"] == "off"
    scene.mend()
    scene.wait_link("up")
    serving = scene.other if state == "replacing" else scene.backend
    wait_until(lambda: serving.acked and not serving.acked & wire.F_LOG_ALL,
               "a back-end that is told to log no more")
    return SERVES


def new_ring_starts(scene, state):
    vmm, spare = scene.unit.vmm, scene.spare
    with meanwhile(scene, state):
        vmm.start_queue(spare, spare.ring.start_base)
        vmm.vring_enable(spare)
    for _ in range(3):
        spare.submit_random()
    scene.guest.queues.append(spare)
    return SERVES


# ---- The operator.


def shadow_by_command(scene, state):
    why = {"idle": "not started", "connecting": "not started", "lost": "Back-end is not connected",
           "refused": "Back-end is not connected"}
    enable = state not in ("shadow", "switching")
    if state in why:
        assert why[state] in scene.svqd.refused("dev0", enable).desc
        scene.qmp.command("device-set-shadow", id="dev0", shadow="on")
        assert scene.state()["shadow"] == "on"
    elif state in RUNNING:
        scene.backend.run(lambda: setattr(scene.backend, "hold", False))
        scene.svqd.shadow("dev0", enable)
    else:  # it waits for the command that is at work
        command = Command(scene, "x-vhost-enable-shadow-vq", name="dev0", enable=enable)
        command.join(0.05)
        assert command.is_alive() and scene.command.is_alive()
        scene.mend()
        assert scene.command.done().error is None and command.done().error is None
        assert scene.state()["mode"] == ("shadow" if enable else "pass-through")
    if state == "connecting":
        finish_connecting(scene)
    return ANEW if state == "idle" else SERVES


def set_backend_fits(scene, state):
    new = scene.backend if state == "replacing" else scene.other
    command = scene.replace(new)
    if state not in (*AWAY, *NO_SESSION):
        command.join(0.05)
        scene.backend.run(scene.backend.finish_stopped)
        scene.backend.run(scene.backend.complete_held)
    if state in BUSY:
        assert scene.command.done().error is None, "the one that was at work"
    command.done(5)
    assert command.answer is not None, command.error
    assert command.answer["pause-microseconds"] >= 0
    assert scene.state()["backend"]["address"] == f"vhost-user:{new.path}"
    if state in AWAY:
        scene.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    if state == "connecting":
        finish_connecting(scene)
    return ANEW if state == "idle" else SERVES


def not_changed(scene, state, command):
    if state in BUSY:
        scene.mend()
    text = refused(command)
    assert text.startswith("Can't change the back-end of dev0: "), text
    if state != "replacing":
        assert scene.state()["backend"]["address"] == f"vhost-user:{scene.backend.path}"
    if state in AWAY:
        assert scene.link() in AWAY
    if state == "connecting":
        return ended_or_found(scene)  # it took as long as a front-end waits
    return ANEW if state == "idle" else SERVES


def set_backend_does_not_fit(scene, state):
    third = scene.third(features=scene.features & ~wire.bit(6))
    return not_changed(scene, state, scene.replace(third))


def set_backend_unreachable(scene, state):
    return not_changed(scene, state, scene.replace("vhost-user:/nobody/there"))


def device_del(scene, state):
    command = scene.deletion()
    if state in BUSY:
        command.join(0.1)
        scene.mend()
        scene.command.done()
    command.done()
    assert command.error is None, command.error
    assert not scene.qmp.command("query-devices")
    if state != "idle":
        assert scene.unit.vmm.closed_by_peer()
    wait_until(lambda: not scene.backend.connection and not scene.other.connection, "the links")
    return GONE


def drain_timeout(scene, state):
    """The one that serves goes on, with what it has in flight."""
    if state in RUNNING:
        scene.backend.drain = "asked"
        assert "see monitor" in scene.svqd.refused("dev0", state == "direct").desc
        mode = "shadow" if state == "shadow" else "pass-through"
    else:
        refused(scene.command)
        mode = "pass-through"
    assert scene.state()["mode"] == mode
    assert scene.state()["backend"]["address"] == f"vhost-user:{scene.backend.path}"
    return SERVES


def guest_breaks_its_ring(scene, state):
    """That queue stops, when svqd gets to see it; the others go on."""
    victim = scene.guest.queues.pop(0)
    ring = victim.ring
    ring.set_avail_idx(ring.avail_idx + 1000)
    ring.avail_idx = ring.avail[1]
    victim.flush(force=True)
    scene.mend()
    if scene.command:
        scene.command.done()
    healthy = scene.guest.queues[0]
    if state in ("direct", "replacing"):
        scene.made.judged = False  # the back-end reads that ring itself, and may not survive it
        scene.other.violations = []
        assert scene.qmp.command("query-devices")
    else:
        event = scene.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0)
        assert event["data"]["side"] == "guest"
        assert victim.err.wait(5)
        healthy.drain()
        healthy.io()
    scene.guest.queues.insert(0, victim)
    return ANEW


# event: (function, states in which it can come)
ALL = tuple(STATES)
SESSION = (*RUNNING, "switching", *AWAY, "replacing")
EVENTS = {
    "back-end closes": (back_end_closes, ALL[1:]),
    "back-end breaks the protocol": (back_end_breaks_the_protocol, ALL[1:]),
    "back-end silent": (back_end_is_silent, ALL[1:]),
    "back-end returns and fits": (it_returns_and_fits, AWAY),
    "back-end returns, does not fit": (it_returns_and_does_not_fit, AWAY),
    "front-end leaves": (front_end_leaves, ALL[1:]),
    "front-end stops a ring": (front_end_stops_a_ring, SESSION),
    "a ring stops, nobody returns": (front_end_stops_a_ring_for_good, AWAY),
    "disable": (disable, SESSION),
    "reset": (reset, SESSION),
    "memory table": (memory_table, SESSION),
    "logging starts": (logging_starts, SESSION),
    "logging stops": (logging_stops, SESSION),
    "new ring starts": (new_ring_starts, SESSION),
    "shadow by command": (shadow_by_command, ALL),
    "device-set-backend fits": (set_backend_fits, ALL),
    "device-set-backend does not fit": (set_backend_does_not_fit, SESSION),
    "device-set-backend unreachable": (set_backend_unreachable, ALL),
    "device-del": (device_del, ALL),
    "drain-timeout": (drain_timeout, (*RUNNING, *BUSY)),
    "guest breaks its ring": (guest_breaks_its_ring, SESSION),
}
LOGGED = dict(logged=True, keys={"dirty-log": "backend"}, backend_options={"logs": True})
PAIRS = [(state, event) for event, (_, states) in EVENTS.items() for state in states]


@pytest.mark.parametrize("state, event", PAIRS, ids=lambda word: word.replace(" ", "-"))
def test_pair(folder, closing, state, event):
    options = LOGGED if event == "logging stops" else {}
    scene = closing(Scene(folder, closing, **options))
    STATES[state](scene)
    end = EVENTS[event][0](scene, state)
    if end == SERVES:
        scene.serves()
    elif end == ENDED:
        scene.ended()
    elif end == ANEW:
        scene.anew()
    else:
        scene.made.idle_fds += 100  # one device fewer, and its socket


def test_every_pair_has_a_test():
    """The table in docs/architecture.md: what cannot come is a dash there, all else is here."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    table = re.search(r"^\| event \| idle .*?\n\n", text, re.M | re.S)[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")]
                      for line in table.strip().splitlines()]
    written = {(state, re.sub(r" \(.*\)", "", row[0])) for row in rows
               for state, cell in zip(head[1:], row[1:], strict=True) if cell != "-"}
    assert sorted(head[1:]) == sorted(STATES)
    assert written == set(PAIRS)


def test_refusals_while_lost(folder, closing):
    """Typed requests that only a back-end can answer are refused, those that svqd can are not."""
    scene = closing(Scene(folder, closing))
    scene.serve(shadow=True)
    config = scene.unit.vmm.get_config(0, 60)
    scene.lose()
    vmm = scene.unit.vmm
    assert vmm.ask_u64(Id.GET_FEATURES) == vmm.offered
    assert vmm.ask_u64(Id.GET_PROTOCOL_FEATURES) == vmm.offered_protocol
    assert vmm.ask_u64(Id.GET_QUEUE_NUM) == 4
    assert vmm.ask_u64(Id.GET_MAX_MEM_SLOTS) > 0
    assert vmm.get_config(0, 60) == config
    assert vmm.ask_u64(Id.CHECK_DEVICE_STATE) & 0xFF, "an error code"
    with pytest.raises(Refused):
        vmm.tell(Id.SEND_RARP, wire.u64(0))
    vmm.quiet()
    scene.serves()
