"""The packed ring as its driver sees it (virtio 1.3, 2.8), with room for doing it wrong.

add() and publish() are the well-behaved way; describe() shows a descriptor as it is told. The
ids are spread over all 16 bits, since they are the driver's own business, and only a chain's
last descriptor carries the right one.
"""

from . import packed
from .driver import NEXT, WRITE, DriverRing
from .memory import barrier
from .packed import ENTRY, FLAGS, EventArea

SPREAD = 40503  # odd: distinct ids for distinct numbers
DECOY = 0xD0D0


class PackedRing(DriverRing):
    is_packed = True
    start_base = packed.START

    @staticmethod
    def area_sizes(num):
        return 16 * num, 4, 4

    def bind(self, memory):
        self.memory = memory
        self.table = memory.view(self.desc_gpa, 16 * self.num)
        self.items = self.table.cast("H")
        self.driver = EventArea(memory.view(self.avail_gpa, 4))
        self.device = EventArea(memory.view(self.used_gpa, 4))

    def restart(self):
        """The driver starts over with a zeroed ring, as after a device reset."""
        self.table[:] = bytes(len(self.table))
        self.driver.set(packed.ENABLE)
        self.device.set(packed.ENABLE)
        self.mirror = bytearray(16 * self.num)  # the ring as it has to be
        self.theirs = set()  # slots that the device wrote last
        self.free = [number * SPREAD & 0xFFFF for number in range(self.num)]
        self.left = self.num
        self.outstanding = {}
        self.avail = self.used = self.published = 0
        self.first = 0  # flags of the first descriptor that is not published yet

    def begin_at(self, place):
        """A fresh ring that has already come that far."""
        self.avail = self.used = self.published = place
        for slot in range(self.num):
            lap = place // self.num - (slot >= place % self.num)
            if lap >= 0:
                flags = packed.bits(lap * self.num, self.num, used=True)
                self.items[8 * slot + FLAGS] = flags
                ENTRY.pack_into(self.mirror, 16 * slot, 0, 0, 0, flags)

    def moved(self, memory):
        ring = super().moved(memory)
        ring.mirror, ring.theirs = bytearray(self.mirror), set(self.theirs)
        return ring

    # The well-behaved driver.

    def room(self, segments):
        return self.left >= (1 if self.indirect else segments)

    def link(self, segments, direct):
        """Writes (gpa, length, flags) segments: `direct` in the ring, the rest indirect."""
        count = min(direct + 1, len(segments))
        assert count <= self.left, "the ring is full"
        places = range(self.avail, self.avail + count)
        head = self.free.pop()
        entries = self.entries(segments, direct, places[-1] % self.num)
        for place, (gpa, length, flags) in zip(places, entries):
            last = place == places[-1]
            self.write(place, gpa, length, head if last else head ^ DECOY,
                       flags | (0 if last else NEXT))
        self.left -= count
        self.avail += count
        chain = self.chain(head, segments, [place % self.num for place in places])
        chain.told = [(gpa, length, flags | (0 if place == places[-1] else NEXT))
                      for place, (gpa, length, flags) in zip(places, entries)]
        return chain

    def write(self, place, gpa, length, number, flags):
        """A descriptor; what it says is hidden until publish() as long as the batch's first
        has its old flags."""
        slot, flags = place % self.num, flags | packed.bits(place, self.num)
        ENTRY.pack_into(self.mirror, 16 * slot, gpa, length, number, flags)
        self.table[16 * slot : 16 * slot + 14] = self.mirror[16 * slot : 16 * slot + 14]
        if place == self.published:
            self.first = flags
        else:
            self.items[8 * slot + FLAGS] = flags
        self.theirs.discard(slot)

    def write_table(self, gpa, segments):
        """Only WRITE means anything there; the order is that of the table."""
        for position, (address, length, flags) in enumerate(segments):
            entry = ENTRY.pack(address, length, DECOY, flags & WRITE)
            self.memory.write(gpa + 16 * position, entry)

    def publish(self):
        """Shows the added chains to the device; True when the device wants a kick."""
        old, new = self.published, self.avail
        if old == new:
            return False
        barrier()
        self.items[8 * (old % self.num) + FLAGS] = self.first
        self.published = new
        barrier()  # the flags before reading whether the device sleeps
        return self.device.wants(old, new, self.num, self.event_idx)

    def flags(self, place):
        return self.items[8 * (place % self.num) + FLAGS]

    def has_used(self):
        return packed.is_used(self.flags(self.used), self.used, self.num)

    def used_entry(self, place):
        """(id, length) of the used descriptor there."""
        barrier()
        _, length, number, _ = ENTRY.unpack_from(self.table, 16 * (place % self.num))
        return number, length

    def harvest(self):
        """The chains completed since the last harvest, in the order of the used descriptors.
        With IN_ORDER one completes every chain up to the one that it names."""
        done = []
        while self.has_used():
            head, length = self.used_entry(self.used)
            slot = self.used % self.num
            self.mirror[16 * slot : 16 * slot + 16] = self.table[16 * slot : 16 * slot + 16]
            self.theirs.add(slot)
            chains = self.take_used(head, length, self.in_order)
            self.used += sum(len(chain.slots) for chain in chains)
            done += chains
        return done

    def all_used(self):
        """Looks ahead of harvest()."""
        place, left = self.used, dict(self.outstanding)
        while left and packed.is_used(self.flags(place), place, self.num):
            head, _ = self.used_entry(place)
            names = list(left) if self.in_order else [head]
            for name in names[: names.index(head) + 1]:
                place += len(left.pop(name).slots)
        return not left

    def give_slots(self, chain):
        self.left += len(chain.slots)
        self.free.insert(0, chain.head)

    def want_calls(self, wanted):
        """Turns calls on or off; when on, True if completions came meanwhile."""
        on = packed.DESC_EVENT if self.event_idx else packed.ENABLE
        self.driver.set(on if wanted else packed.DISABLE, self.used, self.num)
        barrier()
        return wanted and self.has_used()

    # What tests compare with.

    @property
    def avail_idx(self):
        return self.avail

    def used_idx(self):
        return self.used

    def base(self):
        return packed.join(self.avail, self.avail, self.num)

    def untouched(self):
        """Has the device written nothing but used descriptors? For a ring at rest."""
        return bytes(self.table) == bytes(self.mirror)

    def device_pages(self):
        """(gpa, length) of what the device writes in the ring."""
        return [(self.desc_gpa, len(self.table)), (self.used_gpa, 4)]

    def overlay(self):
        """(gpa, bytes) that the driver wrote there: descriptors that are not used ones."""
        return [(self.desc_gpa + 16 * slot, bytes(self.table[16 * slot : 16 * slot + 16]))
                for slot in range(self.num) if slot not in self.theirs]

    # Field by field, for misbehaving.

    def describe(self, offset, gpa, length, flags=0, number=0, available=True):
        """Shows a descriptor at once, `offset` places after the next one; with all of its flags
        in `flags` when it is not to be available. The driver's own state stays as it is."""
        place = self.avail + offset
        slot = place % self.num
        if available:
            flags |= packed.bits(place, self.num)
        self.table[16 * slot : 16 * slot + 14] = ENTRY.pack(gpa, length, number, 0)[:14]
        barrier()
        self.items[8 * slot + FLAGS] = flags
