"""The ring features, by the names svqd and QEMU give them."""

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
PACKED = 1 << 34
IN_ORDER = 1 << 35
ALL = INDIRECT_DESC | EVENT_IDX | PACKED | IN_ORDER

# What svqd lists as a queue's features; the format is told apart from them.
_NAMES = {"indirect_desc": INDIRECT_DESC, "event_idx": EVENT_IDX, "in_order": IN_ORDER}


def ring_format(features):
    return "packed" if features & PACKED else "split"


def feature_names(features):
    """The names of those bits of features that are listed for a queue."""
    return {name for name, bit in _NAMES.items() if features & bit}


class Expectation:
    """What svqd makes of a guest's acked features before a back-end that has others.

    wanted: the device's ring= option.
    """

    def __init__(self, acked, backend, wanted="auto"):
        self.guest = acked & ALL
        self.format = wanted
        if wanted == "auto":
            self.format = ring_format(acked & backend)
        self.missing = self.guest & ~backend
        # Bound to the shadow: no back-end's ring could be the guest's own.
        self.bound = bool(self.missing) or self.format != ring_format(acked)

    def check_device(self, device):
        """Compare with an element of query-devices whose first queues are started."""
        told = device["pass-through"]
        assert told["possible"] is not self.bound, device
        if self.bound:
            assert device["mode"] == "shadow", device
            names = feature_names(self.missing) | ({"packed"} if self.missing & PACKED else set())
            assert all(name in told["reason"] for name in names), (names, told)
        started = [queue for queue in device["queues"] if queue["started"]]
        assert started, device
        for queue in started:
            assert queue["guest"]["format"] == ring_format(self.guest), queue
            assert set(queue["guest"]["features"]) == feature_names(self.guest), queue
            wanted = self.format if queue["mode"] == "shadow" else ring_format(self.guest)
            assert queue["backend"]["format"] == wanted, queue
