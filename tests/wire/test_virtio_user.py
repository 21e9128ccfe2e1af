"""DPDK virtio-user's sequences, over a back-end with DPDK's habits, directly and through svqd."""

import pytest
from svqwire import message as wire
from svqwire.daemon import Svqd
from svqwire.flavours import Dpdk
from svqwire.message import Id
from svqwire.route import BY_SVQD
from svqwire.virtio_user import VirtioUser
from svqwire.vmm import Crosvm


def running(closing, way, vm):
    vmm = closing(VirtioUser(way.address(), vm))
    vmm.connect()
    vmm.negotiate()
    vmm.start()
    return vmm


def test_start_and_stop(route, guest, closing):
    """Calls come before the features, the second start brings none again."""
    way, vm = route(backend=Dpdk), guest(2, indirect=True)
    vmm = running(closing, way, vm)
    vm.io(32)
    for _ in range(3):
        way.turn()
        vm.io(16)
        assert vmm.stop() == [queue.ring.base() for queue in vm.queues]
        vm.restart()
        vmm.negotiate()
        vmm.start()
        vm.io(16)
    vmm.quiet()


def test_second_pair_later(route, guest, closing):
    """Only pair 0 is enabled by the start; the others by a control command."""
    way, vm = route(backend=Dpdk), guest(4, indirect=True)
    vmm = running(closing, way, vm)
    for queue in vm.queues[:2]:
        queue.io(16)
    way.turn()
    vm.queues[3].submit([b"early"], [32])
    vm.queues[0].io(8)
    assert vm.queues[3].ring.used_idx() == 0, "a disabled queue was served"
    vmm.enable((2, 3))
    vm.queues[3].complete(1)
    way.turn()
    vm.io(16)
    vmm.quiet()


def test_memory_events(route, guest, closing):
    way, vm = route(backend=Dpdk), guest(2, indirect=True)
    vmm = running(closing, way, vm)
    for _ in range(4):
        vm.io(8)
        vmm.memory_event()
        way.turn()
        vm.io(8)
    vmm.quiet()


def test_status(route, guest, closing):
    way, vm = route(backend=Dpdk), guest(2)
    vmm = running(closing, way, vm)
    assert vmm.get_status() & 0xF == 0xF
    way.turn()
    assert vmm.get_status() & 0xF == 0xF
    assert way.backend.status & 4, "the back-end never saw DRIVER_OK"
    vm.io(4)


def test_server_mode(kind, folder, guest, closing):
    """virtio-user listens; whoever is its back-end dials, again and again. A new connection starts
    with ENABLE=0 and GET_VRING_BASE, has no SET_OWNER, and BASE is 0 although used.idx is not."""
    direct, vm, svqd = kind == "direct", guest(2), None
    backend = closing(Dpdk(folder / ("front" if direct else "back"), connect=direct))
    vmm = closing(VirtioUser(folder / "front", vm, listen=True))
    device = dict(id="dev0", frontend=f"connect:{folder}/front",
                  backend=f"vhost-user:{folder}/back",
                  shadow="on" if kind == "shadow" else "auto")
    if not direct:
        svqd = Svqd(folder, [device])
    try:
        vmm.accept()
        vmm.connect()
        vmm.negotiate()
        vmm.start()
        vm.io(16)
        for turn in range(4):
            if kind in ("flip", "storm"):
                svqd.shadow("dev0", turn % 2 == 0)
            vm.io(8)
            vmm.sock.close()
            vmm.accept()
            vmm.greet_again()
            vm.io(16)
            if svqd:
                svqd.wait_mode("dev0", "shadow" if kind == "shadow" else "pass-through")
        vmm.quiet()
        vmm.close()
    finally:
        if svqd:
            svqd.stop()
    assert not backend.violations


@pytest.mark.parametrize("kind", BY_SVQD)
def test_status_is_driven_for_others(route, guest, closing):
    """A back-end with DPDK's STATUS must start under a front-end that never sends it."""
    protocol = wire.P_MQ | wire.P_REPLY_ACK | wire.P_STATUS
    way, vm = route(backend=Dpdk, protocol=protocol), guest(2)
    vmm = closing(Crosvm(way.address(), vm))
    vmm.connect()
    vmm.start()
    vm.io(8)
    way.turn()
    vm.io(8)
    assert way.backend.count(Id.SET_FEATURES) >= 1
