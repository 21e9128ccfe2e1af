"""QEMU 7.2's sequences, directly and through svqd."""

import pytest
from svqwire import message as wire
from svqwire.backend import CONFIG, PROTOCOL
from svqwire.flavours import Dpdk
from svqwire.memory import MIB
from svqwire.message import Id
from svqwire.migration import Copy
from svqwire.pairs import PACKED_FEATURES
from svqwire.qemu import Qemu, QemuNet
from svqwire.route import REFUSED
from svqwire.wait import wait_until

NO_SLOTS = PROTOCOL & ~wire.P_MEM_SLOTS
# What the back-end has, and the guest.
RINGS = {
    "split": ({}, dict(event_idx=True, indirect=True)),
    "packed": ({"features": PACKED_FEATURES | wire.F_IN_ORDER},
               dict(packed=True, event_idx=True, indirect=True, num=600)),
}


@pytest.fixture(params=RINGS)
def rings(request):
    return RINGS[request.param]


def connected(closing, way, vm, cls=Qemu):
    vmm = closing(cls(way.address(), vm))
    config = vmm.connect()
    assert config is None or config == CONFIG[:60]
    return vmm


@pytest.mark.parametrize("protocol", [PROTOCOL, NO_SLOTS], ids=["slots", "table"])
def test_firmware_then_linux(route, guest, closing, protocol):
    """Two starts of one connection, with other ring features and sizes each."""
    way, vm = route(protocol=protocol), guest(1, num=16)
    vmm = connected(closing, way, vm)
    vmm.start()
    way.turn()
    vm.io(8)
    assert vmm.stop() == [queue.ring.base() for queue in vm.queues]
    vm.restart(num=128, event_idx=True, indirect=True)
    vmm.start()
    for _ in range(4):
        vm.io(32)
        way.turn()
    assert vmm.stop() == [queue.ring.base() for queue in vm.queues]
    vmm.quiet()
    if protocol & wire.P_MEM_SLOTS and way.kind == "direct":
        assert way.backend.count(Id.SET_MEM_TABLE) == 0


def test_pause_and_resume(route, guest, closing):
    way, vm = route(), guest(4, event_idx=True, indirect=True)
    vmm = connected(closing, way, vm)
    bases = None
    for _ in range(4):
        vmm.start(bases)
        vm.io(16)
        way.turn()
        vm.io(16)
        bases = vmm.stop()
        assert bases == [queue.ring.base() for queue in vm.queues]
    vmm.quiet()


def test_memory_slots_come_and_go(route, guest, closing):
    way, vm = route(), guest(2, event_idx=True)
    vmm = connected(closing, way, vm)
    vmm.start()
    for number in range(4):
        region = vm.memory.add((number + 2) << 33, MIB, 0x7E0000000000 + (number << 24))
        vmm.update_memory()
        for queue in vm.queues:
            for pool in queue.ring.buffers.values():
                pool.region, pool.free = 2, {}
        way.turn()
        vm.io(16)
        for queue in vm.queues:
            for pool in queue.ring.buffers.values():
                pool.region, pool.free = 0, {}
        vm.memory.remove(region)
        vm.memory.next.pop(2)
        vmm.update_memory()
        vm.io(16)
    vmm.quiet()


def test_masking_swaps_calls(route, guest, closing):
    """A masked vector's interrupts wait in QEMU's own eventfd."""
    way, vm = route(), guest(2)
    vmm = connected(closing, way, vm)
    vmm.start()
    for _ in range(10):
        vmm.mask()
        vmm.sync()
        for queue in vm.queues:
            vmm.masked[queue.index].take()
            queue.submit([b"masked"], [64])
        way.turn()
        for queue in vm.queues:
            assert vmm.masked[queue.index].wait(5), "no call on the masked vector's eventfd"
            vmm.masked[queue.index].signal()  # back: unmask() looks at it
        vmm.unmask()
        for queue in vm.queues:
            queue.complete(1)
        vm.io(4)
    vmm.quiet()


def test_log_start_and_stop(route, guest, closing, kind, rings):
    """One log, harvested while the device writes to it; stopped and started again."""
    has, uses = rings
    way, vm = route(logs=kind == "direct", **has), guest(2, **uses)
    vmm = connected(closing, way, vm)
    vmm.start()
    way.tolerate(REFUSED)  # the shadow that logs stays
    for _ in range(3):
        vm.io(8)
        way.turn()
        copy = Copy(vm)
        log = vmm.start_log()
        copy.everything()
        for _ in range(4):
            vm.io(60)
            copy.dirty(log.pages())
        bases = vmm.stop()
        copy.dirty(log.pages())
        copy.finish()
        assert log.intact()
        vmm.stop_log()
        vmm.start(bases)
        vm.io(8)
        log.close()
    vmm.quiet()
    if way.kind == "pass-through":
        way.svqd.wait_mode("dev0", "pass-through")


def test_start_while_migrating(route, guest, closing, kind, rings):
    """A migration that began before the driver started the device (or across its reset) changes
    the start: LOG_ALL is set with the first SET_FEATURES, before any SET_LOG_BASE, which comes
    after the rings are described and before they are enabled."""
    has, uses = rings
    way, vm = route(logs=kind == "direct", **has), guest(2, **uses)
    vmm = connected(closing, way, vm)
    way.tolerate(REFUSED)  # the shadow that logs stays
    for _ in range(2):
        copy = Copy(vm)
        copy.everything()
        log = vmm.start_logged()
        vm.io(24)
        way.turn()
        vm.io(24)
        vmm.stop()
        copy.dirty(log.pages())
        copy.finish()
        assert log.intact()
        log.close()
        vm.restart()
    vmm.stop_log()
    vmm.start()
    vm.io(8)


def test_net_pairs(route, guest, closing, rings):
    """One vhost device per queue pair: features repeat, the rest comes once."""
    has, uses = rings
    way, vm = route(**has), guest(4, **uses)
    vmm = connected(closing, way, vm, QemuNet)
    bases = None
    for _ in range(3):
        vmm.start(bases)
        vm.io(16)
        way.turn()
        vmm.announce(b"\x52\x54\x00\x12\x34\x56")
        way.turn()
        vm.io(16)
        bases = vmm.stop()
    vmm.sync()
    assert way.backend.mtu == 1500
    assert way.backend.rarp == b"\x52\x54\x00\x12\x34\x56\0\0"
    vmm.quiet()


def test_slots_never_decrease(route, guest, closing):
    """GET_MAX_MEM_SLOTS over reconnects; svqd's own region has to be in it."""
    way, vm = route(), guest(2)
    vmm = connected(closing, way, vm)
    first = vmm.slots
    if way.svqd:
        assert first < way.backend.slots, "no slot is kept for the shadow's region"
    for _ in range(2):
        vmm.start()
        way.turn()
        vm.io(4)
        vmm.close()
        way.backend.wait_disconnected()
        vm.restart()
        vmm = connected(closing, way, vm)
        assert vmm.slots == first
    vmm.start()
    vm.io(4)


@pytest.mark.parametrize("shadow", ["auto", "on", "while it logs"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_status_0_before_the_rings_stop(bench, shadow, packed):
    """QEMU 7.2's order. DPDK makes nothing of the status: its rings run until they are stopped,
    and what they have taken has to be complete, and logged, by then."""
    made = bench(backend=Dpdk, shadow="on" if shadow == "on" else "auto", packed=packed,
                 backend_options=dict(features=PACKED_FEATURES))
    unit = made.unit
    for num in (16, 64, 32):
        unit.io(12)
        copy = Copy(unit.guest)
        log = unit.vmm.start_log() if "logs" in shadow else None
        copy.everything()
        unit.backend.hold = True
        for queue in unit.guest.queues:
            for _ in range(5):
                queue.submit_random()
        wait_until(lambda: unit.backend.held() == 10, "the requests to be held")
        unit.backend.run(lambda: setattr(unit.backend, "hold", False))
        bases = unit.vmm.stop()
        mask = 0xFFFF if packed and shadow == "auto" else 0xFFFFFFFF
        assert bases == [queue.ring.base() & mask for queue in unit.guest.queues]
        assert not any(queue.ring for queue in unit.backend.queues), "a ring was never stopped"
        unit.guest.drain()
        if log:
            copy.dirty(log.pages())
            copy.finish()
            unit.vmm.stop_log()
        unit.guest.restart(num=num)
        unit.vmm.start()
    unit.io()
