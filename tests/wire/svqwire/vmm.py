"""The VMMs: each sends exactly the sequence the real one sends.

Cloud Hypervisor after REPLY_ACK puts NEED_REPLY on every message; crosvm never does; QEMU 7.2
on a few; DPDK's virtio-user on two.
"""

import os
import select
import socket

from . import message as wire
from .dirtylog import DirtyLog
from .frontend import FrontEnd
from .message import Id

DEVICE_BITS = 0xFFFFFF
BLK_CONFIG, BLK_WRITEBACK = 60, 32


def guest_bits(guest_options):
    """What the guest's driver acks of the ring features."""
    names = {"event_idx": wire.F_EVENT_IDX, "indirect": wire.F_INDIRECT,
             "in_order": wire.F_IN_ORDER, "packed": wire.F_PACKED}
    return wire.F_VERSION_1 + sum(names[n] for n, on in guest_options.items() if n in names and on)


class Vmm(FrontEnd):
    ring_bits = wire.F_VERSION_1 | wire.F_PROTOCOL
    protocol_bits = wire.P_MQ | wire.P_REPLY_ACK
    wanted = 0  # further features that the guest's driver acks

    def acceptable(self):
        """What the VMM offers its guest, acked as the guest's driver does."""
        usable = self.offered & (self.ring_bits | DEVICE_BITS)
        guest = guest_bits(self.guest.options) | self.wanted
        assert usable & guest == guest, f"the guest's ring features {guest:#x} are not offered"
        return usable & (guest | DEVICE_BITS | wire.F_PROTOCOL)


    def share_region(self):
        """The in-flight region: fetched once for each life of the driver, then handed back."""
        if not self.protocol & wire.P_INFLIGHT:
            return
        if not self.region or self.region.life != self.guest.life:
            self.get_inflight()
            self.region.life = self.guest.life
        self.set_inflight()


class CloudHypervisor(Vmm):
    acks_all = True
    ring_bits = (
        wire.F_EVENT_IDX | wire.F_INDIRECT | wire.F_VERSION_1 | wire.F_IN_ORDER
        | wire.F_ORDER_PLATFORM | wire.F_NOTIFICATION_DATA | wire.F_LOG_ALL | wire.F_PROTOCOL
    )
    protocol_bits = (
        wire.P_MQ | wire.P_MEM_SLOTS | wire.P_REPLY_ACK | wire.P_INFLIGHT | wire.P_LOG_SHMFD
        | wire.P_DEVICE_STATE | wire.P_CONFIG
    )

    def connect(self):
        self.set_owner()
        self.get_features()
        assert self.offered & wire.F_PROTOCOL
        self.set_protocol_features(self.get_protocol_features() & self.protocol_bits)
        if self.protocol & wire.P_MQ:
            assert self.ask_u64(Id.GET_QUEUE_NUM) >= len(self.guest.queues)
        return self.get_config(0, BLK_CONFIG, 1)

    def start(self, bases=None):
        """bases: of a restore; else the guest's avail index, which Cloud Hypervisor reads."""
        self.set_features(self.acceptable())
        self.set_mem_table()
        queues = self.guest.queues
        for queue in queues:
            self.vring_num(queue)
        self.share_region()
        for queue in queues:
            self.vring_addr(queue)
            self.vring_base(queue, bases[queue.index] if bases else queue.ring.avail[1])
            self.vring_call(queue)
            self.vring_kick(queue)
        self.resume()

    def resume(self):
        """Spurious kicks and interrupts follow an ENABLE."""
        for queue in self.guest.queues:
            self.vring_enable(queue, 1)
        for queue in self.guest.queues:
            queue.kick.signal()
            queue.call.signal()

    def pause(self):
        for queue in self.guest.queues:
            self.vring_enable(queue, 0)

    def start_dirty_log(self):
        assert self.offered & wire.F_LOG_ALL and self.protocol & wire.P_LOG_SHMFD
        log = self.dirty_log()
        self.set_features(self.acked | wire.F_LOG_ALL)
        for queue in self.guest.queues:
            self.vring_addr(queue, 1, queue.ring.used_gpa)
        return log

    def stop_dirty_log(self):
        """A failed migration."""
        for queue in self.guest.queues:
            self.vring_addr(queue)
        self.set_features(self.acked & ~wire.F_LOG_ALL)

    def dirty_log(self):
        """A round: a new log each time. The old one may be read once this returns."""
        log = DirtyLog.for_memory(self.guest.memory)
        self.set_log_base(log)
        return log

    def save_state(self):
        """Paused: the bases, and the state over a stream socket, read to its end."""
        bases = [self.get_vring_base(queue) for queue in self.guest.queues]
        ours, theirs = socket.socketpair()
        self.device_state(0, theirs.fileno())
        theirs.close()
        with ours:
            state = read_to_end(ours.fileno(), self.seconds)
        self.check_device_state()
        return bases, state

    def restore(self, protocol, bases, state):
        """A migration's destination: no GET_PROTOCOL_FEATURES, the state before anything else."""
        self.set_owner()
        self.get_features()
        self.set_protocol_features(protocol)
        ours, theirs = socket.socketpair()
        self.device_state(1, theirs.fileno())
        theirs.close()
        with ours:
            ours.sendall(state)
        self.check_device_state()
        self.start(bases)

    def reconnect(self, protocol):
        self.set_owner()
        self.get_features()
        self.set_protocol_features(protocol)
        self.start()

    def reset(self):
        for queue in self.guest.queues:
            self.vring_enable(queue, 0)
            self.get_vring_base(queue)


class Crosvm(Vmm):
    ring_bits = wire.F_VERSION_1 | wire.F_EVENT_IDX | wire.F_PROTOCOL
    protocol_bits = (
        wire.P_CONFIG | wire.P_MQ | wire.P_BACKEND_REQ | wire.P_DEVICE_STATE | wire.P_REPLY_ACK
    )
    sent_features = None
    channel = None

    def connect(self):
        self.set_owner()
        self.get_features()
        self.set_protocol_features(self.get_protocol_features() & self.protocol_bits)
        if self.protocol & wire.P_BACKEND_REQ:
            self.channel, theirs = socket.socketpair()
            self.tell(Id.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
            theirs.close()
        return self.ask_u64(Id.GET_QUEUE_NUM)

    def start(self, bases=None):
        features = self.acceptable()
        if features != self.sent_features:
            self.set_features(features)
            self.sent_features = features
        self.set_mem_table()
        for queue in self.guest.queues:
            self.vring_num(queue)
            self.vring_addr(queue)
            self.vring_base(queue, bases[queue.index] if bases else queue.ring.start_base)
            self.vring_call(queue)
            self.vring_kick(queue)
            self.vring_enable(queue)

    def stop(self):
        """Both sleep and reset."""
        bases = []
        for queue in self.guest.queues:
            self.vring_enable(queue, 0)
            bases.append(self.get_vring_base(queue))
        return bases

    def snapshot(self):
        """Asleep: the state through a pipe."""
        reader, writer = os.pipe()
        try:
            self.device_state(0, writer)
            os.close(writer)
            writer = -1
            state = read_to_end(reader, self.seconds)
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        self.check_device_state()
        return state

    def restore(self, state, bases):
        features = self.acceptable()
        self.set_features(features)
        self.sent_features = features
        reader, writer = os.pipe()
        self.device_state(1, reader)
        os.close(reader)
        with os.fdopen(writer, "wb") as stream:
            stream.write(state)
        self.check_device_state()
        self.start(bases)

    def close(self):
        super().close()
        if self.channel:
            self.channel.close()


def read_to_end(fd, seconds):
    """Everything until the writing end is closed."""
    data = b""
    while True:
        assert select.select([fd], [], [], seconds)[0], "the device state never ends"
        part = os.read(fd, 65536)
        if not part:
            return data
        data += part
