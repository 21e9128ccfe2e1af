"""The packed ring's layout (virtio 1.3, 2.8), and how places in it are counted.

A place is a slot in a lap. Here it is one number that only grows: slot = place % num, and the
wrap counter, which starts at 1, is 1 in even laps. On the wire a place has 15 bits of slot and
one of wrap counter; it names a place modulo two laps, which is enough, since nobody is ever more
than one lap away.
"""

import struct

AVAIL, USED = 1 << 7, 1 << 15
ENABLE, DISABLE, DESC_EVENT, RESERVED = 0, 1, 2, 3  # flags of an event suppression area
ENTRY = struct.Struct("<QIHH")  # address, length, id, flags
START = 0x80008000  # the base of a ring that nobody has used yet
FLAGS, ID = 7, 6  # 16-bit items of a descriptor


def wrap(place, num):
    return place // num % 2 == 0


def encode(place, num):
    return place % num | wrap(place, num) << 15


def decode(word, num):
    """The place, of the first two laps."""
    return (word & 0x7FFF) + (0 if word & 0x8000 else num)


def join(avail, used, num):
    """The base as GET_VRING_BASE tells it."""
    return encode(avail, num) | encode(used, num) << 16


def split(base, num):
    """(avail, used) of a base; some peers know its lower half only."""
    low = base & 0xFFFF
    avail, used = decode(low, num), decode(base >> 16 or low, num)
    return (avail if avail >= used else avail + 2 * num), used


def bits(place, num, used=False):
    """AVAIL and USED of a descriptor that is available, or used, there."""
    now = wrap(place, num)
    return (AVAIL if now else 0) | (USED if now == used else 0)


def is_available(flags, place, num):
    return flags & (AVAIL | USED) == bits(place, num)


def is_used(flags, place, num):
    return flags & (AVAIL | USED) == bits(place, num, used=True)


def reached(word, num, old, new):
    """Is the place that `word` encodes one of old .. new - 1?"""
    place = decode(word, num)
    return old + (place - old) % (2 * num) < new


class EventArea:
    """One of the two event suppression areas, read and written as one 32-bit word."""

    def __init__(self, view):
        self.word = view.cast("I")

    def set(self, flags, place=0, num=1):
        self.word[0] = flags << 16 | (encode(place, num) if flags == DESC_EVENT else 0)

    def get(self):
        """(flags, encoded place)."""
        word = self.word[0]
        return word >> 16, word & 0xFFFF

    def wants(self, old, new, num, event_idx):
        """Does the owner want to be notified of what happened in old .. new - 1? Also judges
        what the owner wrote."""
        flags, word = self.get()
        assert flags in (ENABLE, DISABLE, DESC_EVENT), f"event flags {flags:#x}"
        if flags != DESC_EVENT:
            return flags == ENABLE and new != old
        assert event_idx, "a descriptor event without EVENT_IDX"
        assert word & 0x7FFF < num, f"event offset {word & 0x7FFF} in a ring of {num}"
        return reached(word, num, old, new)
