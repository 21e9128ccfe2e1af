"""crosvm's sequences, directly and through svqd."""

import pytest
from svqwire import message as wire
from svqwire.backend import CONFIG
from svqwire.message import BackendId, Id
from svqwire.route import BY_SVQD
from svqwire.vmm import Crosvm


def connected(closing, way, vm):
    vmm = closing(Crosvm(way.address(), vm))
    assert vmm.connect() == 4, "crosvm creates as many queues as the reply says"
    return vmm


def test_start_sleep_wake(route, guest, closing):
    way, vm = route(), guest(3, event_idx=True)
    vmm = connected(closing, way, vm)
    vmm.start()
    vm.io(32)
    for _ in range(3):
        way.turn()
        vm.io(8)
        bases = vmm.stop()
        assert bases == [queue.ring.base() for queue in vm.queues]
        way.turn()
        vmm.start(bases)
        vm.io(16)
    vmm.quiet()


def test_config(route, guest, closing):
    """Every guest access is a message; the offset counts."""
    way, vm = route(), guest(2)
    vmm = connected(closing, way, vm)

    def look(when):
        for offset, size in ((0, 60), (0, 1), (8, 4), (13, 7), (59, 1), (20, 40)):
            assert vmm.get_config(offset, size, 1) == way.backend.config[offset : offset + size], (
                f"{when}: GET_CONFIG {offset}+{size}"
            )

    look("before the start")
    vmm.start()
    way.turn()
    look("running")
    vmm.set_config(40, b"\xaa\xbb\xcc\xdd")
    vmm.sync()
    assert way.backend.config[40:44] == b"\xaa\xbb\xcc\xdd"
    look("after SET_CONFIG")
    vm.io(8)
    vmm.stop()
    look("asleep")


@pytest.mark.parametrize("kind", BY_SVQD)
def test_config_not_negotiated(route, guest, closing):
    """crosvm sends GET_CONFIG even so, and reads a reply of the size it asked for."""
    way, vm = route(protocol=wire.P_MQ | wire.P_REPLY_ACK), guest(2)
    vmm = connected(closing, way, vm)
    assert len(vmm.get_config(4, 8, 1)) == 8
    vmm.start()
    way.turn()
    assert len(vmm.get_config(0, 24, 1)) == 24
    vm.io(8)
    vmm.quiet()


def test_snapshot_restore(route, guest, closing):
    """The state through pipes; the restored device goes on at the saved bases."""
    way, vm = route(), guest(2, event_idx=True)
    vmm = connected(closing, way, vm)
    vmm.start()
    way.turn()
    vm.io(40)
    bases = vmm.stop()
    state = vmm.snapshot()
    assert state == way.backend.state
    vmm.start(bases)
    vm.io(8)
    bases = vmm.stop()
    vmm.close()
    way.backend.wait_disconnected()
    restored = connected(closing, way, vm)
    restored.restore(state, bases)
    assert way.backend.loaded == state
    way.turn()
    vm.io(32)
    restored.quiet()


def test_reset_without_set_features(route, guest, closing):
    """Acked features outlive a reset, so SET_FEATURES is not repeated."""
    way, vm = route(), guest(2, event_idx=True)
    vmm = connected(closing, way, vm)
    for _ in range(3):
        vmm.start()
        way.turn()
        vm.io(16)
        vmm.stop()
        vm.restart()
    assert vmm.sent_features is not None
    if way.kind == "direct":
        assert way.backend.count(Id.SET_FEATURES) == 1
    vmm.quiet()


def test_fewer_queues_than_offered(route, guest, closing):
    """Only the queues that the guest enabled are ever mentioned."""
    way, vm = route(queues=8), guest(3)
    vm.queues.pop(1).close()
    vmm = closing(Crosvm(way.address(), vm))
    assert vmm.connect() == 8
    vmm.start()
    for _ in range(3):
        way.turn()
        vm.io(16)
    assert len(vmm.stop()) == 2


def test_config_change_reaches_the_front_end(route, guest, closing):
    """A back-end's request travels over the channel, and its answer back."""
    way, vm = route(), guest(2)
    vmm = connected(closing, way, vm)
    vmm.start()
    vmm.sync()
    for _ in range(2):
        way.turn()
        way.backend.request(BackendId.CONFIG_CHANGE)
        vmm.channel.settimeout(5)
        got = wire.receive(vmm.channel)
        assert (got.id, got.payload, got.fds) == (BackendId.CONFIG_CHANGE, b"", [])
        if got.flags & wire.NEED_REPLY:
            flags = wire.VERSION | wire.REPLY
            wire.Message(got.id, flags, wire.u64(0)).send(vmm.channel)
        way.backend.config[0] ^= 0xFF
        assert vmm.get_config(0, 8) == way.backend.config[:8], "the cache outlived the change"
    assert way.backend.config[0] == CONFIG[0]
    vm.io(8)
