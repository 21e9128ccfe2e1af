"""Messages that break the framing: sizes, fds, versions, splits.

The offender's connection is closed with a DEVICE_ERROR, its fds are closed, a new session of the
same device works, and another device does I/O all the while.
"""

import os
import socket

import pytest
from svqwire import message as wire
from svqwire.bench import AckingQemu
from svqwire.message import HEADER, Id, Message
from svqwire.table import CONFIG_MESSAGES, FD_MESSAGES, RULES

FIXED = {id: (size, fds) for id, (size, fds, _) in RULES.items() if None not in (size, fds)}


@pytest.fixture
def spare():
    """A function that makes fds to send."""
    fds = []

    def make(count):
        fds.extend(os.memfd_create("spare") for _ in range(count))
        for fd in fds[-count:]:
            os.ftruncate(fd, 1 << 20)
        return fds[-count:] if count else []

    yield make
    for fd in fds:
        os.close(fd)


class Offence:
    """Sends something on a fresh connection and looks at what svqd makes of it."""

    def __init__(self, bench):
        self.bench = bench
        self.unit, self.neighbour = bench.units
        self.failures = []

    def connection(self):
        vmm = self.unit.dial(seconds=5.0)
        vmm.set_owner()
        vmm.get_features()
        vmm.set_protocol_features(vmm.get_protocol_features())
        vmm.set_features(wire.F_VERSION_1 | wire.F_PROTOCOL)
        return vmm

    def fatal(self, what, send):
        """send(vmm) has to end the connection."""
        vmm = self.connection()
        self.bench.qmp.drain().clear()
        try:
            send(vmm)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            vmm.closed_by_peer(3.0)
            self.bench.qmp.wait_event("DEVICE_ERROR", id="dev0", seconds=3.0)
        except AssertionError as error:
            self.failures.append(f"{what}: {error}")
        self.unit.hang_up()

    def harmless(self, what, send):
        """send(vmm) may be refused or end the connection, and nothing else."""
        vmm = self.connection()
        try:
            send(vmm)
            vmm.post(Id.GET_FEATURES)
            while wire.receive(vmm.sock).id != Id.GET_FEATURES:
                pass
        except (wire.Closed, BrokenPipeError, ConnectionResetError):
            pass
        except TimeoutError:
            self.failures.append(f"{what}: neither an answer nor an end in 5 s")
        self.unit.hang_up()

    def judge(self):
        assert not self.failures, "\n".join(self.failures)
        self.neighbour.io()
        self.bench.fresh()
        self.bench.no_leak()


@pytest.fixture
def offence(bench):
    made = bench(devices=2, start=False)
    made.judged = False  # a message may reach the back-end at an odd moment
    made.units[1].start()
    offence = Offence(made)
    yield offence
    offence.judge()


# Older or odder front-ends send these so.
TOLERATED = {
    (Id.SET_LOG_BASE, 8), (Id.SET_LOG_FD, 8), (Id.SET_BACKEND_REQ_FD, 8),
    # Without all of the padding at the end.
    (Id.GET_INFLIGHT_FD, 23), (Id.SET_INFLIGHT_FD, 23),
}


def test_sizes(offence, spare):
    for id, (size, fds) in FIXED.items():
        for wrong in {size + 8, size + 1, max(size - 1, 0), 0, 4096} - {size}:
            if (id, wrong) in TOLERATED:
                continue
            offence.fatal(
                f"{id.name} with {wrong} bytes instead of {size}",
                lambda vmm, id=id, wrong=wrong, fds=fds: vmm.post(id, bytes(wrong), spare(fds)),
            )
        offence.neighbour.io(2)


@pytest.mark.parametrize("size", [0x10000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_huge_sizes(offence, size):
    """Only the header is sent: nothing that long may be waited for or allocated."""
    for id in (*RULES, 45, 1000):
        offence.fatal(
            f"{wire.name_of(id)} of {size:#x} bytes",
            lambda vmm, id=id: vmm.sock.sendall(HEADER.pack(id, wire.VERSION, size)),
        )


def test_variable_sizes(offence, spare):
    """Payloads whose own counts disagree with the message's size."""
    region = (0x1000, 0x1000, 0x10000, 0)
    tables = {
        "no region": (wire.mem_table([]), 0),
        "more regions than bytes": (wire.mem_table([region], count=2), 1),
        "0xffffffff regions": (wire.mem_table([region], count=0xFFFFFFFF), 1),
        "the header cut": (b"\0" * 4, 0),
        "a region cut": (wire.mem_table([region])[:-8], 1),
    }
    for what, (payload, fds) in tables.items():
        offence.fatal(
            f"SET_MEM_TABLE, {what}",
            lambda vmm, payload=payload, fds=fds: vmm.post(Id.SET_MEM_TABLE, payload, spare(fds)),
        )
    configs = {
        "the header cut": bytes(8),
        "more than comes": wire.CONFIG.pack(0, 64, 0) + bytes(32),
        "less than comes": wire.CONFIG.pack(0, 16, 0) + bytes(32),
        "0xffffffff": wire.CONFIG.pack(0, 0xFFFFFFFF, 0) + bytes(16),
    }
    for id in CONFIG_MESSAGES:
        for what, payload in configs.items():
            offence.fatal(
                f"{id.name}, {what}", lambda vmm, id=id, payload=payload: vmm.post(id, payload)
            )


def test_missing_fds(offence, spare):
    needing = [id for id, (_, fds) in FIXED.items() if fds and id != Id.SET_LOG_BASE]
    for id in needing:
        offence.fatal(
            f"{id.name} without its fd", lambda vmm, id=id: vmm.post(id, bytes(FIXED[id][0]))
        )
    for id in FD_MESSAGES:
        offence.fatal(f"{id.name} without its fd", lambda vmm, id=id: vmm.post(id, wire.u64(0)))
    regions = [(n << 20, 1 << 20, n << 20, 0) for n in range(1, 4)]
    for fds in (0, 1, 2):
        offence.fatal(
            f"SET_MEM_TABLE of 3 regions with {fds} fds",
            lambda vmm, fds=fds: vmm.post(Id.SET_MEM_TABLE, wire.mem_table(regions), spare(fds)),
        )


def test_surplus_fds(offence, spare):
    """Whatever becomes of the message, the fds are closed."""
    for id, (size, fds) in FIXED.items():
        for surplus in (1, 8):
            offence.harmless(
                f"{id.name} with {surplus} fds too many",
                lambda vmm, id=id, size=size, n=fds + surplus: vmm.post(id, bytes(size), spare(n)),
            )
    for id in FD_MESSAGES:
        for value, fds in ((0, 2), (wire.NO_FD, 1)):
            offence.harmless(
                f"{id.name} {value:#x} with {fds} fds",
                lambda vmm, id=id, v=value, n=fds: vmm.post(id, wire.u64(v), spare(n)),
            )
    region = (0x100000, 1 << 20, 0x100000, 0)
    for fds in (2, 9, 33, 64):
        offence.harmless(
            f"SET_MEM_TABLE of 1 region with {fds} fds",
            lambda vmm, n=fds: vmm.post(Id.SET_MEM_TABLE, wire.mem_table([region]), spare(n)),
        )


@pytest.mark.parametrize("flags", [0, 2, 3, 0x5, 0x8, 0xD, 0x10001, 0xFFFFFFFF])
def test_flags(offence, flags):
    """Another version, a reply, unknown bits."""
    offence.harmless(f"flags {flags:#x}", lambda vmm: vmm.post(Id.GET_FEATURES, flags=flags))
    if flags & 3 != wire.VERSION:
        offence.fatal(f"flags {flags:#x}", lambda vmm: vmm.post(Id.GET_FEATURES, flags=flags))


def test_disconnect_in_mid_message(offence, spare):
    """The end of the stream at every place of a message, with and without fds."""
    unit = offence.unit
    messages = [
        Message(Id.SET_FEATURES, wire.VERSION, wire.u64(wire.F_VERSION_1)),
        Message(Id.SET_VRING_KICK, wire.VERSION, wire.u64(0), spare(1)),
        Message(Id.SET_LOG_BASE, wire.VERSION, wire.LOG.pack(4096, 0), spare(1)),
        Message(Id.SET_MEM_TABLE, wire.VERSION,
                wire.mem_table([(n << 20, 1 << 20, n << 20, 0) for n in range(1, 9)]), spare(8)),
    ]
    for message in messages:
        data = message.pack()
        for length in {*range(1, 14), len(data) // 2, len(data) - 1}:
            vmm = offence.connection()
            if message.fds:
                socket.send_fds(vmm.sock, [data[:length]], message.fds)
            else:
                vmm.sock.sendall(data[:length])
            unit.hang_up()
            unit.backend.wait_disconnected()
    offence.neighbour.io()


def test_slow_sender(offence):
    """A message in single bytes is a message; meanwhile others are served."""
    vmm = offence.connection()
    data = Message(Id.GET_FEATURES).pack() + Message(Id.GET_QUEUE_NUM).pack()
    for position in range(len(data)):
        vmm.sock.sendall(data[position : position + 1])
        offence.neighbour.io(1)
    assert vmm.reply(Id.GET_FEATURES, 8) == wire.u64(vmm.offered)
    assert vmm.reply(Id.GET_QUEUE_NUM, 8) == wire.u64(4)


def test_many_messages_at_once(offence):
    """Messages that arrive in one piece are answered one by one, in order."""
    vmm = offence.connection()
    batch = (Id.GET_FEATURES, Id.GET_QUEUE_NUM, Id.GET_PROTOCOL_FEATURES)
    vmm.sock.sendall(b"".join(Message(id).pack() for id in batch) * 50)
    for _ in range(50):
        for id in batch:
            vmm.reply(id, 8)
    vmm.quiet()


@pytest.mark.parametrize("id", [0, 45, 46, 77, 1 << 20, 0xFFFFFFFF])
def test_unknown_ids(offence, spare, id):
    """Refused when an ack is asked for, else ignored; never fatal."""
    vmm = offence.connection()
    for size in (0, 8, 64):
        vmm.post(id, bytes(size), flags=wire.VERSION | wire.NEED_REPLY)
        assert wire.U64.unpack(vmm.reply(id, 8))[0] != 0
        vmm.post(id, bytes(size))
        vmm.quiet()
    vmm.post(id, bytes(8), spare(3))
    vmm.quiet()


def test_second_front_end(offence):
    """While one front-end is connected, another one gets nothing and breaks nothing."""
    vmm = offence.connection()
    other = AckingQemu(offence.unit.address, offence.unit.guest, seconds=0.2)
    other.post(Id.GET_FEATURES)
    vmm.quiet()
    other.close()
    vmm.quiet()
    offence.neighbour.io()
