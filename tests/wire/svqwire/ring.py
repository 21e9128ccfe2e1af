"""The split ring as its driver sees it (virtio 1.3, 2.7), with room for doing it wrong.

add() and publish() are the well-behaved way; describe(), offer() and set_avail_idx() write the
ring's fields as they are told, for the bad-ring tests.
"""

import copy
import struct

from .memory import PAGE, barrier

NEXT, WRITE, INDIRECT = 1, 2, 4
NO_NOTIFY = 1  # used.flags: the device wants no kicks
NO_INTERRUPT = 1  # avail.flags: the driver wants no calls
DESC = struct.Struct("<QIHH")


class Chain:
    """One request: its segments as (gpa, length), and what the device is to read."""

    def __init__(self, head, data, readable, writable, slots):
        self.head, self.data = head, data
        self.readable, self.writable, self.slots = readable, writable, slots
        self.length = None

    @property
    def room(self):
        return sum(length for _, length in self.writable)


class BufferPool:
    """Whole pages, so that a page holds either what the guest or what the device writes."""

    def __init__(self, memory, region=0):
        self.memory, self.region, self.free = memory, region, {}

    def take(self, size):
        size = max((size + PAGE - 1) // PAGE * PAGE, PAGE)
        free = self.free.setdefault(size, [])
        return free.pop() if free else self.memory.alloc(size, region=self.region)

    def moved(self, memory):
        pool = BufferPool(memory, self.region)
        pool.free = {size: list(free) for size, free in self.free.items()}
        return pool

    def give(self, gpa, size):
        size = max((size + PAGE - 1) // PAGE * PAGE, PAGE)
        self.free[size].append(gpa)


class GuestRing:
    def __init__(self, memory, num=64, event_idx=False, indirect=False, in_order=False, region=0):
        self.memory, self.num = memory, num
        self.event_idx, self.indirect, self.in_order = event_idx, indirect, in_order
        self.used_size = 6 + 8 * num
        self.desc_gpa = memory.alloc(16 * num, region=region)
        self.avail_gpa = memory.alloc(6 + 2 * num, region=region)
        self.used_gpa = memory.alloc(self.used_size, region=region)
        self.buffers = {"r": BufferPool(memory, region), "w": BufferPool(memory, region)}
        self.tables = {}
        self.bind(memory)
        self.restart()

    def bind(self, memory):
        num, self.memory = self.num, memory
        self.table = memory.view(self.desc_gpa, 16 * num)
        self.avail = memory.view(self.avail_gpa, 6 + 2 * num).cast("H")
        used = memory.view(self.used_gpa, self.used_size + 2)  # padded to 32-bit items
        self.used = used.cast("H")
        self.used_items = used[: 4 + 8 * num].cast("I")

    def restart(self):
        """The driver starts over with a zeroed ring, as after a device reset."""
        for view in (self.table, self.avail.cast("B"), self.used.cast("B")):
            view[:] = bytes(len(view))
        self.free = list(range(self.num))
        self.outstanding = {}
        self.avail_idx = 0  # private; published by publish()
        self.last_used = 0

    def moved(self, memory):
        """The same ring in another memory, as a migration leaves it."""
        ring = copy.copy(self)
        ring.free, ring.tables = list(self.free), dict(self.tables)
        ring.outstanding = dict(self.outstanding)
        ring.buffers = {kind: pool.moved(memory) for kind, pool in self.buffers.items()}
        ring.bind(memory)
        return ring

    # The well-behaved driver.

    def room(self, segments):
        return len(self.free) >= (1 if self.indirect else segments)

    def add(self, readable=(), writable=(), direct=0):
        """A chain of `readable` bytes objects and `writable` sizes. With INDIRECT, the first
        `direct` descriptors stay in the ring's own table."""
        segments, data = [], b"".join(readable)
        for part in readable:
            gpa = self.buffers["r"].take(len(part))
            self.memory.write(gpa, part)
            segments.append((gpa, len(part), 0))
        for size in writable:
            segments.append((self.buffers["w"].take(size), size, WRITE))
        if not self.indirect:
            direct = len(segments)
        chain = self.link(segments, direct)
        chain.data = data
        return chain

    def link(self, segments, direct):
        """Writes (gpa, length, flags) segments: `direct` in the table, the rest indirect."""
        rest = segments[direct:]
        count = direct + bool(rest)
        slots = [self.free.pop() for _ in range(count)]
        entries = [(gpa, length, flags) for gpa, length, flags in segments[:direct]]
        if rest:
            entries.append((self.indirect_table(slots[-1], rest), 16 * len(rest), INDIRECT))
        for position, (gpa, length, flags) in enumerate(entries):
            last = position + 1 == count
            following = 0 if last else slots[position + 1]
            self.describe(slots[position], gpa, length, flags | (0 if last else NEXT), following)
        readable = [(g, n) for g, n, flags in segments if not flags & WRITE]
        writable = [(g, n) for g, n, flags in segments if flags & WRITE]
        chain = Chain(slots[0], b"", readable, writable, slots)
        self.outstanding[chain.head] = chain
        self.offer(chain.head)
        return chain

    def indirect_table(self, slot, segments):
        gpa = self.tables.get(slot)
        if gpa is None:
            gpa = self.tables[slot] = self.memory.alloc(PAGE)
        self.write_table(gpa, segments)
        return gpa

    def write_table(self, gpa, segments):
        for position, (address, length, flags) in enumerate(segments):
            more = NEXT if position + 1 < len(segments) else 0
            entry = DESC.pack(address, length, flags | more, position + 1 if more else 0)
            self.memory.write(gpa + 16 * position, entry)

    def publish(self):
        """Shows the added chains to the device; True when the device wants a kick."""
        old = self.avail[1]
        self.set_avail_idx(self.avail_idx)
        barrier()  # the index before reading whether the device sleeps
        if old == self.avail_idx:
            return False
        if not self.event_idx:
            return not self.used[0] & NO_NOTIFY
        event = self.used[2 + 4 * self.num]
        return (self.avail_idx - event - 1) & 0xFFFF < (self.avail_idx - old) & 0xFFFF

    def harvest(self):
        """The chains completed since the last harvest, in the order of the used ring."""
        done = [] if not self.in_order else self.harvest_batches()
        while self.last_used != self.used[1]:
            barrier()
            slot = self.last_used % self.num
            head, length = self.used_items[1 + 2 * slot], self.used_items[2 + 2 * slot]
            chain = self.outstanding.pop(head, None)
            assert chain, f"used entry {self.last_used} names {head}, which is not outstanding"
            assert length <= chain.room, f"used length {length} of {chain.room}"
            chain.length = length
            self.last_used = (self.last_used + 1) & 0xFFFF
            done.append(chain)
        return done

    def harvest_batches(self):
        """With IN_ORDER an entry completes every chain up to the one that it names."""
        done = []
        while self.last_used != self.used[1]:
            barrier()
            slot = self.last_used % self.num
            head, length = self.used_items[1 + 2 * slot], self.used_items[2 + 2 * slot]
            assert head in self.outstanding, f"used entry names {head}, which is not outstanding"
            for oldest in list(self.outstanding):  # a dict keeps the order of its keys
                chain = self.outstanding.pop(oldest)
                chain.length = length if oldest == head else chain.room
                self.last_used = (self.last_used + 1) & 0xFFFF
                done.append(chain)
                if oldest == head:
                    break
        return done

    def release(self, chain):
        """Takes a completed chain's descriptors and buffers back."""
        self.free.extend(chain.slots)
        for kind, segments in (("r", chain.readable), ("w", chain.writable)):
            for gpa, length in segments:
                self.buffers[kind].give(gpa, length)

    def written(self, chain):
        """What the device wrote."""
        return b"".join(self.memory.read(gpa, length) for gpa, length in chain.writable)

    def want_calls(self, wanted):
        """Turns calls on or off; when on, True if completions came meanwhile."""
        if self.event_idx:
            self.avail[2 + self.num] = (self.last_used if wanted else self.last_used - 1) & 0xFFFF
        else:
            self.avail[0] = 0 if wanted else NO_INTERRUPT
        barrier()
        return wanted and self.last_used != self.used[1]

    def used_idx(self):
        return self.used[1]

    # Field by field, for misbehaving.

    def describe(self, slot, gpa, length, flags=0, following=0):
        DESC.pack_into(self.table, 16 * slot, gpa, length, flags, following)

    def offer(self, head):
        self.avail[2 + self.avail_idx % self.num] = head
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF

    def set_avail_idx(self, index):
        barrier()
        self.avail[1] = index & 0xFFFF
