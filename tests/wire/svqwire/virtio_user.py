"""DPDK's virtio-user port as front-end: status, and calls before anything else."""

from . import message as wire
from .message import Id
from .vmm import Vmm

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8


class VirtioUser(Vmm):
    ring_bits = (
        wire.F_VERSION_1 | wire.F_INDIRECT | wire.F_IN_ORDER | wire.F_PACKED
        | wire.F_NOTIFICATION_DATA | wire.F_ORDER_PLATFORM | wire.F_PROTOCOL
    )
    protocol_bits = wire.P_MQ | wire.P_REPLY_ACK | wire.P_STATUS
    acks = (Id.SET_MEM_TABLE, Id.SET_STATUS)

    def connect(self):
        self.set_owner()
        self.learn()

    def learn(self):
        self.get_features()
        self.set_protocol_features(self.get_protocol_features() & self.protocol_bits)

    def set_status(self, value):
        if self.protocol & wire.P_STATUS:
            self.tell(Id.SET_STATUS, wire.u64(value))

    def get_status(self):
        return self.ask_u64(Id.GET_STATUS) if self.protocol & wire.P_STATUS else FEATURES_OK

    def negotiate(self):
        for queue in self.guest.queues:
            self.vring_call(queue)
        self.set_features(self.acceptable())
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.get_status() & FEATURES_OK

    def start(self):
        self.get_status()
        self.set_mem_table()
        for queue in self.guest.queues:
            self.vring_num(queue)
            self.vring_base(queue, queue.ring.start_base & 0xFFFF)  # it knows half of a base
            self.vring_addr(queue)
            self.vring_kick(queue)
        self.enable(range(2))
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def enable(self, indices, enable=1):
        for index in indices:
            self.vring_enable(self.guest.queues[index], enable)

    def memory_event(self):
        """Any change of DPDK's memory."""
        pairs = range(len(self.guest.queues))
        self.enable(pairs, 0)
        self.set_mem_table()
        self.enable(pairs)

    def stop(self):
        self.enable(range(len(self.guest.queues)), 0)
        return [self.get_vring_base(queue) for queue in self.guest.queues]

    def greet_again(self):
        """Server mode, on a new connection: no SET_OWNER, and stops come first."""
        self.protocol = 0
        self.stop()
        self.learn()
        self.negotiate()
        self.start()
