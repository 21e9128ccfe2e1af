"""The front-end's in-flight region, and its judge: who is in flight in it, by the specification's
rules for a reconnect ("Inflight I/O tracking")? Reads only, from a copy, and raises Contradiction
where what it finds cannot have come about by those rules."""

import mmap
import os
import struct

from . import message as wire
from .recorder import SERIAL

SPLIT = struct.Struct("<QHHHH")  # features, version, desc_num, last_batch_head, used_idx
SPLIT_STATE = struct.Struct("<B5xHQ")  # inflight, next, counter
# features, version, desc_num, free_head, old_free_head, used_idx, old_used_idx,
# used_wrap_counter, old_used_wrap_counter, padding
PACKED = struct.Struct("<QHHHHHHBB10x")
# inflight, next, last, num, counter, id, flags, len, addr
PACKED_STATE = struct.Struct("<BxHHHQHHIQ")
PACKED_SIZE = 32
assert (SPLIT.size, SPLIT_STATE.size) == (16, 16)
assert (PACKED.size, PACKED_STATE.size) == (PACKED_SIZE, 32)


class Contradiction(AssertionError):
    """The region says what cannot be."""


def want(true, text):
    if not true:
        raise Contradiction(text)


class Region:
    """What GET_INFLIGHT_FD answered."""

    def __init__(self, fd, size, offset, queues, entries, packed):
        self.fd, self.size, self.offset = fd, size, offset
        self.queues, self.entries, self.packed = queues, entries, packed
        self.life = None  # of the guest's driver
        one = PACKED_SIZE + 32 * entries if packed else SPLIT.size + 16 * entries
        self.step = -(-one // 64) * 64
        want(size >= queues * self.step, f"{size} bytes for {queues} queues of {entries} entries")
        want(os.fstat(fd).st_size >= offset + size, "the file is shorter than the region")
        self.map = mmap.mmap(fd, offset + size)

    def payload(self):
        return wire.INFLIGHT.pack(self.size, self.offset, self.queues, self.entries, 0)

    def part(self, queue):
        start = self.offset + queue * self.step
        return self.map[start : start + self.step]

    def clear(self):
        self.map[self.offset : self.offset + self.size] = bytes(self.size)

    def report(self, queue, ring):
        """What the next one to serve this driver's ring would find."""
        return (PackedReport if self.packed else SplitReport)(self.part(queue), ring)

    def serials(self, queue):
        """The numbers of the requests in flight, oldest first. The driver has harvested all."""
        report, ring, found = self.report(queue.index, queue.ring), queue.ring, []
        for position, head in enumerate(report.heads):
            want(head in ring.outstanding, f"{head} is in flight and not outstanding")
            chain = ring.outstanding[head]
            if self.packed:
                want(report.chains[position] == chain.told, f"{head} is not what the driver wrote")
            found.append(SERIAL.unpack_from(chain.data)[0])
        want(found == sorted(found), f"out of order: {found}")
        return found

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class SplitReport:
    """heads: in flight, oldest first. settled: no batch was being returned."""

    def __init__(self, part, ring):
        features, version, entries, batch, used = SPLIT.unpack_from(part)
        states = list(SPLIT_STATE.iter_unpack(part[SPLIT.size : SPLIT.size + 16 * ring.num]))
        self.tracked = version != 0
        if not self.tracked:
            want(not any(state[0] for state in states), "in flight, and no version")
            self.heads, self.settled = [], True
            return
        want(version == 1, f"version {version}")
        want(features == 0, f"features {features:#x}")
        want(entries >= ring.num, f"desc_num {entries} for a ring of {ring.num}")
        marks = [state[0] for state in states]
        want(set(marks) <= {0, 1}, f"inflight is {set(marks)}")
        ahead = (ring.used_idx() - used) & 0xFFFF
        self.settled = ahead == 0
        want(ahead <= ring.num, f"used_idx {used}, the ring's {ring.used_idx()}")
        for _ in range(ahead):
            want(batch < ring.num, f"the last batch names {batch}")
            marks[batch] = 0
            batch = states[batch][1]
        found = sorted((states[head][2], head) for head in range(ring.num) if marks[head])
        counters = [counter for counter, _ in found]
        want(len(set(counters)) == len(counters), f"counters twice: {counters}")
        self.heads = [head for _, head in found]


class PackedReport:
    """heads: ids of what is in flight, oldest first; chains: their descriptors as (addr, len,
    flags); place: where the used index is, as (slot, wrap)."""

    def __init__(self, part, ring):
        (features, version, entries, free, old_free, used, old_used, wrap,
         old_wrap) = PACKED.unpack_from(part[:PACKED_SIZE])
        self.tracked = version != 0
        if not self.tracked:
            self.heads, self.chains, self.settled = [], [], True
            return
        want(version == 1, f"version {version}")
        want(features == 0, f"features {features:#x}")
        want(entries >= ring.num, f"desc_num {entries} for a ring of {ring.num}")
        want({wrap, old_wrap} <= {0, 1}, f"wrap counters {wrap}, {old_wrap}")
        want(max(used, old_used) < ring.num, f"used indices {used}, {old_used}")
        self.settled = (used, wrap) == (old_used, old_wrap)
        if used != old_used:
            flags = ring.items[8 * old_used + 7]
            avail, done = flags >> 7 & 1, flags >> 15 & 1
            if avail == old_wrap and done != old_wrap:  # it was not given back
                free, used, wrap = old_free, old_used, old_wrap
        else:
            free, wrap = old_free, old_wrap
        self.place = used, wrap
        states = list(PACKED_STATE.iter_unpack(part[PACKED_SIZE : PACKED_SIZE + 32 * entries]))
        unused = []
        while free < entries:
            want(len(unused) < entries, "the free list has a loop")
            unused.append(free)
            free = states[free][1]
        want(len(set(unused)) == len(unused), "an entry is free twice")
        taken = set(unused)
        heads = [i for i, state in enumerate(states) if state[0] and i not in taken]
        found = sorted((states[head][4], head) for head in heads)
        want(len({counter for counter, _ in found}) == len(found), "counters twice")
        self.heads, self.chains = [], []
        for _, head in found:
            chain, i = [], head
            for _ in range(states[head][3]):
                want(i < entries and i not in taken, f"entry {i} has two owners")
                taken.add(i)
                chain.append(i)
                i = states[i][1]
            want(chain and chain[-1] == states[head][2], f"chain {head}: last is another")
            self.heads.append(states[chain[-1]][5])
            self.chains.append([(states[i][8], states[i][7], states[i][6] & 7) for i in chain])
        want(len(set(self.heads)) == len(self.heads), "an id twice")
        want(len(taken) == entries, f"{entries - len(taken)} entries are lost")
