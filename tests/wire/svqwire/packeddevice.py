"""The packed ring as its device sees it. It raises Breach, or an AssertionError, where the driver
breaks a rule."""

from . import packed
from .devicering import Breach, DeviceChain
from .memory import barrier
from .packed import ENTRY, FLAGS, EventArea
from .ring import INDIRECT, NEXT, WRITE


class PackedDevice:
    is_packed = True
    takes_indirect = strict = True

    def __init__(self, memory, num, addresses, base, event_idx, log=None, used_gpa=None):
        self.num, self.addresses, self.event_idx = num, addresses, event_idx
        self.log, self.used_gpa = log, used_gpa  # used_gpa: only when the ring has F_LOG
        self.last_avail, self.used = packed.split(base, num)
        self.old_used = self.used
        self.unlogged = lambda: None  # called between a store and its note in the log
        self.sizes = {}  # slots of each chain, by id
        self.bind(memory)
        if event_idx:
            self.want_kicks(True)

    def bind(self, memory):
        """Finds the ring again, in a new memory table."""
        desc, device, driver = self.addresses
        self.memory, self.desc_gpa = memory, memory.gpa_of(desc)
        self.table = memory.by_uaddr(desc, 16 * self.num)
        self.items = self.table.cast("H")
        self.driver = EventArea(memory.by_uaddr(driver, 4))
        self.device = EventArea(memory.by_uaddr(device, 4))

    def base(self):
        return packed.join(self.last_avail, self.used, self.num)

    def flags(self, place):
        return self.items[8 * (place % self.num) + FLAGS]

    def available(self, place):
        return packed.is_available(self.flags(place), place, self.num)

    def pending(self):
        """How many descriptors wait to be popped."""
        place = self.last_avail
        while place - self.used < self.num and self.available(place):
            place += 1
        return place - self.last_avail

    def pop(self):
        """The next chain, or None after asking for a kick."""
        if not self.is_next():
            if not self.event_idx:
                return None
            self.want_kicks(True)
            if not self.is_next():
                return None
        barrier()
        place, entries = self.last_avail, []
        while True:
            entry = ENTRY.unpack_from(self.table, 16 * (place % self.num))
            flags = entry[3]
            entries.append(entry)
            if not packed.is_available(flags, place, self.num):
                raise Breach(f"descriptor {place % self.num} of a chain is not available")
            place += 1
            if place - self.used > self.num:
                raise Breach("more descriptors are available than the ring has")
            if not flags & NEXT:
                break
        return self.chain_of(entries)

    def chain_of(self, entries):
        """The chain of these descriptors, which are the next ones of the ring."""
        segments, number = [], entries[-1][2]
        for gpa, length, _, flags in entries:
            if flags & INDIRECT:
                if not self.takes_indirect:
                    raise Breach("INDIRECT was not negotiated")
                if self.strict and (flags & NEXT or segments):
                    raise Breach("an indirect descriptor in a chain of a packed ring")
                segments += self.indirect(gpa, length)
            else:
                segments.append((gpa, length, flags))
        if number in self.sizes:
            raise Breach(f"id {number} is in use")
        self.sizes[number] = len(entries)
        chain = DeviceChain(self, number, segments, len(entries))
        chain.entries = entries
        self.last_avail += len(entries)
        return chain

    def adopt(self, chain):
        """It was taken of this ring before that was stopped and started again."""
        chain.ring, self.sizes[chain.head] = self, chain.slots
        return chain

    def is_next(self):
        return self.last_avail - self.used < self.num and self.available(self.last_avail)

    def indirect(self, gpa, length):
        if not length or length % 16:
            raise Breach(f"an indirect table of {length} bytes")
        for address, size, _, flags in ENTRY.iter_unpack(self.memory.by_gpa(gpa, length)):
            if self.strict and flags & ~WRITE:
                raise Breach(f"flags {flags:#x} in an indirect table")
            yield address, size, flags

    def push(self, head, length):
        """Writes a used descriptor."""
        self.put(self.used, head, length)
        self.used += self.sizes.pop(head)

    def push_batch(self, chains, length):
        """IN_ORDER (virtio 1.3, 2.8.6): one descriptor, for the last, where the first was."""
        self.put(self.used, chains[-1].head, length)
        self.used += sum(self.sizes.pop(chain.head) for chain in chains)

    def give_back(self, batch, in_order, step):
        """(chain, length) pairs, published at once by the flags of the first; step: between any
        two stores."""
        place, used = self.used, []
        for chain, length in batch:
            self.sizes.pop(chain.head)
            used.append((place, chain.head, length))
            place += chain.slots
        if in_order:
            used = [(self.used, *used[-1][1:])]
        for entry in used[::-1]:
            self.put(*entry, step=step)
        self.used = place

    def put(self, place, head, length, flags=None, step=None):
        slot = place % self.num
        if flags is None:
            flags = packed.bits(place, self.num, used=True) | (WRITE if length else 0)
        self.table[16 * slot + 8 : 16 * slot + 14] = ENTRY.pack(0, length, head, 0)[8:14]
        if step:
            step("put")
        barrier()
        self.items[8 * slot + FLAGS] = flags
        self.unlogged()
        self.mark(self.desc_gpa + 16 * slot, 16)

    def mark(self, gpa, length):
        if self.log and self.used_gpa is not None:
            self.log.mark(gpa, length)

    def want_kicks(self, wanted):
        on = packed.DESC_EVENT if self.event_idx else packed.ENABLE
        self.device.set(on if wanted else packed.DISABLE, self.last_avail, self.num)
        self.mark(self.used_gpa, 4)
        barrier()

    def wants_call(self):
        barrier()
        old, self.old_used = self.old_used, self.used
        return self.driver.wants(old, self.used, self.num, self.event_idx)
