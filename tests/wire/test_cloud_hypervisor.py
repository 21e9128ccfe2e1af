"""Cloud Hypervisor's sequences, directly and through svqd: the same result every way."""

import pytest
from svqwire import message as wire
from svqwire.backend import CONFIG, FEATURES
from svqwire.memory import MIB
from svqwire.message import Id
from svqwire.migration import Copy, follow
from svqwire.route import REFUSED
from svqwire.vmm import BLK_WRITEBACK, CloudHypervisor
from svqwire.wait import wait_until

RINGS = {
    "plain": dict(event_idx=False, indirect=False),
    "event-idx": dict(event_idx=True, indirect=False),
    "indirect": dict(event_idx=False, indirect=True),
    "both": dict(event_idx=True, indirect=True),
}
MODERN = RINGS["both"]


def connected(closing, route, guest, name=None):
    vmm = closing(CloudHypervisor(route.address(name), guest))
    assert vmm.connect() == CONFIG[:60]
    return vmm


@pytest.mark.parametrize("ring", RINGS)
def test_start_pause_resume_reset(route, guest, closing, ring):
    way, vm = route(), guest(2, **RINGS[ring])
    vmm = connected(closing, way, vm)
    vmm.start()
    vm.io(32)
    for _ in range(3):
        way.turn()
        vm.io(16)
        vmm.pause()
        way.turn()
        vmm.resume()
        vm.io(16)
    vmm.reset()
    vm.restart()
    vmm.start()
    way.turn()
    vm.io(32)
    vmm.quiet()


def test_offer(route, guest, closing):
    """What svqd adds to a back-end that has none of it, and what it never shows."""
    way = route()
    vmm = connected(closing, way, guest(2))
    if way.svqd:
        assert vmm.offered & wire.F_LOG_ALL
        assert vmm.offered_protocol & wire.P_LOG_SHMFD
        assert vmm.offered_protocol & wire.P_REPLY_ACK
    assert vmm.offered & wire.bit(6), "device features pass untouched"
    assert vmm.ask_u64(Id.GET_QUEUE_NUM) == 4
    assert vmm.protocol & wire.P_DEVICE_STATE
    vmm.quiet()


@pytest.mark.parametrize("kind", ["shadow", "flip"])
def test_pause_leaves_nothing_in_flight(route, guest, closing):
    """Cloud Hypervisor pauses with ENABLE=0 alone: what svqd relays has to be finished then."""
    way, vm = route(), guest(2, **MODERN)
    vmm = connected(closing, way, vm)
    vmm.start()
    way.turn()
    vm.io(8)
    way.backend.hold = True
    for queue in vm.queues:
        for _ in range(5):
            queue.submit([b"held" * 9], [77])
    wait_until(lambda: way.backend.held() == 10, "the back-end to hold all requests")
    way.backend.run(lambda: way.backend.later(0.1, way.backend.complete_held))
    vmm.pause()
    for queue in vm.queues:
        done = queue.ring.harvest()
        assert len(done) == 5, f"queue {queue.index}: {len(done)} of 5 finished by ENABLE=0"
        for chain in done:
            queue.check(chain)
            queue.ring.release(chain)
    vmm.resume()
    vm.io(8)


def test_memory_hot_add(route, guest, closing):
    """A region before the first SET_MEM_TABLE, which then repeats it, and one at run time."""
    way, vm = route(), guest(2, **MODERN)
    vmm = connected(closing, way, vm)
    early = vm.memory.add(1 << 33, MIB, 0x7F8000000000)
    vmm.add_mem_reg(early)
    vmm.start()
    vm.io(16)
    way.turn()
    late = vm.memory.add(1 << 34, MIB, 0x7FA000000000)
    vmm.add_mem_reg(late)
    for number, region in ((2, early), (3, late)):
        assert vm.memory.regions[number] is region
        for queue in vm.queues:
            for pool in queue.ring.buffers.values():
                pool.region, pool.free = number, {}
        vm.io(16)
    vmm.quiet()


def test_write_back_switch(route, guest, closing):
    way, vm = route(), guest(2, **MODERN)
    vmm = connected(closing, way, vm)
    vmm.start()
    way.turn()
    vmm.set_config(BLK_WRITEBACK, b"\x01", 1)
    way.backend.wait_for(Id.SET_CONFIG)
    assert way.backend.config[BLK_WRITEBACK] == 1
    assert vmm.get_config(BLK_WRITEBACK, 1, 1) == b"\x01"
    vm.io(8)


def test_dirty_rounds(route, guest, closing, kind):
    """A new log each round; after the reply nothing lands in the old one."""
    way, vm = route(logs=kind == "direct"), guest(2, **MODERN)
    vmm = connected(closing, way, vm)
    vmm.start()
    vm.io(16)
    way.turn()
    copy = Copy(vm)
    way.tolerate(REFUSED)  # the shadow that logs stays
    log = vmm.start_dirty_log()
    copy.everything()
    for _ in range(6):
        vm.io(24)
        way.turn()
        old, log = log, vmm.dirty_log()
        seen = old.pages()
        assert seen, "a round of I/O left no dirty page"
        copy.dirty(seen)
        vm.io(24)
        assert old.pages() == seen, "bits landed in the old log after the reply"
        assert old.intact()
        old.close()
    vmm.pause()
    copy.dirty(log.pages())
    copy.finish()
    assert log.intact()
    vmm.stop_dirty_log()
    vmm.resume()
    way.turn()
    vm.io(16)
    vmm.quiet()
    log.close()
    if way.kind == "pass-through":
        way.svqd.wait_mode("dev0", "pass-through")


def test_migration(route, guest, closing, kind):
    """Source and destination with device state; the VM goes on at the destination."""
    way = route(names=("src", "dst"), logs=kind == "direct")
    vm = guest(2, **MODERN)
    source = connected(closing, way, vm, "src")
    source.start()
    vm.io(16)
    copy = Copy(vm)
    way.tolerate(REFUSED)  # the shadow that logs stays
    log = source.start_dirty_log()
    copy.everything()
    for _ in range(3):
        vm.io(32)
        old, log = log, source.dirty_log()
        copy.dirty(old.pages())
        old.close()
        way.turn()
    vm.io(8)
    source.pause()
    old, log = log, source.dirty_log()
    copy.dirty(old.pages())
    bases, state = source.save_state()
    last = source.dirty_log()
    copy.dirty(log.pages() | last.pages())
    for bitmap in (old, log, last):
        bitmap.close()
    assert state == way.backends["src"].state
    assert bases == [queue.ring.base() for queue in vm.queues]
    copy.finish()
    source.close()
    moved = closing(follow(vm, copy))
    target = closing(CloudHypervisor(way.address("dst"), moved))
    target.restore(source.protocol, bases, state)
    target.resume()
    moved.io(32)
    way.turn()
    moved.io(32)
    assert way.backends["dst"].loaded == state
    target.quiet()


def test_in_order(route, guest, closing):
    """A back-end that completes whole batches with one used entry."""
    way, vm = route(features=FEATURES | wire.F_IN_ORDER), guest(2, in_order=True, **MODERN)
    vmm = connected(closing, way, vm)
    vmm.start()
    for _ in range(6):
        way.turn()
        for queue in vm.queues:
            way.backend.hold = True
            for _ in range(7):
                queue.submit_random()
            way.backend.release()
            queue.drain()
            queue.io(32, depth=8)
    vmm.reset()


def test_reconnect(route, guest, closing):
    """The back-end leaves; the VMM retries and goes on at avail.idx."""
    way, vm = route(device={"reconnect": 0}), guest(2, **MODERN)
    way.tolerate(REFUSED)  # the back-end may leave in a switch
    vmm = connected(closing, way, vm)
    vmm.start()
    for _ in range(3):
        way.turn()
        vm.io(16)
        way.backend.disconnect()
        assert vmm.closed_by_peer()
        protocol = vmm.protocol
        vmm.close()
        vmm = closing(CloudHypervisor(way.address(), vm))
        vmm.reconnect(protocol)
        vm.io(16)
    vmm.quiet()


def test_reboot(route, guest, closing):
    """A VM's reboot is a new connection and new rings."""
    way, vm = route(), guest(2, **MODERN)
    for _ in range(4):
        vmm = connected(closing, way, vm)
        vmm.start()
        way.turn()
        vm.io(8)
        vmm.close()
        way.backend.wait_disconnected()
        vm.restart()


def test_ring_order_of_a_busy_device(route, guest, closing):
    """A back-end that completes out of order, over several laps of a small ring."""
    way, vm = route(), guest(2, num=8, **MODERN)
    way.backend.order = "lifo"
    vmm = connected(closing, way, vm)
    vmm.start()
    for _ in range(6):
        way.turn()
        for queue in vm.queues:
            queue.io(40, depth=8)
    vmm.quiet()


@pytest.mark.parametrize("kind", ["direct", "pass-through", "shadow", "flip"])
def test_reconnect_with_requests_lost(route, guest, closing, monkeypatch):
    """Without an in-flight region Cloud Hypervisor goes on at avail.idx: what was in flight is
    skipped, and used.idx stays behind for ever. Everything else works on, switches included."""
    way, vm = route(device={"reconnect": 0}), guest(2, **MODERN)
    way.tolerate(REFUSED)
    monkeypatch.setattr(CloudHypervisor, "protocol_bits",
                        CloudHypervisor.protocol_bits & ~wire.P_INFLIGHT)
    vmm = connected(closing, way, vm)
    vmm.start()
    vm.io(16)
    way.backend.hold, way.backend.drain = True, "never"
    for queue in vm.queues:
        for _ in range(3):
            queue.submit([b"lost"], [16])
    wait_until(lambda: way.backend.held() == 6, "the requests to be held")
    way.backend.disconnect()
    assert vmm.closed_by_peer()
    way.backend.hold, way.backend.drain = False, "before"
    protocol = vmm.protocol
    vmm.close()
    vmm = closing(CloudHypervisor(way.address(), vm))
    for queue in vm.queues:
        queue.ring.outstanding.clear()
    vmm.reconnect(protocol)
    for _ in range(4):
        vm.io(16)
        way.turn()
        vm.io(16)
        vmm.pause()
        vmm.resume()
    vmm.quiet()
    assert all(q.ring.used_idx() == (q.ring.avail_idx - 3) & 0xFFFF for q in vm.queues)
