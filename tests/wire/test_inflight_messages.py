"""GET_INFLIGHT_FD and SET_INFLIGHT_FD: what svqd answers, what it refuses, and when."""

import fcntl
import os

import pytest
from svqwire import message as wire
from svqwire.frontend import Refused
from svqwire.inflight import (
    FORMATS, KEEPERS, MODES, begin, devices, memfd, negotiated, part_size, set_region,
)
from svqwire.message import Id

F_GET_SEALS = 1034
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW = 1, 2, 4


def get(vmm, queues, entries, fds=1, size=0, offset=0):
    """(fields of the answer, fds)"""
    payload = wire.INFLIGHT.pack(size, offset, queues, entries, 0)
    answer = vmm.ask(Id.GET_INFLIGHT_FD, payload, size=wire.INFLIGHT.size, fds_back=fds)
    body, passed = answer if fds else (answer, [])
    return wire.INFLIGHT.unpack(body), passed


# The answer to GET_INFLIGHT_FD.


@FORMATS
@KEEPERS
@pytest.mark.parametrize("queues, entries", [(1, 1), (2, 64), (4, 128), (3, 1000), (256, 256)])
def test_get(bench, packed, protocol, queues, entries):
    vmm = negotiated(devices(bench, packed, protocol))
    assert vmm.offered_protocol & wire.P_INFLIGHT
    (size, offset, count, num, _), (fd,) = get(vmm, queues, entries)
    assert (size, offset) == (queues * part_size(packed, entries), 0)
    assert (count, num) == (queues, entries)
    assert os.fstat(fd).st_size == size
    assert fcntl.fcntl(fd, F_GET_SEALS) == SEAL_SEAL | SEAL_SHRINK | SEAL_GROW
    assert os.pread(fd, size + 1, 0) == bytes(size)
    os.close(fd)
    vmm.quiet()


def test_the_largest_takes_no_memory_before_it_is_used(bench):
    made = devices(bench)
    before = made.svqd.rss()
    (size, _, _, _, _), (fd,) = get(negotiated(made), 256, 32768)
    assert size == 256 * part_size(False, 32768)
    os.close(fd)
    assert made.svqd.rss() - before < 16 << 10


@pytest.mark.parametrize("queues, entries", [
    (0, 64), (257, 64), (65535, 64), (2, 0), (2, 32769), (2, 65535), (0, 0), (65535, 65535),
])
def test_get_of_nonsense(bench, queues, entries):
    """No region: a size of 0, and no fd."""
    made = devices(bench)
    vmm = negotiated(made)
    assert get(vmm, queues, entries, fds=0) == ((0, 0, 0, 0, 0), [])
    vmm.quiet()
    begin(made.unit)
    made.alive()


def test_get_ignores_what_it_does_not_ask_for(bench):
    vmm = negotiated(devices(bench))
    (size, offset, _, _, _), (fd,) = get(vmm, 2, 64, size=1 << 63, offset=12345)
    assert (size, offset) == (2 * part_size(False, 64), 0)
    os.close(fd)


def test_the_short_form_is_answered_in_full(bench):
    """The specification's text implies 20 bytes; everybody expects C's 24."""
    vmm = negotiated(devices(bench))
    payload = wire.INFLIGHT.pack(0, 0, 2, 64, 0)[:20]
    body, (fd,) = vmm.ask(Id.GET_INFLIGHT_FD, payload, size=24, fds_back=1)
    size, *_ = wire.INFLIGHT.unpack(body)
    vmm.tell(Id.SET_INFLIGHT_FD, body[:20], [fd])
    assert size == 2 * part_size(False, 64)
    os.close(fd)


@KEEPERS
def test_not_without_the_feature(bench, protocol):
    """Of a front-end that has not acked it both are refused, whatever the back-end has."""
    made = devices(bench, protocol=protocol)
    vmm = made.unit.dial()
    vmm.protocol_bits = 0x1FFFF & ~wire.P_INFLIGHT
    vmm.connect()
    assert get(vmm, 2, 64, fds=0) == ((0, 0, 0, 0, 0), [])
    fd = memfd(1 << 16)
    with pytest.raises(Refused):
        set_region(vmm, fd, 1 << 16, 0, 2, 64)
    os.close(fd)
    begin(made.unit)
    made.alive()


# What SET_INFLIGHT_FD may name.

PART = part_size(False, 64)
CASES = {
    "no queues": (2 * PART, 0, 0, 64),
    "257 queues": (1 << 20, 0, 257, 64),
    "no entries": (2 * PART, 0, 2, 0),
    "32769 entries": (1 << 20, 0, 1, 32769),
    "nothing": (0, 0, 2, 64),
    "a byte too few": (2 * PART - 1, 0, 2, 64),
    "larger than the file": ((1 << 20) + 1, 0, 2, 64),
    "of everything": ((1 << 64) - 1, 0, 2, 64),
    "an offset that is not aligned": (2 * PART, 4, 2, 64),
    "an offset behind the file": (2 * PART, 1 << 20, 2, 64),
    "an end behind the file": (2 * PART, (1 << 20) - PART, 2, 64),
    "offset + size wraps": (2 * PART, (1 << 64) - 8, 2, 64),
    "offset + size wraps to 0": ((1 << 64) - 4096, 4096, 2, 64),
}


@KEEPERS
@pytest.mark.parametrize("case", CASES)
def test_set_of_nonsense(bench, protocol, case):
    made = devices(bench, protocol=protocol, own=True)
    vmm = negotiated(made)
    before = made.svqd.fds(), made.svqd.maps()
    fd = memfd(1 << 20)
    with pytest.raises(Refused):
        set_region(vmm, fd, *CASES[case])
    vmm.quiet()
    assert (made.svqd.fds(), made.svqd.maps()) == before
    os.close(fd)
    begin(made.unit)
    made.alive()


@pytest.mark.parametrize("what", ["eventfd", "socket", "read-only", "directory"])
def test_set_of_something_else(bench, folder, what):
    """An fd that is no memory to be shared."""
    made = devices(bench, own=True)
    vmm = negotiated(made)
    if what == "eventfd":
        fd = os.eventfd(0)
    elif what == "socket":
        fd = os.dup(vmm.sock.fileno())
    elif what == "directory":
        fd = os.open(folder, os.O_RDONLY)
    else:
        path = folder / "region"
        path.write_bytes(bytes(1 << 16))
        fd = os.open(path, os.O_RDONLY)
    with pytest.raises(Refused):
        set_region(vmm, fd, 2 * PART, 0, 2, 64)
    os.close(fd)
    begin(made.unit)
    made.alive()


@MODES
@KEEPERS
@pytest.mark.parametrize("offset", [0, 8, 4096, 4096 + 64, 12288 - 8])
def test_set_at_an_offset(bench, shadow, protocol, offset):
    """A region of the front-end's own, somewhere in its file; nothing beside it is written."""
    made = devices(bench, protocol=protocol, shadow=shadow, own=True, num=64)
    vmm, unit = negotiated(made), made.unit
    end = offset + 2 * PART
    fd = memfd(end + 100)
    os.pwrite(fd, b"\xa5" * offset, 0)
    os.pwrite(fd, b"\xa5" * 100, end)
    set_region(vmm, fd, 2 * PART, offset, 2, 64)
    begin(unit)
    unit.io(8)
    made.alive()
    data = os.pread(fd, end + 100, 0)
    os.close(fd)
    assert data[:offset] == b"\xa5" * offset and data[end:] == b"\xa5" * 100
    kept = shadow == "on" or protocol & wire.P_INFLIGHT
    assert any(data[offset:end]) == bool(kept)


def test_a_file_that_is_cut_short_later(bench):
    """svqd sees zeros, and the queue goes on."""
    made = devices(bench, shadow="on", own=True)
    vmm = negotiated(made)
    fd = memfd(2 * PART)
    set_region(vmm, fd, 2 * PART, 0, 2, 64)
    begin(made.unit)
    made.unit.io(4)
    os.ftruncate(fd, 0)
    made.unit.io(16)
    assert "truncated memory" in made.svqd.log()
    os.close(fd)


# At which times.


@MODES
@KEEPERS
def test_while_rings_run(bench, shadow, protocol):
    """The memory under running rings stays; naming it again is no change."""
    made = devices(bench, protocol=protocol, shadow=shadow)
    vmm = begin(made.unit)
    assert get(vmm, 2, 64, fds=0) == ((0, 0, 0, 0, 0), [])
    fd = memfd(1 << 16)
    with pytest.raises(Refused):
        set_region(vmm, fd, 2 * PART, 0, 2, 64)
    os.close(fd)
    vmm.set_inflight()
    made.alive()
    bases = vmm.stop()
    fd = memfd(2 * part_size(False, 256))
    set_region(vmm, fd, 2 * part_size(False, 256), 0, 2, 256)
    vmm.keeps_region = False
    vmm.start(bases)
    made.alive()
    kept = shadow == "on" or protocol & wire.P_INFLIGHT
    assert any(os.pread(fd, 2 * part_size(False, 256), 0)) == bool(kept)
    os.close(fd)


@KEEPERS
def test_nothing_is_left_behind(bench, protocol):
    """Hundreds of regions, one after the other, in one session."""
    made = devices(bench, protocol=protocol)
    vmm = negotiated(made)

    def exchange():
        _, (fd,) = get(vmm, 4, 256)
        set_region(vmm, fd, 4 * part_size(False, 256), 0, 4, 256)
        os.close(fd)
        fd = memfd(1 << 16)
        set_region(vmm, fd, 2 * PART, 0, 2, 64)
        os.close(fd)

    exchange()
    before = made.svqd.fds(), made.svqd.maps()
    for _ in range(300):
        exchange()
    assert (made.svqd.fds(), made.svqd.maps()) == before
    begin(made.unit)
    made.alive()


@MODES
@KEEPERS
def test_starts_and_stops_leak_nothing(bench, shadow, protocol):
    made = devices(bench, protocol=protocol, shadow=shadow)
    unit, before = made.unit, []
    for _ in range(20):
        begin(unit)
        unit.io(2)
        unit.vmm.stop()
        unit.guest.restart()
        before.append((made.svqd.fds(), made.svqd.maps()))
    assert before[-1] == before[4]
