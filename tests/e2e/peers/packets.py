"""A stream of numbered packets through testpmd, sent and checked by us.

testpmd's pcap port reads and writes capture files; ours are FIFOs, so packets go in and come back
while the test watches. A packet's contents follow from its number. What returns must be in order,
unchanged and no more often than sent; what does not return is counted as lost.
"""

import os
import random
import select
import struct
import time

_FILE_HEADER = struct.Struct("<IHHiIII")
_RECORD_HEADER = struct.Struct("<IIII")
_HEAD = struct.Struct("!6s6sHQ")
_ETHERTYPE = 0x88B5  # for local experiments
BURST = 32  # testpmd forwards when it has read so many
WINDOW = 8 * BURST
_RNG = random.Random(5)
_NOISE = _RNG.randbytes(1 << 16)


def make_packet(number, sizes):
    size = sizes[number % len(sizes)]
    offset = number * 7919 % (len(_NOISE) - size)
    head = _HEAD.pack(b"\x02svqBB", b"\x02svqFF", _ETHERTYPE, number)
    return head + _NOISE[offset : offset + size - len(head)]


class PacketLoop:
    """The two FIFOs, and what went through them so far."""

    def __init__(self, bench, sizes, name="packets"):
        self.sizes = sizes
        self.sent = 0
        self.received = 0
        self.lost = 0
        self._next = 0  # the number after the last one received
        self._flying = {}  # number: contents
        self._stalled = time.monotonic()
        self._out = _FILE_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
        self._in = b""
        self._header_seen = False
        paths = [bench.path(f"{name}-{way}.pcap") for way in ("to", "from")]
        for path in paths:
            os.mkfifo(path)
        # Opened both ways, a FIFO never blocks whoever opens it first.
        self._writer, self._reader = (os.open(p, os.O_RDWR | os.O_NONBLOCK) for p in paths)
        self.port = f"net_pcap0,rx_pcap={paths[0]},tx_pcap={paths[1]}"
        self._write()

    def _write(self):
        try:
            self._out = self._out[os.write(self._writer, self._out) :]
        except BlockingIOError:
            pass

    def _send_burst(self):
        for _ in range(BURST):
            packet = self._flying[self.sent] = make_packet(self.sent, self.sizes)
            self._out += _RECORD_HEADER.pack(0, 0, len(packet), len(packet)) + packet
            self.sent += 1

    def _receive(self):
        self._in += os.read(self._reader, 1 << 20)
        at = 0
        if not self._header_seen and len(self._in) >= _FILE_HEADER.size:
            at = _FILE_HEADER.size
            self._header_seen = True
        while len(self._in) - at >= _RECORD_HEADER.size:
            captured = _RECORD_HEADER.unpack_from(self._in, at)[2]
            start = at + _RECORD_HEADER.size
            if len(self._in) < start + captured:
                break
            self._check(self._in[start : start + captured])
            at = start + captured
        self._in = self._in[at:]

    def _check(self, packet):
        (*_, number) = _HEAD.unpack_from(packet)
        assert number < self.sent, f"packet {number} came back and was never sent: {packet[:64]!r}"
        assert number >= self._next, f"packet {number} came back after {self._next - 1}"
        assert packet == self._flying.pop(number), f"packet {number} came back changed"
        for missing in range(self._next, number):
            del self._flying[missing]
            self.lost += 1
        self._next = number + 1
        self.received += 1
        self._stalled = time.monotonic()

    def pump(self, seconds=0.02, send=True):
        """Send and receive for a moment; returns how many packets have come back in all."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            # Where the last packets of a window were lost nothing will return: go on anyway.
            if time.monotonic() - self._stalled > 0.25:
                room, self._stalled = True, time.monotonic()
            else:
                room = self.sent - self._next <= WINDOW - BURST
            if send and room and not self._out:
                self._send_burst()
            readable, writable, _ = select.select(
                [self._reader], [self._writer] if self._out else [], [], left
            )
            if writable:
                self._write()
            if readable:
                self._receive()
        return self.received

    def drain(self, timeout=2):
        """Stop sending; take what still comes. Afterwards what is missing is lost."""
        end = time.monotonic() + timeout
        while self.received + self.lost < self.sent and time.monotonic() < end:
            self.pump(send=False)
        self.lost = self.sent - self.received
        # End of file: testpmd, which waits for the next packet, can leave.
        os.close(self._writer)

    def close(self):
        """Nobody reads any more."""
        os.close(self._reader)
