"""QEMU 7.2 as front-end: blk and fs (one vhost device), net (one vhost device per queue pair)."""

import socket

from . import message as wire
from .dirtylog import DirtyLog
from .eventfd import EventFd
from .memory import PAGE
from .message import Id
from .virtio_user import ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK
from .vmm import BLK_CONFIG, Vmm


class Qemu(Vmm):
    ring_bits = (
        wire.bit(24) | wire.F_INDIRECT | wire.F_EVENT_IDX | wire.F_VERSION_1
        | wire.F_ACCESS_PLATFORM | wire.F_PACKED | wire.F_IN_ORDER | wire.F_RING_RESET
        | wire.F_PROTOCOL
    )
    protocol_bits = 0x1FFFF  # every bit 7.2 has a name for, HOST_NOTIFIER and INBAND included
    keeps_region = True  # as blk does
    early_calls = False  # True: the call before the kick, as other VMMs do
    acks = (Id.SET_MEM_TABLE, Id.ADD_MEM_REG, Id.REM_MEM_REG, Id.SET_BACKEND_REQ_FD,
            Id.NET_SET_MTU, Id.SET_CONFIG)

    def __init__(self, address, guest, **options):
        super().__init__(address, guest, **options)
        self.masked = [EventFd() for _ in guest.queues]  # placeholders of masked vectors
        self.known = []  # regions the back-end was told of
        self.channel = None
        self.slots = 0
        self.logging = False

    def close(self):
        super().close()
        for event in self.masked:
            event.close()
        if self.channel:
            self.channel.close()

    def connect(self, config=True):
        self.init_device(self.guest.queues, first=True)
        return self.get_config(0, BLK_CONFIG) if config and self.protocol & wire.P_CONFIG else None

    def init_device(self, queues, first):
        """vhost_user_backend_init and vhost_dev_init."""
        self.get_features()
        self.set_protocol_features(self.get_protocol_features() & self.protocol_bits)
        if self.protocol & wire.P_MQ:
            assert self.ask_u64(Id.GET_QUEUE_NUM) >= len(self.guest.queues)
        if self.protocol & wire.P_MEM_SLOTS:
            slots = self.ask_u64(Id.GET_MAX_MEM_SLOTS)
            assert slots >= self.slots, f"GET_MAX_MEM_SLOTS decreased from {self.slots} to {slots}"
            self.slots = slots
        if first:
            if self.protocol & wire.P_BACKEND_REQ:
                self.channel, theirs = socket.socketpair()
                self.tell(Id.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
                theirs.close()
            self.set_owner()
        self.get_features()
        for queue in queues:
            self.vring_call(queue, self.masked[queue.index])
            self.vring_err(queue)

    def set_features(self, value=None):
        super().set_features(value)
        self.add_status(FEATURES_OK)

    def add_status(self, bits):
        if self.protocol & wire.P_STATUS:
            status = self.ask_u64(Id.GET_STATUS)
            if status & bits != bits:
                self.tell(Id.SET_STATUS, wire.u64(status | bits))

    def start(self, bases=None, calls=True):
        if self.keeps_region and self.protocol & wire.P_INFLIGHT:
            self.tell(Id.SET_FEATURES, wire.u64(self.acceptable()))
            self.share_region()
        self.set_features(self.acceptable())
        self.update_memory()
        for queue in self.guest.queues:
            self.start_queue(queue, bases[queue.index] if bases else queue.ring.start_base)
        for queue in self.guest.queues:
            self.vring_enable(queue)
        self.add_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
        if calls and not self.early_calls:  # blk and fs: the real call comes last
            self.unmask()

    def reconnect(self, protocol=None):
        """blk's: everything anew but the in-flight region. Nobody told it the bases: of a split
        ring it takes the used index, of a packed one whatever it had last."""
        self.connect(config=False)
        self.start([queue.ring.start_base if queue.ring.is_packed else queue.ring.used_idx()
                    for queue in self.guest.queues])
        for queue in self.guest.queues:
            queue.kick.signal()
            queue.call.signal()

    def start_queue(self, queue, base):
        self.vring_num(queue)
        self.vring_base(queue, base)
        self.vring_addr(queue)
        if self.early_calls:
            self.vring_call(queue)
        self.vring_kick(queue)

    def update_memory(self):
        """Slots: only what is new is added, what has gone is removed, and no SET_MEM_TABLE."""
        regions = self.guest.memory.regions
        if not self.protocol & wire.P_MEM_SLOTS:
            self.set_mem_table()
            return
        for region in [r for r in self.known if r not in regions]:
            self.rem_mem_reg(region)
        for region in [r for r in regions if r not in self.known]:
            self.add_mem_reg(region)
        self.known = list(regions)

    def unmask(self):
        for queue in self.guest.queues:
            self.vring_call(queue)
            if self.masked[queue.index].take():  # what came while masked is injected
                queue.call.signal()

    def mask(self):
        for queue in self.guest.queues:
            self.vring_call(queue, self.masked[queue.index])

    def stop(self):
        """The status goes to 0 before the rings are stopped."""
        if self.protocol & wire.P_STATUS:
            self.tell(Id.SET_STATUS, wire.u64(0))
        bases = []
        for queue in self.guest.queues:
            self.vring_enable(queue, 0)
            bases.append(self.get_vring_base(queue))
        return bases

    def send_log(self):
        """QEMU's log has whole 64-bit words, and stays the same one until it has to grow."""
        size = (self.guest.memory.last_gpa() // (64 * PAGE) + 1) * 8
        log = DirtyLog(size)
        self.post(Id.SET_LOG_BASE, log.payload(), [log.fd])
        reply = wire.receive(self.sock)  # of whatever size
        assert reply.id == Id.SET_LOG_BASE and reply.flags == wire.VERSION | wire.REPLY
        return log

    def start_logged(self):
        """vhost_dev_start while a migration is under way."""
        self.acked = self.acceptable()
        self.logging = True
        self.tell(Id.SET_FEATURES, wire.u64(self.acked | wire.F_LOG_ALL), ack=True)
        self.add_status(FEATURES_OK)
        self.update_memory()
        for queue in self.guest.queues:
            self.vring_num(queue)
            self.vring_base(queue, queue.ring.start_base)
            self.log_addr(queue, 1, queue.ring.used_gpa)
            self.vring_kick(queue)
        log = self.send_log()
        for queue in self.guest.queues:
            self.vring_enable(queue)
        self.add_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
        self.unmask()
        return log

    def start_log(self):
        log = self.send_log()
        self.logging = True
        self.tell(Id.SET_FEATURES, wire.u64(self.acked | wire.F_LOG_ALL), ack=True)
        for queue in self.guest.queues:
            self.log_addr(queue, 1, queue.ring.used_gpa)
        return log

    def stop_log(self):
        self.logging = False
        self.tell(Id.SET_FEATURES, wire.u64(self.acked))
        for queue in self.guest.queues:
            self.log_addr(queue, 0, 0)

    def log_addr(self, queue, flags, gpa):
        """Acked while logging, plain when it ends."""
        self.acks = (*Qemu.acks, Id.SET_VRING_ADDR) if self.logging else Qemu.acks
        self.vring_addr(queue, flags, gpa)
        self.acks = Qemu.acks


class QemuNet(Qemu):
    """Queues 2n and 2n+1 are a pair; what belongs to the device comes on pair 0 only."""

    keeps_region = False

    def pairs(self):
        queues = self.guest.queues
        return [queues[i : i + 2] for i in range(0, len(queues), 2)]

    def connect(self, config=False):
        for number, pair in enumerate(self.pairs()):
            self.init_device(pair, first=number == 0)

    def start(self, bases=None, calls=True):
        if self.protocol & wire.P_MTU:
            self.tell(Id.NET_SET_MTU, wire.u64(1500))
        for number, pair in enumerate(self.pairs()):
            self.set_features(self.acceptable())
            if number == 0:
                self.update_memory()
            for queue in pair:
                self.start_queue(queue, bases[queue.index] if bases else queue.ring.start_base)
                self.vring_call(queue)
            for queue in pair:
                self.vring_enable(queue)
        self.add_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)

    def announce(self, mac):
        self.tell(Id.SEND_RARP, mac + bytes(2))
