"""The scripted front-end: what all VMMs have in common.

Replies are read as Cloud Hypervisor and crosvm read them: header and *expected* body in one
block. A shorter reply runs into the deadline, a longer one is found by quiet() or desynchronises
the next; the flags must be exactly VERSION | REPLY.
"""

import socket

from . import message as wire
from .message import HEADER, Id, Message
from .region import Region
from .wait import Late, readable, wait_until


class Refused(Exception):
    """A non-zero ack."""


class FrontEnd:
    acks_all = False  # every message asks for an ack
    acks = ()  # these do

    def __init__(self, address, guest, seconds=10.0, listen=False):
        self.address, self.guest, self.seconds = str(address), guest, seconds
        self.offered = self.acked = self.offered_protocol = self.protocol = 0
        self.listener = self.region = None
        if listen:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.address)
            self.listener.listen(4)
            self.listener.settimeout(seconds)
            self.sock = None
        else:
            self.sock = self.dial()

    def dial(self):
        def attempt():
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self.address)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                return None
            sock.settimeout(self.seconds)
            return sock

        return wait_until(attempt, f"a listener at {self.address}", self.seconds)

    def accept(self):
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(self.seconds)

    # Sending and receiving.

    def post(self, id, payload=b"", fds=(), flags=wire.VERSION):
        """Sends; waits for nothing."""
        Message(id, flags, payload, list(fds)).send(self.sock)

    def reply(self, id, size, fds=0):
        """The body of exactly the reply that is expected."""
        try:
            data, passed = wire.receive_exactly(self.sock, HEADER.size + size, fds)
        except TimeoutError:
            raise Late(f"{wire.name_of(id)}: no whole reply in {self.seconds} s") from None
        number, flags, length = HEADER.unpack_from(data)
        assert number == id, f"reply to {wire.name_of(number)} instead of {wire.name_of(id)}"
        assert flags == wire.VERSION | wire.REPLY, f"{wire.name_of(id)}: reply flags {flags:#x}"
        assert length == size, f"{wire.name_of(id)}: reply size {length} instead of {size}"
        assert len(passed) == fds, f"{wire.name_of(id)}: {len(passed)} fds instead of {fds}"
        body = data[HEADER.size :]
        return (body, passed) if fds else body

    def wants_ack(self, id):
        return bool(self.protocol & wire.P_REPLY_ACK) and (self.acks_all or id in self.acks)

    def tell(self, id, payload=b"", fds=(), ack=None):
        """A message without a typed reply, with an ack where this VMM asks for one."""
        ack = self.wants_ack(id) if ack is None else ack
        self.post(id, payload, fds, wire.VERSION | (wire.NEED_REPLY if ack else 0))
        if ack:
            status = wire.U64.unpack(self.reply(id, 8))[0]
            if status:
                raise Refused(f"{wire.name_of(id)}: {status:#x}")

    def ask(self, id, payload=b"", fds=(), size=8, fds_back=0):
        """A message with a typed reply of `size` bytes."""
        need = wire.NEED_REPLY if self.acks_all and self.wants_ack(id) else 0
        self.post(id, payload, fds, wire.VERSION | need)
        return self.reply(id, size, fds_back)

    def ask_u64(self, id, payload=b"", fds=()):
        return wire.U64.unpack(self.ask(id, payload, fds))[0]

    def sync(self):
        """Returns once everything posted before was handled."""
        assert self.ask_u64(Id.GET_FEATURES) == self.offered

    def quiet(self):
        """Asserts that nobody sent more than was read."""
        self.sync()
        assert not readable(self.sock), "surplus bytes from the back-end"

    def closed_by_peer(self, seconds=5.0):
        """Waits for the other end to close; bytes before the end are dropped."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(4096):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise Late(f"the front-end's connection is still open after {seconds} s") from None
        return True

    def close(self):
        for sock in (self.sock, self.listener):
            if sock:
                sock.close()
        self.forget_region()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # Messages.

    def get_features(self):
        self.offered = self.ask_u64(Id.GET_FEATURES)
        return self.offered

    def get_protocol_features(self):
        self.offered_protocol = self.ask_u64(Id.GET_PROTOCOL_FEATURES)
        return self.offered_protocol

    def set_protocol_features(self, value):
        self.tell(Id.SET_PROTOCOL_FEATURES, wire.u64(value), ack=False)
        self.protocol = value

    def set_owner(self):
        self.tell(Id.SET_OWNER, ack=False)

    def set_features(self, value=None):
        self.acked = self.acked if value is None else value
        self.tell(Id.SET_FEATURES, wire.u64(self.acked))

    def set_mem_table(self):
        memory = self.guest.memory
        self.tell(Id.SET_MEM_TABLE, memory.table(), memory.fds())

    def add_mem_reg(self, region):
        self.tell(Id.ADD_MEM_REG, wire.mem_reg(*region.wire()), [region.fd])

    def rem_mem_reg(self, region):
        payload = wire.mem_reg(region.gpa, region.size, region.uaddr, 0)
        self.tell(Id.REM_MEM_REG, payload)

    def vring_num(self, queue):
        self.tell(Id.SET_VRING_NUM, wire.vring_state(queue.index, queue.ring.num))

    def vring_addr(self, queue, flags=0, log=0):
        ring, uaddr = queue.ring, self.guest.memory.uaddr
        payload = wire.vring_addr(
            queue.index, uaddr(ring.desc_gpa), uaddr(ring.used_gpa), uaddr(ring.avail_gpa),
            flags, log,
        )
        self.tell(Id.SET_VRING_ADDR, payload)

    def vring_base(self, queue, base):
        self.tell(Id.SET_VRING_BASE, wire.vring_state(queue.index, base))

    def vring_fd(self, id, queue, event):
        if event is None:
            self.tell(id, wire.u64(queue.index | wire.NO_FD))
        else:
            self.tell(id, wire.u64(queue.index), [event.fd])

    def vring_kick(self, queue):
        self.vring_fd(Id.SET_VRING_KICK, queue, queue.kick)

    def vring_call(self, queue, event=None):
        self.vring_fd(Id.SET_VRING_CALL, queue, event or queue.call)

    def vring_err(self, queue):
        self.vring_fd(Id.SET_VRING_ERR, queue, queue.err)

    def vring_enable(self, queue, enable=1):
        self.tell(Id.SET_VRING_ENABLE, wire.vring_state(queue.index, enable))

    def get_vring_base(self, queue):
        body = self.ask(Id.GET_VRING_BASE, wire.vring_state(queue.index, 0))
        index, base = wire.VRING_STATE.unpack(body)
        assert index == queue.index, f"GET_VRING_BASE: index {index} for queue {queue.index}"
        assert base <= 0xFFFF or queue.ring.is_packed, f"GET_VRING_BASE: {base:#x}"
        return base

    def get_config(self, offset, size, flags=0):
        body = self.ask(
            Id.GET_CONFIG, wire.config(offset, size, flags), size=wire.CONFIG.size + size
        )
        assert wire.CONFIG.unpack_from(body)[:2] == (offset, size), "GET_CONFIG: other range"
        return body[wire.CONFIG.size :]

    def set_config(self, offset, data, flags=0):
        self.tell(Id.SET_CONFIG, wire.config(offset, len(data), flags, data))

    def get_inflight(self):
        queues, packed = self.guest.count, bool(self.guest.options.get("packed"))
        entries = self.guest.queues[0].ring.num
        body, fds = self.ask(Id.GET_INFLIGHT_FD, wire.INFLIGHT.pack(0, 0, queues, entries, 0),
                             size=wire.INFLIGHT.size, fds_back=1)
        size, offset, count, num, _ = wire.INFLIGHT.unpack(body)
        assert (count, num) == (queues, entries), f"a region for {count} queues of {num}"
        self.forget_region()
        self.region = Region(fds[0], size, offset, count, num, packed)

    def set_inflight(self):
        self.tell(Id.SET_INFLIGHT_FD, self.region.payload(), [self.region.fd])

    def forget_region(self):
        if self.region:
            self.region.close()
        self.region = None

    def inherit_region(self, other):
        """The same VMM on a new connection."""
        self.region, other.region = other.region, None

    def set_log_base(self, log):
        """The reply has to be the 16-byte LOG payload with a size that is not 0."""
        body = self.ask(Id.SET_LOG_BASE, log.payload(), [log.fd], size=wire.LOG.size)
        assert wire.LOG.unpack(body)[0] != 0, "SET_LOG_BASE: the reply's log size is 0"

    def device_state(self, direction, fd):
        value = self.ask_u64(
            Id.SET_DEVICE_STATE_FD, wire.DEVICE_STATE.pack(direction, 0), [fd]
        )
        assert value & 0xFF == 0, f"SET_DEVICE_STATE_FD: error {value:#x}"
        assert value & wire.NO_FD, "SET_DEVICE_STATE_FD: an fd is promised and none came"

    def check_device_state(self):
        assert self.ask_u64(Id.CHECK_DEVICE_STATE) == 0
