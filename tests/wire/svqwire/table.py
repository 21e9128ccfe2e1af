"""What the vhost-user specification says of each message a front-end sends.

Written apart from svqd's own table on purpose: the scripted back-end judges by this one.
"""

from . import message as wire
from .message import Id

ANY = None  # size or number of fds judged by the handler
U64, STATE, ADDR, REGION, LOG, INFLIGHT = 8, 8, 40, 40, 16, 24

# id: (payload size, fds, protocol feature needed)
RULES = {
    Id.GET_FEATURES: (0, 0, 0),
    Id.SET_FEATURES: (U64, 0, 0),
    Id.SET_OWNER: (0, 0, 0),
    Id.RESET_OWNER: (0, 0, 0),
    Id.SET_MEM_TABLE: (ANY, ANY, 0),
    Id.SET_LOG_BASE: (LOG, 1, wire.P_LOG_SHMFD),
    Id.SET_LOG_FD: (0, 1, 0),
    Id.SET_VRING_NUM: (STATE, 0, 0),
    Id.SET_VRING_ADDR: (ADDR, 0, 0),
    Id.SET_VRING_BASE: (STATE, 0, 0),
    Id.GET_VRING_BASE: (STATE, 0, 0),
    Id.SET_VRING_KICK: (U64, ANY, 0),
    Id.SET_VRING_CALL: (U64, ANY, 0),
    Id.SET_VRING_ERR: (U64, ANY, 0),
    Id.GET_PROTOCOL_FEATURES: (0, 0, 0),
    Id.SET_PROTOCOL_FEATURES: (U64, 0, 0),
    Id.GET_QUEUE_NUM: (0, 0, wire.P_MQ),
    Id.SET_VRING_ENABLE: (STATE, 0, 0),
    Id.SEND_RARP: (U64, 0, wire.P_RARP),
    Id.NET_SET_MTU: (U64, 0, wire.P_MTU),
    Id.SET_BACKEND_REQ_FD: (0, 1, wire.P_BACKEND_REQ),
    Id.SET_VRING_ENDIAN: (STATE, 0, wire.P_CROSS_ENDIAN),
    Id.GET_CONFIG: (ANY, 0, wire.P_CONFIG),
    Id.SET_CONFIG: (ANY, 0, wire.P_CONFIG),
    Id.GET_INFLIGHT_FD: (INFLIGHT, 0, wire.P_INFLIGHT),
    Id.SET_INFLIGHT_FD: (INFLIGHT, 1, wire.P_INFLIGHT),
    Id.RESET_DEVICE: (0, 0, wire.P_RESET_DEVICE),
    Id.GET_MAX_MEM_SLOTS: (0, 0, wire.P_MEM_SLOTS),
    Id.ADD_MEM_REG: (REGION, 1, wire.P_MEM_SLOTS),
    Id.REM_MEM_REG: (REGION, 0, wire.P_MEM_SLOTS),
    Id.SET_STATUS: (U64, 0, wire.P_STATUS),
    Id.GET_STATUS: (0, 0, wire.P_STATUS),
    Id.SET_DEVICE_STATE_FD: (8, 1, wire.P_DEVICE_STATE),
    Id.CHECK_DEVICE_STATE: (0, 0, wire.P_DEVICE_STATE),
}

FD_MESSAGES = (Id.SET_VRING_KICK, Id.SET_VRING_CALL, Id.SET_VRING_ERR)
CONFIG_MESSAGES = (Id.GET_CONFIG, Id.SET_CONFIG)


def violations(message, protocol):
    """What is wrong with `message` by itself, given the negotiated protocol features."""
    try:
        rule = RULES[Id(message.id)]
    except (KeyError, ValueError):
        return [f"{message.name}: unknown to the back-end"]
    size, fds, needed = rule
    found = []
    if message.flags & ~wire.NEED_REPLY != wire.VERSION:
        found.append(f"flags {message.flags:#x}")
    if message.flags & wire.NEED_REPLY and not protocol & wire.P_REPLY_ACK:
        found.append("NEED_REPLY without REPLY_ACK")
    if needed and not protocol & needed:
        found.append(f"protocol feature {needed:#x} not negotiated")
    if message.id == Id.SET_MEM_TABLE:
        count = wire.MEM_HEADER.unpack_from(message.payload)[0]
        size, fds = wire.MEM_HEADER.size + 32 * count, count
    elif message.id in FD_MESSAGES:
        size = U64
        fds = 0 if message.u64() & wire.NO_FD else 1
    elif message.id in CONFIG_MESSAGES:
        size, fds = wire.CONFIG.size + wire.CONFIG.unpack_from(message.payload)[1], 0
    if len(message.payload) != size:
        found.append(f"size {len(message.payload)} instead of {size}")
    if len(message.fds) != fds:
        found.append(f"{len(message.fds)} fds instead of {fds}")
    return [f"{message.name}: {text}" for text in found]
