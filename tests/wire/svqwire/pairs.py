"""Guest rings and back-end rings of either format, and how svqd is told to bring them together."""

from . import message as wire
from .backend import FEATURES
from .bench import Bench

RING_BITS = {
    "packed": wire.F_PACKED, "event_idx": wire.F_EVENT_IDX, "indirect": wire.F_INDIRECT,
    "in_order": wire.F_IN_ORDER,
}
ALL_RING_BITS = sum(RING_BITS.values())
PACKED_FEATURES = FEATURES | wire.F_PACKED
FORMATS = ("split", "packed")
# "guest-backend"; of a packed guest on a split ring there are two kinds: the back-end lacks
# packed rings, or it has them and ring=split keeps them from it.
PAIRS = ("split-split", "split-packed", "packed-split", "packed-split-chosen", "packed-packed")


class Pair:
    """What a Bench needs for one pair."""

    def __init__(self, name):
        self.name = name
        self.guest, self.backend = name.split("-")[:2]
        self.keys, features = {}, FEATURES
        if self.backend == "packed" or name.endswith("chosen"):
            features |= wire.F_PACKED
        if name == "split-packed":
            self.keys["ring"] = "packed"
        if self.guest == "packed" and self.backend == "split":
            self.keys["offer"] = "packed"
        if name.endswith("chosen"):
            self.keys["ring"] = "split"
        self.features = features
        self.bound = self.guest != self.backend

    def bench(self, folder, lacks=0, has=0, backend_options=None, **options):
        """lacks, has: ring features that the back-end does not have, or has besides the usual
        ones. What the guest uses all the same is offered by svqd."""
        features = self.features & ~lacks | has
        every = dict(self.keys)
        options = {"event_idx": True, "indirect": True, **options}
        added = [name for name, bit in RING_BITS.items()
                 if name != "packed" and options.get(name) and not features & bit]
        if added:
            every["offer"] = "+".join([*added, *filter(None, [every.get("offer")])])
        return Bench(folder, packed=self.guest == "packed", every=every,
                     backend_options={"features": features, **(backend_options or {})}, **options)


def offered(features, ring, offer):
    """The ring features that a guest is offered, by the rule of the manual."""
    hidden = wire.F_PACKED if ring == "split" else 0
    return features & ALL_RING_BITS & ~hidden | offer


def chosen_format(features, ring, acked):
    """Is the back-end's ring packed?"""
    if ring == "split" or not features & wire.F_PACKED:
        return False
    return ring == "packed" or bool(acked & wire.F_PACKED)


def served(features, ring, acked):
    """(ring features that the back-end is acked, is the session bound to the shadow?)"""
    acked &= ALL_RING_BITS
    packed = chosen_format(features, ring, acked)
    bound = bool(acked & ~features) or packed != bool(acked & wire.F_PACKED)
    if not bound:
        return acked, False
    own = (wire.F_EVENT_IDX | wire.F_INDIRECT | acked & wire.F_IN_ORDER) & features
    return own | (wire.F_PACKED if packed else 0), True


def ring_addresses(backend, start=0):
    """The descriptor areas of every SET_VRING_ADDR that the back-end got."""
    return [wire.VRING_ADDR.unpack(message.payload)[2] for message in backend.log[start:]
            if message.id == wire.Id.SET_VRING_ADDR]


def bases_told(backend, queue, start=0):
    """The bases of every SET_VRING_BASE for that queue."""
    states = [wire.VRING_STATE.unpack(message.payload) for message in backend.log[start:]
              if message.id == wire.Id.SET_VRING_BASE]
    return [base for index, base in states if index == queue]


def in_guest(memory, uaddr):
    return any(r.uaddr <= uaddr < r.uaddr + r.size for r in memory.regions)
