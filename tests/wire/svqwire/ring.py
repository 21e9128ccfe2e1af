"""The split ring as its driver sees it (virtio 1.3, 2.7), with room for doing it wrong.

add() and publish() are the well-behaved way; describe(), offer() and set_avail_idx() write the
ring's fields as they are told, for the bad-ring tests.
"""

import struct

from .driver import INDIRECT, NEXT, WRITE, BufferPool, Chain, DriverRing
from .memory import barrier

__all__ = ["DESC", "INDIRECT", "NEXT", "NO_INTERRUPT", "NO_NOTIFY", "WRITE", "BufferPool",
           "Chain", "GuestRing"]

NO_NOTIFY = 1  # used.flags: the device wants no kicks
NO_INTERRUPT = 1  # avail.flags: the driver wants no calls
DESC = struct.Struct("<QIHH")


class GuestRing(DriverRing):
    @staticmethod
    def area_sizes(num):
        return 16 * num, 6 + 2 * num, 6 + 8 * num

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

    # The well-behaved driver.

    def link(self, segments, direct):
        """Writes (gpa, length, flags) segments: `direct` in the table, the rest indirect. With
        IN_ORDER descriptors are used in ring order."""
        end = 0 if self.in_order else -1
        slots = [self.free.pop(end) for _ in range(min(direct + 1, len(segments)))]
        entries = self.entries(segments, direct, slots[-1])
        for position, (gpa, length, flags) in enumerate(entries):
            last = position + 1 == len(slots)
            following = 0 if last else slots[position + 1]
            self.describe(slots[position], gpa, length, flags | (0 if last else NEXT), following)
        chain = self.chain(slots[0], segments, slots)
        self.offer(chain.head)
        return chain

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
        """The chains completed since the last harvest, in the order of the used ring. With
        IN_ORDER an entry completes every chain up to the one that it names."""
        done = []
        while self.has_used():
            barrier()
            slot = self.last_used % self.num
            head, length = self.used_items[1 + 2 * slot], self.used_items[2 + 2 * slot]
            chains = self.take_used(head, length, self.in_order)
            self.last_used = (self.last_used + len(chains)) & 0xFFFF
            done += chains
        return done

    def want_calls(self, wanted):
        """Turns calls on or off; when on, True if completions came meanwhile."""
        if self.event_idx:
            self.avail[2 + self.num] = (self.last_used if wanted else self.last_used - 1) & 0xFFFF
        else:
            self.avail[0] = 0 if wanted else NO_INTERRUPT
        barrier()
        return wanted and self.has_used()

    def used_idx(self):
        return self.used[1]

    def has_used(self):
        return self.last_used != self.used[1]

    def all_used(self):
        return self.used[1] == self.avail_idx

    def base(self):
        return self.avail_idx

    def device_pages(self):
        """(gpa, length) of what the device writes in the ring."""
        return [(self.used_gpa, self.used_size)]

    def overlay(self):
        """(gpa, bytes) that the driver wrote there: nothing."""
        return []

    # Field by field, for misbehaving.

    def describe(self, slot, gpa, length, flags=0, following=0):
        DESC.pack_into(self.table, 16 * slot, gpa, length, flags, following)

    def offer(self, head):
        self.avail[2 + self.avail_idx % self.num] = head
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF

    def set_avail_idx(self, index):
        barrier()
        self.avail[1] = index & 0xFFFF
