"""The vhost-user message: ids, feature bits, payload layouts and fd passing.

The layouts are those of the vhost-user specification; the sizes are written out once more in
the tests that check svqd's replies, so that a mistake here cannot hide one there.
"""

import enum
import socket
import struct
from dataclasses import dataclass, field

HEADER = struct.Struct("<III")
VERSION = 0x1
REPLY = 0x4
NEED_REPLY = 0x8
NO_FD = 0x100  # bit 8 of the u64 of KICK, CALL, ERR and of the device state reply


class Id(enum.IntEnum):
    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44


class BackendId(enum.IntEnum):
    """Requests that travel from the back-end, over the channel of SET_BACKEND_REQ_FD."""

    IOTLB_MSG = 1
    CONFIG_CHANGE = 2
    VRING_HOST_NOTIFIER = 3


def bit(number):
    return 1 << number


# Virtio feature bits.
F_LOG_ALL = bit(26)
F_INDIRECT = bit(28)
F_EVENT_IDX = bit(29)
F_PROTOCOL = bit(30)
F_VERSION_1 = bit(32)
F_ACCESS_PLATFORM = bit(33)
F_PACKED = bit(34)
F_IN_ORDER = bit(35)
F_ORDER_PLATFORM = bit(36)
F_NOTIFICATION_DATA = bit(38)
F_RING_RESET = bit(40)

# vhost-user protocol feature bits.
P_MQ = bit(0)
P_LOG_SHMFD = bit(1)
P_RARP = bit(2)
P_REPLY_ACK = bit(3)
P_MTU = bit(4)
P_BACKEND_REQ = bit(5)
P_CROSS_ENDIAN = bit(6)
P_PAGEFAULT = bit(8)
P_CONFIG = bit(9)
P_BACKEND_SEND_FD = bit(10)
P_HOST_NOTIFIER = bit(11)
P_INFLIGHT = bit(12)
P_RESET_DEVICE = bit(13)
P_INBAND = bit(14)
P_MEM_SLOTS = bit(15)
P_STATUS = bit(16)
P_XEN = bit(17)
P_DEVICE_STATE = bit(19)

U64 = struct.Struct("<Q")
VRING_STATE = struct.Struct("<II")
VRING_ADDR = struct.Struct("<IIQQQQ")
MEM_HEADER = struct.Struct("<II")
MEM_REGION = struct.Struct("<QQQQ")
LOG = struct.Struct("<QQ")
CONFIG = struct.Struct("<III")
INFLIGHT = struct.Struct("<QQHHI")
DEVICE_STATE = struct.Struct("<II")


def u64(value):
    return U64.pack(value)


def vring_state(index, value):
    return VRING_STATE.pack(index, value)


def vring_addr(index, desc, used, avail, flags=0, log=0):
    return VRING_ADDR.pack(index, flags, desc, used, avail, log)


def mem_table(regions, count=None):
    """`regions`: (gpa, size, uaddr, mmap_offset) each. `count` lies about their number."""
    header = MEM_HEADER.pack(len(regions) if count is None else count, 0)
    return header + b"".join(MEM_REGION.pack(*region) for region in regions)


def mem_reg(gpa, size, uaddr, offset=0):
    return U64.pack(0) + MEM_REGION.pack(gpa, size, uaddr, offset)


def config(offset, size, flags=0, data=None):
    return CONFIG.pack(offset, size, flags) + (bytes(size) if data is None else data)


def name_of(number):
    try:
        return Id(number).name
    except ValueError:
        return f"#{number}"


@dataclass
class Message:
    id: int
    flags: int = VERSION
    payload: bytes = b""
    fds: list = field(default_factory=list)

    @property
    def name(self):
        return name_of(self.id)

    def u64(self):
        return U64.unpack(self.payload)[0]

    def pack(self):
        return HEADER.pack(self.id, self.flags, len(self.payload)) + self.payload

    def send(self, sock):
        if self.fds:
            sent = socket.send_fds(sock, [self.pack()], self.fds)
            assert sent == HEADER.size + len(self.payload)
        else:
            sock.sendall(self.pack())


class Closed(Exception):
    """The peer closed the connection."""


def receive_exactly(sock, size, max_fds=0):
    """`size` bytes and the fds that came with them."""
    data, fds = b"", []
    while len(data) < size:
        try:
            part, new, flags, _ = socket.recv_fds(sock, size - len(data), max(max_fds, 1))
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Closed(str(error)) from error
        fds.extend(new)
        assert not flags & socket.MSG_CTRUNC, "more fds than the receiver has room for"
        if not part:
            raise Closed("end of stream" + (" inside a message" if data else ""))
        data += part
    return data, fds


def receive(sock, max_fds=32):
    """One message at the size its own header gives (as a back-end reads)."""
    head, fds = receive_exactly(sock, HEADER.size, max_fds)
    number, flags, size = HEADER.unpack(head)
    payload = b""
    if size:
        payload, more = receive_exactly(sock, size, max_fds)
        fds.extend(more)
    return Message(number, flags, payload, fds)
