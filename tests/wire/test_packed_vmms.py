"""Front-ends that have packed rings: QEMU and DPDK's virtio-user; the same result every way."""

import pytest
from svqwire import message as wire
from svqwire.flavours import Dpdk
from svqwire.memory import MIB
from svqwire.migration import Copy, follow
from svqwire.pairs import PACKED_FEATURES
from svqwire.qemu import Qemu
from svqwire.route import Route
from svqwire.virtio_user import VirtioUser

FEATURES = PACKED_FEATURES | wire.F_IN_ORDER
RINGS = dict(packed=True, event_idx=True, indirect=True, num=50)


def connected(closing, way, vm, cls=Qemu, name=None):
    vmm = closing(cls(way.address(name), vm))
    vmm.connect()
    return vmm


def bases_of(vm, bases):
    """The right bases; a back-end that passes through and knows half of them is right with that."""
    whole = [queue.ring.base() for queue in vm.queues]
    return [base & (0xFFFFFFFF if told >> 16 else 0xFFFF) for base, told in zip(whole, bases)]


@pytest.mark.parametrize("backend", [None, Dpdk], ids=["plain", "dpdk"])
def test_firmware_then_linux(route, guest, closing, backend):
    """QEMU's two starts: split rings for the firmware, packed ones for Linux."""
    made = dict(features=FEATURES, protocol=wire.P_MQ | wire.P_REPLY_ACK | wire.P_CONFIG)
    way = route(**made, **({"backend": backend} if backend else {}))
    vm = guest(2, num=16)
    vmm = connected(closing, way, vm)
    bases = None
    for turn in range(6):
        if turn == 1:
            vm.restart(**RINGS)
            bases = None
        vmm.start(bases)
        vm.io(16)
        way.turn()
        vm.io(16)
        bases = vmm.stop()
        assert bases == bases_of(vm, bases)
    assert all(queue.ring.untouched() for queue in vm.queues)
    vmm.quiet()


def test_memory_slots_come_and_go(route, guest, closing):
    way, vm = route(features=FEATURES), guest(2, **RINGS)
    vmm = connected(closing, way, vm)
    vmm.start()
    for number in range(4):
        region = vm.memory.add((number + 2) << 33, MIB, 0x7E0000000000 + (number << 24))
        vmm.update_memory()
        way.turn()
        vm.io(16)
        vm.memory.remove(region)
        vmm.update_memory()
        vm.io(16)
    vmm.quiet()


# What the two hosts' back-ends have: a guest with packed rings moves between them all the same.
HOSTS = {
    "packed to packed": (FEATURES, {}, FEATURES, {}),
    "packed to split": (FEATURES, {"offer": "in_order"}, FEATURES & ~wire.F_PACKED,
                        {"offer": "packed+in_order"}),
    "split to packed": (PACKED_FEATURES & ~wire.F_PACKED, {"offer": "packed"}, PACKED_FEATURES, {}),
    "split to split": (PACKED_FEATURES & ~wire.F_PACKED, {"offer": "packed"},
                       PACKED_FEATURES & ~wire.F_PACKED, {"offer": "packed"}),
}


@pytest.mark.parametrize("hosts", HOSTS)
def test_migration(folder, guest, closing, hosts):
    """Two hosts with an svqd each. The log makes the copy, the bases start the destination."""
    source_has, source_keys, target_has, target_keys = HOSTS[hosts]
    (folder / "b").mkdir()
    source = closing(Route("pass-through", folder, device=source_keys, features=source_has))
    target = closing(Route("pass-through", folder / "b", device=target_keys, features=target_has))
    vm = guest(3, **{**RINGS, "num": 77})
    vmm = connected(closing, source, vm)
    vmm.start()
    vm.io(40)
    copy = Copy(vm)
    log = vmm.start_log()
    copy.everything()
    for _ in range(4):
        vm.io(50)
        copy.dirty(log.pages())
    bases = vmm.stop()
    assert bases == [queue.ring.base() for queue in vm.queues]
    copy.dirty(log.pages())
    copy.finish()
    vmm.close()
    moved = closing(follow(vm, copy))
    there = connected(closing, target, moved)
    there.start(bases)
    moved.io(50)
    bound = not target_has & wire.F_PACKED
    target.svqd.wait_mode("dev0", "shadow" if bound else "pass-through")
    assert there.stop() == [queue.ring.base() for queue in moved.queues]
    assert all(queue.ring.untouched() for queue in moved.queues)
    there.quiet()


# DPDK on both ends.

USER = dict(packed=True, indirect=True, in_order=True, num=50)


def running(closing, way, vm):
    vmm = closing(VirtioUser(way.address(), vm))
    vmm.connect()
    vmm.negotiate()
    vmm.start()
    return vmm


def test_virtio_user(route, guest, closing):
    """Its base is 0x8000; memory events come at any time; a later start is a fresh one."""
    way, vm = route(backend=Dpdk, features=FEATURES), guest(2, **USER)
    vmm = running(closing, way, vm)
    vm.io(32)
    for _ in range(3):
        way.turn()
        vm.io(16)
        vmm.memory_event()
        way.turn()
        vm.io(16)
        bases = vmm.stop()
        assert bases == bases_of(vm, bases)
        vm.restart()
        vmm.negotiate()
        vmm.start()
        vm.io(16)
    vmm.quiet()


def test_virtio_user_s_second_pair(route, guest, closing):
    way, vm = route(backend=Dpdk, features=FEATURES), guest(4, **USER)
    vmm = running(closing, way, vm)
    for queue in vm.queues[:2]:
        queue.io(16)
    way.turn()
    vm.queues[3].submit([b"early"], [32])
    vm.queues[0].io(8)
    assert not vm.queues[3].ring.has_used(), "a disabled queue was served"
    vmm.enable((2, 3))
    vm.queues[3].complete(1)
    way.turn()
    vm.io(16)
    vmm.quiet()
