"""Peers that negotiate little: no protocol features, no acks, no calls, one queue or many."""

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES, PROTOCOL
from svqwire.dirtylog import DirtyLog
from svqwire.load import Load
from svqwire.message import Id
from svqwire.migration import Copy
from svqwire.qemu import Qemu
from svqwire.vmm import Crosvm
from svqwire.wait import wait_until


class Plain(Qemu):
    """Of the time before protocol features: rings are enabled from their start, nothing is
    acked."""

    early_calls = True

    def connect(self, config=False):
        self.get_features()
        self.set_owner()
        self.set_features(self.acceptable())

    def acceptable(self):
        return super().acceptable() & ~wire.F_PROTOCOL

    def vring_enable(self, queue, enable=1):
        """There is no such message then."""


def test_front_end_without_protocol_features(route, guest, closing):
    way, vm = route(), guest(1, event_idx=True)
    vmm = closing(Plain(way.address(), vm))
    vmm.connect()
    bases = None
    for _ in range(3):
        vmm.start(bases)
        vm.io(16)
        way.turn()
        vm.io(16)
        bases = vmm.stop()
        assert bases == [queue.ring.base() for queue in vm.queues]
    vmm.quiet()


@pytest.mark.parametrize("protocol", [
    0, wire.P_MQ, wire.P_MQ | wire.P_CONFIG, PROTOCOL & ~wire.P_REPLY_ACK, PROTOCOL & ~wire.P_MQ,
], ids=["none", "mq", "mq-config", "no-ack", "no-mq"])
def test_modest_back_end(bench, protocol):
    """What it lacks, svqd does without; switches stay safe."""
    made = bench(devices=2, queues=1, backend_options=dict(protocol=protocol, queues=1))
    load = Load(made.unit.guest, depth=8)
    for turn in range(20):
        made.svqd.shadow("dev0", turn % 2 == 0)
        load.wait_rounds(1)
    load.close()
    assert made.unit.vmm.stop() == [made.unit.guest.queues[0].ring.base()]
    made.units[1].io()


def test_back_end_without_bit_30(bench):
    """It has no ENABLE; svqd offers bit 30 all the same, and a disabled ring is not served."""
    features = FEATURES & ~wire.F_PROTOCOL
    made = bench(queues=2, shadow="on", backend_options=dict(features=features, protocol=0))
    vmm, queue = made.unit.vmm, made.unit.guest.queues[0]
    assert vmm.offered & wire.F_PROTOCOL
    made.unit.io()
    vmm.vring_enable(queue, 0)
    vmm.sync()
    queue.submit([b"early"], [16])
    made.unit.guest.queues[1].io()
    assert not queue.ring.all_used(), "a disabled ring was served"
    vmm.vring_enable(queue, 1)
    queue.complete(1)
    made.svqd.shadow("dev0", False)
    made.unit.io()
    assert not made.unit.backend.count(Id.SET_VRING_ENABLE)


def test_front_end_without_acks(bench):
    """crosvm negotiates REPLY_ACK and never asks for one."""
    made = bench(start=False)
    unit = made.unit
    unit.vmm = Crosvm(unit.address, unit.guest)
    unit.guest.restart(indirect=False)
    unit.vmm.connect()
    unit.vmm.start()
    for enable in (True, False):
        unit.vmm.sync()
        made.svqd.shadow("dev0", enable)
        unit.io()
    unit.vmm.stop()
    unit.vmm.quiet()


@pytest.mark.parametrize("how", ["never sent", "no fd"])
def test_no_call(bench, how):
    """A guest without an interrupt vector polls. Cloud Hypervisor leaves CALL out then."""
    made = bench(start=False)
    unit = made.unit
    vmm = unit.connect()
    nothing = how == "never sent"
    vmm.vring_call = lambda queue, event=None: None if nothing else vmm.vring_fd(
        Id.SET_VRING_CALL, queue, None)
    unit.guest.restart()
    vmm.start()
    vmm.sync()
    for enable in (True, False, True):
        for queue in unit.guest.queues:
            for _ in range(5):
                queue.submit_random()
            wait_until(lambda: queue.ring.all_used(), "completions")
            queue.complete(5)
        made.svqd.shadow("dev0", enable)


def test_call_comes_and_goes(bench):
    """CALL without an fd, then with one again, on a running ring."""
    made = bench(shadow="on")
    vmm, queue = made.unit.vmm, made.unit.guest.queues[0]
    for _ in range(5):
        vmm.vring_fd(Id.SET_VRING_CALL, queue, None)
        vmm.sync()
        queue.call.take()
        queue.submit([b"polled"], [16])
        wait_until(lambda: queue.ring.all_used(), "the completion")
        vmm.vring_call(queue)
        vmm.sync()
        assert queue.call.wait(5), "what completed meanwhile is called for with the new fd"
        queue.complete(1)
        queue.io(4)


def test_no_kick(bench):
    """KICK without an fd: the ring is to be polled."""
    made = bench(start=False, shadow="on")
    unit = made.unit
    vmm = unit.connect()
    unit.guest.restart()
    vmm.vring_kick = lambda queue: vmm.vring_fd(Id.SET_VRING_KICK, queue, None)
    vmm.start()
    vmm.sync()
    unit.io(20)
    assert vmm.stop() == [queue.ring.base() for queue in unit.guest.queues]
    made.fresh()


@pytest.mark.parametrize("queues", [16, 64])
def test_many_queues(bench, queues):
    made = bench(queues=queues, num=16, backend_options=dict(queues=queues),
                 arguments=["--workers", "2"])
    for enable in (True, False, True, False):
        made.svqd.shadow("dev0", enable)
        made.unit.io(3)
    assert len(made.svqd.device("dev0")["queues"]) == queues


@pytest.mark.parametrize("shadow, features, protocol", [
    ("auto", FEATURES | wire.F_LOG_ALL, PROTOCOL),
    ("auto", FEATURES, PROTOCOL | wire.P_LOG_SHMFD),
    ("on", FEATURES | wire.F_LOG_ALL, PROTOCOL | wire.P_LOG_SHMFD),
], ids=["no-shmfd", "no-log-all", "always-shadowed"])
def test_half_a_log(bench, shadow, features, protocol):
    """A back-end that logs but cannot share the log, or the other way round: the shadow logs and
    the back-end hears nothing of it."""
    made = bench(shadow=shadow, backend_options=dict(features=features, protocol=protocol))
    unit = made.unit
    log = DirtyLog.for_memory(unit.guest.memory)
    unit.vmm.set_log_base(log)
    unit.vmm.set_features(unit.vmm.acked | wire.F_LOG_ALL)
    for queue in unit.guest.queues:
        unit.vmm.vring_addr(queue, 1, queue.ring.used_gpa)
    copy = Copy(unit.guest)
    copy.everything()
    unit.io(20)
    assert made.svqd.device("dev0")["logging"] == "shadow"
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()
    assert not unit.backend.count(Id.SET_LOG_BASE)
    assert not unit.backend.acked & wire.F_LOG_ALL
