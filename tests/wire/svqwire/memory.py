"""Guest memory: memfd regions, mapped here, given to a back-end by fd.

Ring indices are stored through memoryviews cast to the native 16-bit type: CPython stores such
an item with one 16-bit move, where struct.pack_into("<H") stores two single bytes and a polling
peer could see half of an index.
"""

import mmap
import os
import threading

from . import message as wire

PAGE = 4096
MIB = 1 << 20
_fence = threading.Lock()


def barrier():
    """A full memory barrier: taking a lock is an atomic read-modify-write."""
    with _fence:
        pass


class Region:
    def __init__(self, gpa, size, uaddr, file_offset=0, name="guest"):
        self.gpa, self.size, self.uaddr, self.offset = gpa, size, uaddr, file_offset
        self.fd = os.memfd_create(name)
        os.ftruncate(self.fd, file_offset + size)
        self.map = mmap.mmap(self.fd, file_offset + size)
        self.view = memoryview(self.map)[file_offset:]

    def wire(self):
        return (self.gpa, self.size, self.uaddr, self.offset)

    def close(self):
        os.close(self.fd)
        self.fd = -1


class GuestMemory:
    """Regions, translation, and a page allocator that never frees (a test's memory is small)."""

    def __init__(self, regions=((0, 8 * MIB), (1 << 32, 8 * MIB)), uaddr=0x7F1200000000):
        self.regions = []
        for gpa, size in regions:
            self.add(gpa, size, uaddr + gpa)
        self.next = {}

    def add(self, gpa, size, uaddr, file_offset=0):
        region = Region(gpa, size, uaddr, file_offset)
        self.regions.append(region)
        return region

    def remove(self, region):
        self.regions.remove(region)
        region.close()

    def close(self):
        for region in list(self.regions):
            self.remove(region)

    def find(self, gpa, size):
        for region in self.regions:
            if region.gpa <= gpa and gpa + size <= region.gpa + region.size:
                return region
        raise AssertionError(f"no region holds {gpa:#x}+{size:#x}")

    def view(self, gpa, size):
        region = self.find(gpa, size)
        start = gpa - region.gpa
        return region.view[start : start + size]

    def read(self, gpa, size):
        return bytes(self.view(gpa, size))

    def write(self, gpa, data):
        self.view(gpa, len(data))[:] = data

    def uaddr(self, gpa):
        region = self.find(gpa, 1)
        return region.uaddr + gpa - region.gpa

    def alloc(self, size, align=PAGE, region=0):
        """Fresh guest memory; page 0 of a region stays unused, so that 0 is never an address."""
        start = self.next.get(region, PAGE)
        start = (start + align - 1) // align * align
        assert start + size <= self.regions[region].size, "the test's guest memory is used up"
        self.next[region] = start + size
        return self.regions[region].gpa + start

    def table(self):
        return wire.mem_table([r.wire() for r in self.regions])

    def fds(self):
        return [r.fd for r in self.regions]

    def last_gpa(self):
        return max(r.gpa + r.size for r in self.regions) - 1

    def pages(self):
        """(gpa, bytes) of every page."""
        for region in self.regions:
            for start in range(0, region.size, PAGE):
                yield region.gpa + start, region.view[start : start + PAGE]
