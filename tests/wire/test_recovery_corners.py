"""Two things at once while a back-end is away or comes back: each was once a lost request, one done
twice, or a device that waited for ever."""

import os
import time

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES, PROTOCOL
from svqwire.frontend import Refused
from svqwire.guest import Queue, make_ring
from svqwire.inflight import devices, memfd, negotiated, part_size, set_region
from svqwire.message import Id
from svqwire.mortal import TRACKING, Mortal
from svqwire.scene import DRAIN, SILENCE, Scene
from svqwire.wait import wait_until

ACKED = wire.VERSION | wire.NEED_REPLY
KEEP = {"keep-backend": "on"}
MODES = pytest.mark.parametrize("mode", ["direct", "shadow"])


def out_of_order(made):
    """The newest request of each queue is complete, those before it are not."""
    for queue in made.backend.queues[:2]:
        made.backend.run(lambda q=queue: q.complete([q.held.pop()]))


def ask_base(made):
    made.unit.vmm.post(Id.GET_VRING_BASE, wire.vring_state(0, 0), flags=ACKED)


def go_on(made, seconds):
    """Ring 0 is stopped within that time, and starts again where it was."""
    vmm, queue = made.unit.vmm, made.guest.queues[0]
    vmm.sock.settimeout(seconds)
    _, base = wire.VRING_STATE.unpack(vmm.reply(Id.GET_VRING_BASE, 8))
    queue.complete(0)
    vmm.start_queue(queue, base)
    vmm.vring_enable(queue)


# The front-end waits for a back-end to stop a ring.


def test_lost_again_by_what_follows_the_recovery(scene):
    """It comes back, and dies in the switch that was ordered while it was away."""
    made = scene("shadow", keys={"reconnect": 30})
    made.lose()
    made.qmp.command("device-set-shadow", id="dev0", shadow="auto")
    made.backend.down = 0
    made.backend.doom("before GET_VRING_BASE")
    ask_base(made)
    made.backend.run(made.backend.complete_held)
    made.backend.run(made.backend.rise)
    wait_until(lambda: made.backend.deaths == 2, "the second death")
    go_on(made, 5)
    made.serves()


@MODES
def test_dies_whenever_it_is_to_stop_a_ring(scene, mode):
    """The front-end is answered none the less."""
    made = scene(mode)
    backend, crash = made.backend, made.backend.crash

    def crash_again():
        crash()
        backend.plan = ["before GET_VRING_BASE", 0]

    backend.down, backend.crash = 0, crash_again
    backend.doom("before GET_VRING_BASE")
    ask_base(made)
    go_on(made, 2 * (SILENCE + DRAIN) + 2)
    assert 1 < backend.deaths < 200, "without a pause between attempts"
    backend.crash = crash
    made.serves()


@pytest.mark.parametrize("protocol", [TRACKING, TRACKING | wire.P_STATUS], ids=["", "status-0"])
@MODES
def test_paused_while_nobody_comes_back(scene, mode, protocol):
    """QEMU says status 0 for it, as for a reset, but hands the same region over to go on."""
    made = scene(mode, backend_options=dict(protocol=protocol))
    out_of_order(made)
    made.lose()
    bases = made.unit.vmm.stop()
    made.mend()
    made.unit.vmm.start(bases)
    made.serves()


def left_behind(made):
    """Is an operator told that a ring stopped with requests in flight?"""
    return "is left to the ring's next device" in made.state().get("last-error", "")


def test_stopped_without_a_back_end(scene):
    """The VMM has no in-flight region: what is in flight is told."""
    made = scene(theirs=False)
    made.lose()
    made.unit.vmm.stop()
    assert left_behind(made), made.state()
    made.anew()


@pytest.mark.parametrize("used", [1000, 65535], ids=["behind", "behind-and-wraps"])
def test_used_index_behind(scene, used):
    """A VMM that skips what was in flight leaves the used index behind for ever: that alone is not in
    flight, wherever the indices wrap."""
    made, skipped = scene(start=False, theirs=False), 2
    vmm, queues = made.start(), made.guest.queues
    vmm.stop()
    for ring in (queue.ring for queue in queues):
        ring.avail_idx = ring.avail[1] = (used + skipped) & 0xFFFF
        ring.last_used = ring.used[1] = used
    vmm.start([queue.ring.avail_idx for queue in queues])
    vmm.sync()
    made.lose()
    vmm.stop()
    assert not left_behind(made), made.state()
    made.anew()


def test_ring_too_large_for_what_is_kept(scene):
    """A larger ring starts while what was in flight of the others is in svqd's region: nobody can be
    given both. That is not the back-end's doing: it is refused, with the reason, and stays so."""
    made = scene(theirs=False)
    out_of_order(made)
    made.lose()
    large = Queue(2, make_ring(made.guest.memory, num=2048))
    made.closing(large)
    made.guest.own([*made.guest.all, large])
    made.unit.vmm.update_memory()
    made.unit.vmm.start_queue(large, 0)
    made.unit.vmm.vring_enable(large)
    made.mend()
    made.wait_link("refused")
    assert "a ring has grown" in made.state()["backend"]["reason"], made.state()
    made.anew()


def test_broken_ring_is_found_as_the_back_end_dies(scene):
    """The guest broke it and has not kicked: the last look at it finds out, and says so."""
    made = scene("shadow")
    made.mend()
    made.pump.finish()
    ring, healthy = made.guest.queues[0].ring, made.guest.queues[1]
    ring.set_avail_idx(ring.avail_idx + 1000)
    made.lose()
    event = made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0)
    assert event["data"]["side"] == "guest" and made.link() == "lost"
    made.mend()
    made.wait_link("up")
    healthy.io()
    assert made.svqd.queue("dev0", 0)["error"]
    made.anew()


# Disabled while the back-end is away.


@pytest.mark.parametrize("held", [0, 3], ids=["nothing-in-flight", "requests-in-flight"])
def test_disabled_takes_nothing_new(scene, held):
    """ENABLE 0 is acked: what the guest adds then waits for ENABLE 1, whoever comes back."""
    made = scene("shadow")
    if not held:
        made.mend()
        made.pump.finish()
    made.lose()
    vmm, queues = made.unit.vmm, made.guest.queues
    before = [queue.ring.avail_idx for queue in queues]
    made.pump.fill(2)
    for queue in queues:
        vmm.vring_enable(queue, 0)
    made.mend()
    made.wait_link("up")
    # Done, or in the guest's ring again, if the back-end was stopped before it took them.
    wait_until(lambda: not any(made.svqd.queue("dev0", queue.index)["in-flight"]
                               for queue in queues), "what was in flight")
    assert all(queue.ring.used_idx() <= index for queue, index in zip(queues, before))
    assert all(serial < before[queue] for queue, serial in made.recorder.takes)
    for queue in queues:
        vmm.vring_enable(queue)
    made.serves()


@pytest.mark.parametrize("theirs", [True, False], ids=["vmm-s-region", "svqd-s-region"])
def test_disabled_in_pass_through(scene, theirs):
    """Nobody came back in time, so ENABLE 0 was acked; with ENABLE 1 what was in flight is done."""
    made = scene("direct", theirs=theirs)
    out_of_order(made)
    made.lose()
    for queue in made.guest.queues:
        made.unit.vmm.vring_enable(queue, 0)
    made.mend()
    made.wait_link("up")
    for queue in made.guest.queues:
        made.unit.vmm.vring_enable(queue)
    made.serves()


@MODES
def test_disabled_and_stopped(scene, mode):
    """It comes back in time: what is in flight is done before ENABLE 0 is acked."""
    made = scene(mode, theirs=False)
    out_of_order(made)
    made.lose()
    vmm, queue = made.unit.vmm, made.guest.queues[0]
    vmm.post(Id.SET_VRING_ENABLE, wire.vring_state(0, 0), flags=ACKED)
    made.mend()
    assert vmm.reply(Id.SET_VRING_ENABLE, 8) == wire.u64(0)
    assert queue.ring.used_idx() == queue.ring.avail_idx
    ask_base(made)
    go_on(made, 5)
    made.serves()


# What the one that comes back is told, and may be.


def test_owner_is_told(scene):
    """SET_FEATURES while it is away sends SET_OWNER to nobody."""
    made = scene("shadow")
    made.lose()
    made.unit.vmm.set_features(made.unit.vmm.acceptable())
    start = len(made.backend.log)
    made.mend()
    made.wait_link("up")
    assert "SET_OWNER" in made.backend.names(start)
    made.serves()


class Legacy(Mortal):
    """Remembers which rings are said to be big endian. (None is, here.)"""

    def _reset_session(self):
        super()._reset_session()
        self.endian = {}

    def on_set_vring_endian(self, message):
        index, big = wire.VRING_STATE.unpack(message.payload)
        self.endian[index] = big


@pytest.mark.parametrize("when", ["before", "while-lost"])
def test_endian_is_told(folder, closing, when):
    made = closing(Scene(folder, closing, backend=Legacy,
                         backend_options=dict(protocol=TRACKING | wire.P_CROSS_ENDIAN)))
    vmm, payload = made.start(), wire.vring_state(0, 1)
    made.pump.rounds(2)
    made.pump.finish()
    if when == "before":
        vmm.tell(Id.SET_VRING_ENDIAN, payload)
    made.lose()
    if when != "before":
        vmm.tell(Id.SET_VRING_ENDIAN, payload)
    made.mend()
    made.wait_link("up")
    assert made.backend.endian == {0: 1}
    made.serves()


def test_shadow_off_while_lost(scene):
    """What is in flight goes through the relay none the less."""
    made = scene("shadow")
    made.lose()
    made.qmp.command("device-set-shadow", id="dev0", shadow="off")
    made.mend()
    made.wait_link("up")
    made.svqd.wait_mode("dev0", "pass-through")
    made.serves()


def test_no_region_and_no_relay(scene):
    """With shadow=off only a back-end that keeps a region can do again what one lists."""
    made = scene("direct", shadow="off", theirs=False)
    out_of_order(made)
    made.backend.protocol &= ~wire.P_INFLIGHT
    made.backend.down, made.backend.hold = 0, False
    made.backend.kill()
    event = made.qmp.wait_event("DEVICE_BACKEND_REFUSED", id="dev0")
    assert "keeps no in-flight region" in event["data"]["reason"]
    made.backend.protocol |= wire.P_INFLIGHT
    made.serves()


def test_without_protocol_features(folder, closing):
    """What its predecessor had says nothing of it."""
    made = closing(Scene(folder, closing))
    vmm = made.unit.dial()
    vmm.connect()
    acceptable = vmm.acceptable
    vmm.acceptable = lambda: acceptable() & ~wire.F_PROTOCOL
    vmm.set_features(vmm.acceptable())
    made.backend.features &= ~wire.F_PROTOCOL
    made.backend.down = 0
    made.backend.kill()
    event = made.qmp.wait_event("DEVICE_BACKEND_REFUSED", id="dev0")
    assert "protocol features" in event["data"]["reason"]
    made.mend()
    vmm.acceptable = acceptable
    vmm.start()
    made.serves()


def test_configuration_that_nobody_has_read(folder, closing):
    """It is not made up: the answer waits for the back-end."""
    made = closing(Scene(folder, closing))
    vmm = made.unit.dial()
    vmm.connect(config=False)
    made.backend.down = None
    made.backend.kill()
    made.wait_link("lost")
    vmm.post(Id.GET_CONFIG, wire.config(8, 8, 0), flags=ACKED)
    made.mend()
    body = vmm.reply(Id.GET_CONFIG, wire.CONFIG.size + 8)
    assert body[wire.CONFIG.size :] == made.config[8:16]
    vmm.start()
    made.serves()


# Another one, by command.


def test_the_new_one_dies_with_requests_of_its_own(scene):
    """It has completed some out of order and keeps no region: nobody knows what is left, so the
    front-end is let go rather than served twice."""
    made = scene(theirs=False, backend_options=dict(protocol=PROTOCOL))
    made.mend()
    made.pump.finish()
    new, queue = made.third(protocol=PROTOCOL, features=made.features), made.guest.queues[1]
    new.recorder, new.portions, new.hold = made.recorder, False, True

    def die():
        ring = new.queues[1]
        ring.take()
        ring.complete([ring.held.pop()])
        new._drop()

    made.backend.fault("call", Id.GET_VRING_BASE, skip=1,
                       call=lambda: [queue.submit_random() for _ in range(3)])
    new.fault("call", Id.SET_VRING_ENABLE, skip=1, call=die)
    assert made.replace(new).done().error is not None
    assert made.unit.vmm.closed_by_peer()
    assert "cannot go back" in made.state()["last-error"]
    made.anew()


def test_patience_with_the_new_one(scene):
    """The one that is lost is tried for 2 s at most; that is not how long the new one may take."""
    made = scene("shadow", keys={"message-timeout": 4})
    made.lose()
    made.backend.fault("silent", Id.GET_FEATURES)
    made.backend.down = 0
    made.backend.run(made.backend.rise)
    made.backend.wait_for(Id.GET_FEATURES, 2)
    assert made.replace(made.other).done().error is None
    made.mend()
    made.pump.finish()
    made.other.fault("call", Id.GET_VRING_BASE, call=lambda: time.sleep(3.2))
    made.svqd.shadow("dev0", False)
    assert made.state()["backend"]["outages"] == 1
    made.serves()


def test_features_that_the_new_one_lacks(scene):
    """They were offered before it came, and not in use. A driver that acks them now is refused."""
    extra = wire.bit(5)
    made = scene(backend_options=dict(features=FEATURES | extra))
    vmm, guest = made.unit.vmm, made.guest
    made.mend()
    made.pump.finish()
    vmm.stop()
    acceptable = vmm.acceptable
    vmm.acceptable = lambda: acceptable() & ~extra
    vmm.start([queue.ring.used_idx() for queue in guest.queues])
    made.other.features = made.features = made.features & ~extra
    assert made.replace(made.other).done().error is None
    made.pump.rounds(2)
    made.pump.finish()
    bases = vmm.stop()
    with pytest.raises(Refused):
        vmm.set_features(acceptable())
    vmm.start(bases)
    made.serves()


# Regions.


def test_a_region_that_contradicts_itself(bench):
    """That queue stops; the back-end has nothing to do with it."""
    made = devices(bench, own=True, num=64, shadow="on")
    vmm, size = negotiated(made), part_size(False, 64)
    fd = memfd(2 * size)
    os.pwrite(fd, wire.u64(1 | 64 << 16), 8)  # version, entries
    os.pwrite(fd, b"\x07", 16)  # neither in flight nor not
    set_region(vmm, fd, 2 * size, 0, 2, 64)
    os.close(fd)
    with pytest.raises(Refused):
        vmm.start()
    event = made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0)
    assert "region" in event["data"]["reason"]
    state = made.svqd.device("dev0")["backend"]
    assert (state["link"], state["outages"]) == ("up", 0)
    made.unit.hang_up()
    made.fresh()


def test_enabled_before_it_starts_and_larger(bench):
    """All rings get a new region, and are started with it: this one once."""
    made = devices(bench, protocol=TRACKING, own=True, num=64)
    vmm, backend, guest = made.unit.vmm, made.unit.backend, made.unit.guest
    first, second = guest.queues
    second.ring = make_ring(guest.memory, **{**guest.options, "num": 2048})
    vmm.set_features(vmm.acceptable())
    vmm.update_memory()
    for queue in guest.queues:
        vmm.vring_enable(queue)
    vmm.start_queue(first, 0)
    vmm.vring_call(first)
    first.io(8)
    start = len(backend.log)
    vmm.start_queue(second, 0)
    kicked = [message.payload[0] for message in backend.log[start:]
              if message.id == Id.SET_VRING_KICK]
    assert kicked == [0, 1]
    vmm.vring_call(second)
    made.unit.io(8)


# Kept when the front-end leaves.


def left(made):
    made.unit.hang_up()
    made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    return made.state()["backend"]["connected"]


def deleted(made):
    made.qmp.command("device-del", id="dev0")
    made.backend.wait_disconnected()
    made.made.idle_fds += 100  # one device fewer, and its socket


def test_kept_with_shadow_off(folder, closing):
    made = closing(Scene(folder, closing, shadow="off", keys=KEEP))
    made.start()
    made.pump.rounds(2)
    made.pump.finish()
    assert left(made)
    made.anew()
    assert made.backend.sessions == 1
    deleted(made)


@MODES
def test_not_kept_with_requests(folder, closing, mode):
    """What it has not completed it would complete among the requests of the next session."""
    made = closing(Scene(folder, closing, keys=KEEP))
    made.serve(shadow=mode == "shadow")
    made.backend.drain = "asked"
    assert not left(made)
    assert made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
    made.anew()
    assert made.backend.sessions == 2
    deleted(made)
