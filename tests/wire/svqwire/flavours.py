"""Back-ends with the habits of real ones, where those differ from the specification's letter."""

import os

from . import message as wire
from .backend import BackEnd
from .backqueue import BackQueue
from .devicering import Translation
from .fault import Drop, Nack
from .message import Id

POLL = 0.001  # seconds: often enough to be quick, seldom enough for two cores
DELAY = 0.003  # seconds that a request takes a lazy back-end

# What libvhost-user offers, whatever the device.
LIBVHOST_USER = (wire.P_MQ | wire.P_LOG_SHMFD | wire.P_REPLY_ACK | wire.P_BACKEND_REQ
                 | wire.P_BACKEND_SEND_FD | wire.P_HOST_NOTIFIER | wire.P_MEM_SLOTS)


class RustVmm(BackEnd):
    """vhost-user-backend: any error ends the connection; a kick of a disabled ring is lost;
    GET_VRING_BASE drops kick and call and waits for nothing."""

    UNKNOWN = {Id.SEND_RARP, Id.NET_SET_MTU, Id.SET_STATUS, Id.GET_STATUS, Id.IOTLB_MSG}

    def __init__(self, path, **options):
        options.setdefault("protocol", wire.P_MQ | wire.P_REPLY_ACK | wire.P_CONFIG
                           | wire.P_MEM_SLOTS)
        super().__init__(path, **options)
        self.drain, self.keeps_call = "after", False

    def _handle(self, message, refuse=False):
        reply = super()._handle(message, refuse)
        if message.id in self.UNKNOWN or (reply and self.refused(message, reply)):
            if reply:
                reply.send(self.connection)
            raise Drop
        return reply

    @staticmethod
    def refused(message, reply):
        typed = message.name.startswith("GET_") or message.id == Id.SET_LOG_BASE
        return not typed and len(reply.payload) == 8 and reply.payload != bytes(8)

    def _reset_session(self):
        super()._reset_session()
        self.owned = False

    def on_set_owner(self, message):
        if self.owned:
            self.breach("SET_OWNER twice")
            raise Nack
        self.owned = True

    def on_set_vring_enable(self, message):
        if not self.acked & wire.F_PROTOCOL:
            self.breach("SET_VRING_ENABLE before bit 30 was acked")
            raise Drop
        index, enable = wire.VRING_STATE.unpack(message.payload)
        queue = self.queue(index)
        if enable and not queue.enabled and queue.kick >= 0:
            lose_kick(queue)
        super().on_set_vring_enable(message)

    def on_set_mem_table(self, message):
        super().on_set_mem_table(message)
        self.dirty_log = None


def lose_kick(queue):
    """A kick that came while the ring was disabled was read and did nothing."""
    try:
        os.eventfd_read(queue.kick)
    except BlockingIOError:
        pass


class Crosvm(BackEnd):
    """crosvm's back-end: the kick fd starts the queue, ENABLE means nothing, a running queue
    keeps the call it started with, BASE sets the used index too."""

    def __init__(self, path, **options):
        options.setdefault("protocol", wire.P_MQ | wire.P_REPLY_ACK | wire.P_CONFIG
                           | wire.P_BACKEND_REQ | wire.P_DEVICE_STATE)
        super().__init__(path, **options)

    def take_fd(self, message, name):
        queue = self.queue(message.u64() & 0xFF)
        if name != "err" and not message.fds:
            self.breach(f"{message.name} without an fd")
            raise Nack
        if name == "call" and queue.ring:
            return queue  # too late for the running queue
        return super().take_fd(message, name)

    def on_set_vring_kick(self, message):
        queue = self.queue(message.u64() & 0xFF)
        if queue.ring:
            self.breach(f"a second SET_VRING_KICK for queue {queue.index}")
            raise Drop
        queue.enabled = True
        super().on_set_vring_kick(message)
        if not queue.ring.is_packed and queue.ring.used_idx != queue.base:
            self.breach(f"BASE {queue.base} on a ring whose used.idx is {queue.ring.used_idx}")

    def on_set_vring_enable(self, message):
        pass


class Dpdk(BackEnd):
    """lib/vhost: at most 8 regions, status, a split ring that runs on from used.idx whatever BASE
    says, a packed one of whose base it knows half, and no start before DRIVER_OK once STATUS was
    acked."""

    max_regions = 8

    def __init__(self, path, **options):
        options.setdefault("protocol", wire.P_MQ | wire.P_REPLY_ACK | wire.P_BACKEND_REQ
                           | wire.P_STATUS | wire.P_MTU | wire.P_RARP)
        options.setdefault("features", wire.F_VERSION_1 | wire.F_EVENT_IDX | wire.F_INDIRECT
                           | wire.F_PROTOCOL | wire.bit(15))
        super().__init__(path, **options)
        self.half_base = True

    def _reset_session(self):
        super()._reset_session()
        self.queues = [DpdkQueue(self, i) for i in range(self.queue_num)]

    def on_set_status(self, message):
        super().on_set_status(message)
        for queue in self.queues:
            queue.watch()

    @property
    def may_run(self):
        return bool(not self.acked_protocol & wire.P_STATUS or self.status & 4)


class PollingQueue(BackQueue):
    """A ring that is polled, whatever its kick does; the driver is told to leave kicks out."""

    def start(self):
        super().start()
        self.poll(self.ring)

    def poll(self, ring):
        if self.ring is not ring:
            return
        ring.want_kicks(False)
        if self.runs():
            self.process()
        self.backend.later(POLL, lambda: self.poll(ring))

    def runs(self):
        return self.enabled


class DpdkQueue(PollingQueue):
    def start(self):
        super().start()
        if self.ring.is_packed:
            self.ring.used = self.ring.last_avail
        elif self.ring.last_avail != self.ring.used_idx:
            self.ring.last_avail = self.ring.used_idx

    def runs(self):
        return self.enabled and self.backend.may_run

    def watch(self):
        if self.backend.may_run:
            super().watch()


class Spdk(BackEnd):
    """lib/vhost over DPDK: ENABLE=0 does not stop polling, one GET_VRING_BASE stops all queues
    and a KICK restarts them, GET_CONFIG ignores the offset."""

    def __init__(self, path, **options):
        options.setdefault("features", wire.F_VERSION_1 | wire.F_INDIRECT | wire.F_PROTOCOL)
        options.setdefault("protocol", wire.P_MQ | wire.P_REPLY_ACK | wire.P_CONFIG)
        super().__init__(path, **options)

    def on_set_vring_enable(self, message):
        index, enable = wire.VRING_STATE.unpack(message.payload)
        if enable:
            super().on_set_vring_enable(message)

    def _reset_session(self):
        super()._reset_session()
        self.queues = [SpdkQueue(self, i) for i in range(self.queue_num)]
        self.running_device = False

    def on_get_vring_base(self, message):
        self.running_device = False
        return super().on_get_vring_base(message)

    def on_set_vring_kick(self, message):
        super().on_set_vring_kick(message)
        self.running_device = True

    def on_get_config(self, message):
        offset, size, flags = wire.CONFIG.unpack_from(message.payload)
        return wire.config(offset, size, flags, bytes(self.config[:size]))


class SpdkQueue(PollingQueue):
    def watch(self):
        """No eventfd is looked at."""

    def runs(self):
        return self.enabled and self.backend.running_device


class Remapping(BackEnd):
    """libvhost-user: looks for all rings that it was ever told of in each new table, and leaves when
    one is not there."""

    def _reset_session(self):
        super()._reset_session()
        self.places = {}

    def on_set_vring_addr(self, message):
        super().on_set_vring_addr(message)
        index, _, *places, _ = wire.VRING_ADDR.unpack(message.payload)
        self.places[index] = places

    def on_set_mem_table(self, message):
        super().on_set_mem_table(message)
        for index, places in self.places.items():
            try:
                for place in places:
                    self.memory.by_uaddr(place, 1)
            except Translation:
                self.breach(f"ring {index} is not in the new memory table")
                raise Drop from None


class LibvhostUser(Remapping):
    """qemu-storage-daemon: takes at once and completes a while after; GET_VRING_BASE forgets kick
    and call and waits for nothing; who is to be called then, and cannot, is left."""

    def __init__(self, path, **options):
        options.setdefault("protocol", LIBVHOST_USER | wire.P_CONFIG)
        super().__init__(path, **options)
        self.drain, self.keeps_call = "after", False

    def _reset_session(self):
        super()._reset_session()
        self.queues = [LazyQueue(self, i) for i in range(self.queue_num)]


class LazyQueue(BackQueue):
    def process(self):
        self.take()
        if self.held and not self.backend.hold:
            self.backend.later(DELAY, self.complete_unless_told)

    def complete_unless_told(self):
        """What came after the one that this was meant for may be to be held."""
        if not self.backend.hold:
            self.complete_held()

    def signal(self, ring):
        if self.call < 0 and ring.wants_call():
            raise Drop
        super().signal(ring)


class Virtiofsd(Remapping):
    """libvhost-user without a configuration space: completes everything before it answers
    GET_VRING_BASE, and aborts when a running ring gets another kick."""

    def __init__(self, path, **options):
        options.setdefault("protocol", LIBVHOST_USER)
        super().__init__(path, **options)

    def on_set_vring_kick(self, message):
        queue = self.queue(message.u64() & 0xFF)
        if queue.ring:
            self.breach(f"a second SET_VRING_KICK for queue {queue.index}")
            raise Drop
        super().on_set_vring_kick(message)


FLAVOURS = {"plain": BackEnd, "rust-vmm": RustVmm, "crosvm": Crosvm, "dpdk": Dpdk, "spdk": Spdk,
            "libvhost-user": LibvhostUser, "virtiofsd": Virtiofsd}

# Those with packed rings.
PACKED_FLAVOURS = [name for name in FLAVOURS if name not in ("libvhost-user", "virtiofsd")]
