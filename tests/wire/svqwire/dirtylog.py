"""A dirty bitmap in a memfd, as SET_LOG_BASE passes it; used by the VMM's and the logging end."""

import mmap
import os

from . import message as wire
from .memory import PAGE

CANARY = 0xC7


class DirtyLog:
    """The VMM's side. Bytes around the log hold a canary, so that stray writes are seen."""

    def __init__(self, size, offset=0):
        self.size, self.offset = size, offset
        self.length = (offset + size + PAGE) // PAGE * PAGE
        self.fd = os.memfd_create("log")
        os.ftruncate(self.fd, self.length)
        self.map = mmap.mmap(self.fd, self.length)
        self.view = memoryview(self.map)
        self.view[:offset] = bytes([CANARY]) * offset
        tail = self.length - offset - size
        self.view[offset + size :] = bytes([CANARY]) * tail

    @classmethod
    def for_memory(cls, memory):
        """Cloud Hypervisor's size: one bit a page, rounded up to bytes and to nothing more."""
        return cls(memory.last_gpa() // (8 * PAGE) + 1)

    def payload(self):
        return wire.LOG.pack(self.size, self.offset)

    def bytes(self):
        return bytes(self.view[self.offset : self.offset + self.size])

    def pages(self):
        """The set of dirty page addresses."""
        dirty = set()
        for index, value in enumerate(self.bytes()):
            while value:
                low = value & -value
                dirty.add((index * 8 + low.bit_length() - 1) * PAGE)
                value &= value - 1
        return dirty

    def clear(self):
        self.view[self.offset : self.offset + self.size] = bytes(self.size)

    def intact(self):
        """True when nothing was written outside the log."""
        outside = bytes(self.view[: self.offset]) + bytes(self.view[self.offset + self.size :])
        return not outside.strip(bytes([CANARY]))

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close  # tests make many of them, and forget them


class LogWriter:
    """The logging end: what a back-end that logs by itself does with the fd."""

    def __init__(self, fd, size, offset):
        self.map = mmap.mmap(fd, os.fstat(fd).st_size)
        self.size, self.offset = size, offset

    def mark(self, gpa, length):
        if not length:
            return
        for page in range(gpa // PAGE, (gpa + length - 1) // PAGE + 1):
            if page // 8 < self.size:
                self.map[self.offset + page // 8] |= 1 << page % 8


def pages_of(gpa, length):
    """The pages a range touches."""
    first = gpa // PAGE * PAGE
    return set(range(first, gpa + length, PAGE)) if length else set()
