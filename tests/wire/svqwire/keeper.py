"""A back-end's in-flight region as the back-end keeps it, step by step as the specification has it
("Inflight I/O tracking"). What is written is judged by region.py, which was written apart.

`step` is called between any two stores: a scripted back-end may die there.
"""

import mmap
import os

from .message import INFLIGHT
from .packed import decode, is_available

SPLIT_HEADER, SPLIT_ENTRY = 16, 16
PACKED_HEADER, PACKED_ENTRY = 32, 32
VERSION, DESC_NUM = 4, 5  # 16-bit items of both headers


def part_size(packed, entries):
    header, entry = (PACKED_HEADER, PACKED_ENTRY) if packed else (SPLIT_HEADER, SPLIT_ENTRY)
    size = header + entry * entries
    return (size + 63) // 64 * 64


class InflightMemory:
    """What SET_INFLIGHT_FD passed."""

    def __init__(self, fd, size, offset, queues, entries):
        self.queues, self.entries = queues, entries
        self.view = memoryview(mmap.mmap(fd, offset + size))[offset:]

    @classmethod
    def of(cls, message):
        size, offset, queues, entries, _ = INFLIGHT.unpack(message.payload)
        return cls(message.fds[0], size, offset, queues, entries)

    def keeper(self, queue, packed):
        size = part_size(packed, self.entries)
        if queue >= self.queues or (queue + 1) * size > len(self.view):
            return None
        part = self.view[queue * size : (queue + 1) * size]
        return (PackedKeeper if packed else SplitKeeper)(part, self.entries)


def answer_get(message, packed):
    """(payload, fd) of a GET_INFLIGHT_FD reply."""
    _, _, queues, entries, _ = INFLIGHT.unpack(message.payload)
    size = queues * part_size(packed, entries)
    fd = os.memfd_create("inflight")
    os.ftruncate(fd, size)
    return INFLIGHT.pack(size, 0, queues, entries, 0), fd


class SplitKeeper:
    LAST_BATCH, USED = 6, 7

    def __init__(self, part, entries):
        self.words, self.bytes, self.quads = part.cast("H"), part, part.cast("Q")
        self.entries, self.counter = entries, 0

    # Where the fields of entry i are: in bytes, 16-bit items and 64-bit items.

    @staticmethod
    def inflight(i):
        return SPLIT_HEADER + SPLIT_ENTRY * i

    @staticmethod
    def next(i):
        return (SPLIT_HEADER + SPLIT_ENTRY * i + 6) // 2

    @staticmethod
    def count(i):
        return (SPLIT_HEADER + SPLIT_ENTRY * i + 8) // 8

    def begin(self, ring):
        """The ring starts: what is to be done again, in order; the ring goes on behind it."""
        if not self.words[VERSION]:
            self.words[VERSION], self.words[DESC_NUM] = 1, self.entries
            return []
        used = ring.used_idx
        i = self.words[self.LAST_BATCH]
        for _ in range((used - self.words[self.USED]) & 0xFFFF):
            self.bytes[self.inflight(i)] = 0
            i = self.words[self.next(i)]
        self.words[self.USED] = used
        heads = [(self.quads[self.count(i)], i) for i in range(ring.num)
                 if self.bytes[self.inflight(i)]]
        self.counter = max(heads, default=(0, 0))[0] + 1
        ring.last_avail = (used + len(heads)) & 0xFFFF
        return [ring.chain_at(head) for _, head in sorted(heads)]

    def take(self, chain, step):
        self.quads[self.count(chain.head)] = self.counter
        self.counter += 1
        step("counted")
        self.bytes[self.inflight(chain.head)] = 1

    def finish(self, chains, step):
        """Before they are used."""
        for chain in chains:
            self.words[self.next(chain.head)] = self.words[self.LAST_BATCH]
            step("linked")
            self.words[self.LAST_BATCH] = chain.head

    def commit(self, chains, ring, step):
        """After they were used."""
        for chain in chains:
            self.bytes[self.inflight(chain.head)] = 0
            step("cleared")
        self.words[self.USED] = ring.used_idx


class PackedKeeper:
    FREE, OLD_FREE, USED, OLD_USED = 6, 7, 8, 9
    WRAP, OLD_WRAP = 20, 21  # bytes

    def __init__(self, part, entries):
        self.words, self.bytes, self.quads = part.cast("H"), part, part.cast("Q")
        self.longs = part.cast("I")
        self.entries, self.counter = entries, 0
        self.heads = {}  # entry of the chain with that id

    @staticmethod
    def at(i, offset):
        return PACKED_HEADER + PACKED_ENTRY * i + offset

    def inflight(self, i):
        return self.at(i, 0)

    def next(self, i):
        return self.at(i, 2) // 2

    def last(self, i):
        return self.at(i, 4) // 2

    def length(self, i):
        return self.at(i, 6) // 2

    def count(self, i):
        return self.at(i, 8) // 8

    def entry(self, i):
        """(gpa, length, id, flags) of the descriptor kept there."""
        return (self.quads[self.at(i, 24) // 8], self.longs[self.at(i, 20) // 4],
                self.words[self.at(i, 16) // 2], self.words[self.at(i, 18) // 2])

    def begin(self, ring):
        words, octets = self.words, self.bytes
        if not words[VERSION]:
            words[DESC_NUM] = self.entries
            for i in range(self.entries):
                words[self.next(i)] = i + 1
            octets[self.WRAP] = octets[self.OLD_WRAP] = 1
            words[VERSION] = 1
            return []
        old = decode(words[self.OLD_USED] | octets[self.OLD_WRAP] << 15, ring.num)
        if words[self.USED] != words[self.OLD_USED] and not is_available(
                ring.flags(old), old, ring.num):
            words[self.OLD_FREE], words[self.OLD_USED] = words[self.FREE], words[self.USED]
            octets[self.OLD_WRAP] = octets[self.WRAP]
        words[self.FREE], words[self.USED] = words[self.OLD_FREE], words[self.OLD_USED]
        octets[self.WRAP] = octets[self.OLD_WRAP]
        free = words[self.FREE]
        while free < self.entries:
            octets[self.inflight(free)] = 0
            free = words[self.next(free)]
        again = sorted((self.quads[self.count(i)], i) for i in range(self.entries)
                       if octets[self.inflight(i)])
        self.counter = max(again, default=(0, 0))[0] + 1
        ring.used = ring.old_used = decode(words[self.USED] | octets[self.WRAP] << 15, ring.num)
        ring.last_avail = ring.used
        chains = []
        for _, head in again:
            entries, i = [], head
            for _ in range(words[self.length(head)]):
                entries.append(self.entry(i))
                i = words[self.next(i)]
            chains.append(ring.chain_of(entries))
            self.heads[chains[-1].head] = head
        return chains

    def take(self, chain, step):
        words, head = self.words, self.words[self.FREE]
        words[self.length(head)] = 0
        self.quads[self.count(head)] = self.counter
        self.counter += 1
        self.bytes[self.inflight(head)] = 1
        for position, (gpa, length, number, flags) in enumerate(chain.entries):
            step("noting")
            free = words[self.FREE]
            if position + 1 == len(chain.entries):
                words[self.last(head)] = free
            words[self.length(head)] += 1
            self.quads[self.at(free, 24) // 8] = gpa
            self.longs[self.at(free, 20) // 4] = length
            words[self.at(free, 16) // 2], words[self.at(free, 18) // 2] = number, flags
            words[self.FREE] = words[self.next(free)]
        step("noted")
        words[self.OLD_FREE] = words[self.FREE]
        self.heads[chain.head] = head

    def finish(self, chains, step):
        words = self.words
        for chain in chains:
            if chain.head not in self.heads:
                continue  # taken before the part was disowned
            head = self.heads[chain.head]
            words[self.next(words[self.last(head)])] = words[self.FREE]
            step("linked")
            words[self.FREE] = head
        place = words[self.USED] + sum(chain.slots for chain in chains)
        lap = place >= chains[0].ring.num
        words[self.USED] = place - (chains[0].ring.num if lap else 0)
        self.bytes[self.WRAP] ^= lap

    def commit(self, chains, ring, step):
        for chain in chains:
            if chain.head in self.heads:
                self.bytes[self.inflight(self.heads.pop(chain.head))] = 0
            step("cleared")
        words = self.words
        words[self.OLD_FREE] = words[self.FREE]
        step("committing")
        # No step between these two: a careful back-end stores both in one word.
        words[self.OLD_USED] = words[self.USED]
        self.bytes[self.OLD_WRAP] = self.bytes[self.WRAP]
