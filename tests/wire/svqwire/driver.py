"""What the drivers of both ring formats have in common: chains, their buffers, their tables."""

import copy

from .memory import PAGE

NEXT, WRITE, INDIRECT = 1, 2, 4  # descriptor flags of both formats


class Chain:
    """One request: its segments as (gpa, length), and what the device is to read."""

    def __init__(self, head, data, readable, writable, slots):
        self.head, self.data = head, data  # head: the id by which the device returns it
        self.readable, self.writable, self.slots = readable, writable, slots
        self.length = None
        self.told = None  # the descriptors that a packed ring was given: (gpa, length, flags)

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


class DriverRing:
    """A subclass has the areas' sizes, bind() to find them in memory, restart(), link(),
    publish(), harvest(), want_calls(), write_table(), and answers what comes below.

        base()       what GET_VRING_BASE has to say when nothing is in flight
        start_base   the same of a ring that nobody has used yet
        has_used()   are there completions to harvest?
        all_used()   is everything that was published used, harvested or not?
        taken(base)  what the driver itself wrote after the device: see migration.Copy
    """

    is_packed = False
    start_base = 0
    sizes = (0, 0, 0)  # of the descriptor, driver and device areas

    def __init__(self, memory, num=64, event_idx=False, indirect=False, in_order=False, region=0):
        self.memory, self.num = memory, num
        self.event_idx, self.indirect, self.in_order = event_idx, indirect, in_order
        self.sizes = self.area_sizes(num)
        self.used_size = self.sizes[2]
        places = [memory.alloc(size, region=region) for size in self.sizes]
        self.desc_gpa, self.avail_gpa, self.used_gpa = places
        self.buffers = {"r": BufferPool(memory, region), "w": BufferPool(memory, region)}
        self.tables = {}
        self.bind(memory)
        self.restart()

    def moved(self, memory):
        """The same ring in another memory, as a migration leaves it."""
        ring = copy.copy(self)
        ring.free, ring.tables = list(self.free), dict(self.tables)
        ring.outstanding = dict(self.outstanding)
        ring.buffers = {kind: pool.moved(memory) for kind, pool in self.buffers.items()}
        ring.bind(memory)
        return ring

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

    def entries(self, segments, direct, slot):
        """The (gpa, length, flags) of the ring's own descriptors; the rest goes to a table."""
        rest = segments[direct:]
        if not rest:
            return segments
        gpa = self.tables.get(slot)
        if gpa is None or 16 * len(rest) > PAGE:
            gpa = self.tables[slot] = self.memory.alloc(16 * len(rest))
        self.write_table(gpa, rest)
        return segments[:direct] + [(gpa, 16 * len(rest), INDIRECT)]

    def chain(self, head, segments, slots):
        readable = [(g, n) for g, n, flags in segments if not flags & WRITE]
        writable = [(g, n) for g, n, flags in segments if flags & WRITE]
        chain = Chain(head, b"", readable, writable, slots)
        self.outstanding[head] = chain
        return chain

    def take_used(self, head, length, batch):
        """The chains that a used entry completes: with `batch` all up to the one it names."""
        assert head in self.outstanding, f"a used entry names {head}, which is not outstanding"
        names = list(self.outstanding) if batch else [head]  # a dict keeps its keys' order
        chains = [self.outstanding.pop(name) for name in names[: names.index(head) + 1]]
        for chain in chains:
            chain.length = chain.room
        assert length <= chain.room, f"used length {length} of {chain.room}"
        chain.length = length
        return chains

    def release(self, chain):
        """Takes a completed chain's descriptors and buffers back."""
        self.give_slots(chain)
        for kind, segments in (("r", chain.readable), ("w", chain.writable)):
            for gpa, length in segments:
                self.buffers[kind].give(gpa, length)

    def give_slots(self, chain):
        self.free.extend(chain.slots)

    def written(self, chain):
        """What the device wrote."""
        return b"".join(self.memory.read(gpa, length) for gpa, length in chain.writable)
