"""The split ring as its device sees it, over the memory a front-end passed by fd."""

import mmap
import os

from .memory import barrier
from .ring import DESC, INDIRECT, NEXT, NO_INTERRUPT, NO_NOTIFY, WRITE


class Translation(Exception):
    """An address outside the memory table."""


class Breach(AssertionError):
    """The driver broke a rule of the ring."""


class DeviceMemory:
    """The regions of SET_MEM_TABLE and ADD_MEM_REG."""

    def __init__(self):
        self.regions = []  # (gpa, size, uaddr, view)

    def add(self, gpa, size, uaddr, offset, fd):
        assert offset + size <= os.fstat(fd).st_size, "region longer than its file"
        mapping = mmap.mmap(fd, offset + size)
        self.regions.append((gpa, size, uaddr, memoryview(mapping)[offset:]))

    def remove(self, gpa, size, uaddr):
        for region in self.regions:
            if region[:3] == (gpa, size, uaddr):
                self.regions.remove(region)
                return True
        return False

    def by_gpa(self, gpa, length):
        for start, size, _, view in self.regions:
            if start <= gpa and gpa + length <= start + size:
                return view[gpa - start : gpa - start + length]
        raise Translation(f"gpa {gpa:#x}+{length:#x}")

    def by_uaddr(self, uaddr, length):
        for _, size, start, view in self.regions:
            if start <= uaddr and uaddr + length <= start + size:
                return view[uaddr - start : uaddr - start + length]
        raise Translation(f"uaddr {uaddr:#x}+{length:#x}")

    def gpa_of(self, uaddr):
        for gpa, size, start, _ in self.regions:
            if start <= uaddr < start + size:
                return gpa + uaddr - start
        raise Translation(f"uaddr {uaddr:#x}")


class DeviceChain:
    def __init__(self, ring, head, segments, slots=0):
        """segments: [(gpa, length, flags)]. slots: descriptors that it takes in the ring."""
        self.ring, self.head, self.slots = ring, head, slots
        self.entries = ()  # a packed ring's: the descriptors as they are in the ring
        self.serial = None  # of the request, when somebody keeps a record
        self.readable = [(gpa, length) for gpa, length, flags in segments if not flags & WRITE]
        self.writable = [(gpa, length) for gpa, length, flags in segments if flags & WRITE]
        if ring.strict and any(flags & WRITE for _, _, flags in segments[: len(self.readable)]):
            raise Breach("a readable buffer after a writable one")

    def read(self):
        memory = self.ring.memory
        return b"".join(bytes(memory.by_gpa(gpa, n)) for gpa, n in self.readable)

    @property
    def room(self):
        return sum(length for _, length in self.writable)

    def write(self, data):
        for gpa, length in self.writable:
            part, data = data[:length], data[length:]
            self.ring.memory.by_gpa(gpa, len(part))[:] = part
            if self.ring.log:
                self.ring.log.mark(gpa, len(part))


class DeviceRing:
    is_packed = False
    takes_indirect = strict = True
    in_order = False

    def __init__(self, memory, num, addresses, base, event_idx, log=None, used_gpa=None):
        self.num, self.addresses, self.event_idx = num, addresses, event_idx
        self.log, self.used_gpa = log, used_gpa  # used_gpa: only when the ring has F_LOG
        self.last_avail = base
        self.unlogged = lambda: None  # called between a store and its note in the log
        self.next_slot = None  # of the next head, with IN_ORDER; None: any
        self.bind(memory)
        self.used_idx = self.used[1]  # as rust-vmm and DPDK take it, whatever BASE says
        self.old_used = self.used_idx
        if event_idx:
            self.used[2 + 4 * num] = base

    def bind(self, memory):
        """Finds the ring again, in a new memory table."""
        desc, used, avail = self.addresses
        self.memory = memory
        self.table = memory.by_uaddr(desc, 16 * self.num)
        self.avail = memory.by_uaddr(avail, 6 + 2 * self.num).cast("H")
        used = memory.by_uaddr(used, 8 + 8 * self.num)
        self.used = used.cast("H")
        self.used_items = used[: 4 + 8 * self.num].cast("I")

    def base(self):
        return self.last_avail

    def pop(self):
        """The next chain, or None after asking for a kick."""
        if self.last_avail == self.avail[1]:
            if not self.event_idx:
                return None
            self.used[2 + 4 * self.num] = self.last_avail
            self.mark_used(4 + 8 * self.num, 2)
            barrier()
            if self.last_avail == self.avail[1]:
                return None
        barrier()
        head = self.avail[2 + self.last_avail % self.num]
        self.last_avail = (self.last_avail + 1) & 0xFFFF
        return self.chain_at(head)

    def chain_at(self, head):
        if self.in_order:
            self.expect_order(head)
        return DeviceChain(self, head, list(self.walk(self.table, head, self.num)))

    def adopt(self, chain):
        """It was taken of this ring before that was stopped and started again."""
        chain.ring = self
        return chain

    def expect_order(self, slot):
        """With IN_ORDER descriptors come in ring order."""
        for _ in range(self.num):
            if self.next_slot not in (None, slot):
                raise Breach(f"IN_ORDER: descriptor {slot} instead of {self.next_slot}")
            self.next_slot = (slot + 1) % self.num
            _, _, flags, slot = DESC.unpack_from(self.table, 16 * slot)
            if not flags & NEXT:
                return

    def walk(self, table, slot, num):
        for _ in range(num):
            gpa, length, flags, following = DESC.unpack_from(table, 16 * slot)
            if flags & INDIRECT:
                if not self.takes_indirect:
                    raise Breach("INDIRECT was not negotiated")
                yield from self.walk(self.memory.by_gpa(gpa, length), 0, length // 16)
            else:
                yield gpa, length, flags
            if not flags & NEXT:
                return
            slot = following
        raise Breach("the descriptor chain has a loop")

    def pending(self):
        """How many chains wait to be popped."""
        return (self.avail[1] - self.last_avail) & 0xFFFF

    def push(self, head, length):
        """Writes a used entry and publishes it."""
        self.put(self.used_idx, head, length)
        self.publish(self.used_idx + 1)

    def push_batch(self, chains, length):
        """IN_ORDER (virtio 1.3, 2.7.9): one entry, for the last, stands for the whole batch."""
        self.put(self.used_idx, chains[-1].head, length)
        self.publish(self.used_idx + len(chains))

    def give_back(self, batch, in_order, step):
        """(chain, length) pairs, published at once; step: between any two stores."""
        used = batch[-1:] if in_order else batch
        for position, (chain, length) in enumerate(used):
            self.put(self.used_idx + position, chain.head, length)
            step("put")
        self.publish(self.used_idx + len(batch))

    def put(self, position, head, length):
        slot = position % self.num
        self.used_items[1 + 2 * slot] = head
        self.used_items[2 + 2 * slot] = length
        self.mark_used(4 + 8 * slot, 8)

    def publish(self, index):
        self.used_idx = index & 0xFFFF
        barrier()
        self.used[1] = self.used_idx
        self.unlogged()
        self.mark_used(2, 2)

    def mark_used(self, offset, length):
        if self.log and self.used_gpa is not None:
            self.log.mark(self.used_gpa + offset, length)

    def want_kicks(self, wanted):
        """Without the event index."""
        self.used[0] = 0 if wanted else NO_NOTIFY

    def wants_call(self):
        barrier()
        old, self.old_used = self.old_used, self.used_idx
        if not self.event_idx:
            return not self.avail[0] & NO_INTERRUPT
        event = self.avail[2 + self.num]
        return (self.used_idx - event - 1) & 0xFFFF < (self.used_idx - old) & 0xFFFF
