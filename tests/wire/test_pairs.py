"""Any guest ring meets any back-end ring: contents, switches, stops and their bases."""

import pytest
from svqwire import message as wire
from svqwire import packed
from svqwire.load import Load
from svqwire.memory import MIB, GuestMemory
from svqwire.pairs import PAIRS, Pair, bases_told, in_guest, ring_addresses
from svqwire.wait import wait_until

RINGS = {
    "plain": dict(event_idx=False, indirect=False),
    "event-idx": dict(event_idx=True, indirect=False),
    "indirect": dict(event_idx=False, indirect=True),
    "both": dict(),
    "in-order": dict(in_order=True),
}


@pytest.fixture(params=PAIRS)
def pair(request):
    return Pair(request.param)


@pytest.fixture
def paired(pair, folder, closing):
    """A function that makes a bench of the pair."""
    return lambda **options: closing(pair.bench(folder, **options))


def shapes(queue):
    """A few chains of each shape that a driver may make, all in flight at once."""
    ring = queue.ring
    requests = [([b"a"], []), ([], [700]), ([b"b" * 5000], [9000, 1]), ([b"", b"c"], [0, 5]),
                ([b"d"] * 4, [3] * 4)]
    for readable, writable in requests:
        ring.add(readable, writable)
    if not ring.is_packed and ring.indirect:
        ring.add([b"direct", b"direct", b"indirect"], [7, 8], direct=2)
    queue.flush()
    queue.complete(len(ring.outstanding))


def assert_formats(made, pair):
    for state in made.svqd.device("dev0")["queues"]:
        assert state["guest"]["format"] == pair.guest
        backend = pair.backend if state["mode"] == "shadow" else pair.guest
        assert state["backend"]["format"] == backend


@pytest.mark.parametrize("shadow", ["on", "auto"])
@pytest.mark.parametrize("rings", RINGS)
def test_io(paired, pair, shadow, rings):
    """A whole session: what was asked for is in memory, in either mode, wherever it can be."""
    made = paired(shadow=shadow, has=wire.F_IN_ORDER, num=32, **RINGS[rings])
    unit, svqd = made.unit, made.svqd
    bases = None
    for turn in range(3):
        if bases:
            unit.vmm.start(bases)
            unit.vmm.sync()
        mode = "shadow" if shadow == "on" or pair.bound else "pass-through"
        assert svqd.device("dev0")["mode"] == mode
        assert_formats(made, pair)
        unit.backend.order = ("fifo", "lifo")[turn % 2]
        unit.io(24)
        for queue in unit.guest.queues:
            shapes(queue)
        if not pair.bound:
            svqd.shadow("dev0", mode == "pass-through")
            assert_formats(made, pair)
            unit.io(24)
            svqd.shadow("dev0", mode == "shadow")
            unit.io(8)
        bases = unit.vmm.stop()
        assert bases == [queue.ring.base() for queue in unit.guest.queues]
        if pair.guest == "packed":
            assert all(queue.ring.untouched() for queue in unit.guest.queues)
    unit.guest.restart()
    unit.vmm.start()
    unit.io()


@pytest.mark.parametrize("rings", ["plain", "both"])
def test_sizes(paired, pair, rings):
    """Small rings, odd ones where the guest's format has them, many laps."""
    made = paired(shadow="on", queues=1, **RINGS[rings])
    unit = made.unit
    queue = unit.guest.queues[0]
    for num in (1, 2, 8) + ((3, 7, 100) if pair.guest == "packed" else ()):
        unit.vmm.stop()
        unit.guest.restart(num=num)
        unit.vmm.start()
        depth = max(num // 3, 1) if rings == "plain" else num
        for _ in range(3 * num + 10 if num < 100 else 20):
            for _ in range(depth):
                queue.ring.add([b"x"], [5] if rings == "both" or num >= 2 * depth else [])
            queue.flush()
            queue.complete(depth)
        size = unit.backend.queues[0].num
        assert size == num if pair.backend == "packed" else num <= size < 2 * num
        assert unit.vmm.get_vring_base(queue) == queue.ring.base()


def test_bound_from_the_start(paired, pair):
    """Not one setting of a bound session's rings reaches the back-end as the guest made it."""
    made = paired(shadow="auto")
    unit = made.unit
    unit.io()
    addresses = ring_addresses(unit.backend)
    theirs = {in_guest(unit.guest.memory, address) for address in addresses}
    assert addresses and theirs == {not pair.bound}
    if not pair.bound:
        return
    assert made.svqd.device("dev0")["switches"] == 0
    for queue in unit.guest.queues:
        bases = bases_told(unit.backend, queue.index)
        assert bases == [packed.START if pair.backend == "packed" else 0]
    error = made.svqd.refused("dev0", False)
    assert error.error_class == "GenericError"
    assert error.desc.startswith("Can't enable shadow vq on dev0: "), error.desc
    assert pair.guest in error.desc, error.desc
    assert made.svqd.shadow("dev0", True) == {}
    made.svqd.qmp.command("device-set-shadow", id="dev0", shadow="on")
    made.svqd.qmp.command("device-set-shadow", id="dev0", shadow="auto")
    unit.io()
    assert made.svqd.device("dev0")["mode"] == "shadow"
    assert {in_guest(unit.guest.memory, a) for a in ring_addresses(unit.backend)} == {False}


def test_one_queue_stops_and_starts(paired, pair):
    """GET_VRING_BASE of one queue leaves the others running, in each mode."""
    made = paired(queues=3)
    unit = made.unit
    load = None
    for turn in range(6):
        if not pair.bound:
            made.svqd.shadow("dev0", turn % 2 == 0)
        queue = unit.guest.queues[1]
        others = [unit.guest.queues[0], unit.guest.queues[2]]
        load = Load(Others(others))
        base = unit.vmm.get_vring_base(queue)
        assert base == queue.ring.base()
        load.wait_rounds(2)
        queue.submit([b"early"], [32])
        unit.vmm.start_queue(queue, base)
        unit.vmm.vring_enable(queue)
        queue.complete(1)
        queue.io(16)
        load.wait_rounds(1)
        load.close()


class Others:
    """Some of a guest's queues, for Load."""

    def __init__(self, queues):
        self.queues = queues

    def io(self, count, depth):
        for queue in self.queues:
            queue.io(count, depth)


def test_disabled_queue(paired, pair):
    """ENABLE 0 drains a shadowed ring before its ack; ENABLE 1 goes on."""
    made = paired(shadow="on")
    unit = made.unit
    for _ in range(3):
        unit.io(8)
        unit.backend.hold = True
        for queue in unit.guest.queues:
            for _ in range(5):
                queue.submit_random()
        wait_until(lambda: unit.backend.held() == 10, "the requests to be held")
        unit.backend.run(lambda: unit.backend.later(0.03, unit.backend.complete_held))
        for queue in unit.guest.queues:
            unit.vmm.vring_enable(queue, 0)
            assert queue.ring.all_used(), "ENABLE 0 was acked before the ring was drained"
            queue.complete(5)
            queue.submit([b"early"], [16])
        for queue in unit.guest.queues:
            unit.vmm.vring_enable(queue, 1)
            queue.complete(1)


@pytest.mark.parametrize("order", ["fifo", "lifo"])
def test_stopped_with_work_in_flight(paired, pair, order):
    """GET_VRING_BASE answers when what the back-end took is complete, and with the guest's
    place."""
    made = paired(shadow="on", num=16)
    unit = made.unit
    unit.backend.order = order
    bases = None
    for _ in range(5):
        if bases:
            unit.vmm.start(bases)
            unit.vmm.sync()
        unit.backend.hold = True
        for queue in unit.guest.queues:
            for _ in range(7):
                queue.submit_random()
        wait_until(lambda: unit.backend.held() == 14, "the requests to be held")
        unit.backend.run(lambda: setattr(unit.backend, "hold", False))
        bases = unit.vmm.stop()
        assert bases == [queue.ring.base() for queue in unit.guest.queues]
        for queue in unit.guest.queues:
            assert queue.ring.all_used()
            queue.drain()


def test_never_taken(paired, pair):
    """Chains that the back-end leaves alone, as a net device its receive buffers, stay in the
    guest's ring: a stop goes back by as much."""
    made = paired(shadow="on")
    unit = made.unit
    queue = unit.guest.queues[0]
    unit.io(9)
    back = unit.backend.queues[0]
    for turn in range(4):
        taken = queue.ring.base()
        unit.backend.run(lambda: setattr(back, "process", lambda: None))
        for _ in range(5):
            queue.submit([b"x", b"y"], [64, 5])
        wait_until(lambda: unit.backend.run(back.ring.pending), "the shadow ring to be filled")
        base = unit.vmm.get_vring_base(queue)
        assert base == taken
        unit.backend.run(lambda: delattr(back, "process"))
        unit.vmm.start_queue(queue, base)
        unit.vmm.vring_enable(queue)
        queue.complete(5)
        queue.io(turn + 1)


@pytest.mark.parametrize("queues, num", [(1, 32768), (4, 4096), (8, 1024), (64, 256)])
def test_large_rings(pair, folder, closing, queues, num):
    """As many and as large as there are: every pair is served, and shadowed."""
    num -= pair.guest == "packed"
    memory = GuestMemory(((0, 64 * MIB),))
    made = closing(pair.bench(folder, queues=queues, num=num, memory=memory, shadow="on",
                              backend_options=dict(queues=queues)))
    assert made.svqd.device("dev0")["mode"] == "shadow"
    for queue in made.unit.guest.queues:
        queue.io(8)
    made.unit.vmm.stop()


def test_reset_device(paired):
    """RESET_DEVICE while requests are in flight, then a fresh driver."""
    made = paired(devices=2, shadow="on")
    unit = made.unit
    for _ in range(4):
        unit.io()
        unit.backend.hold = True
        for queue in unit.guest.queues:
            queue.submit([b"lost"], [16])
        wait_until(lambda: unit.backend.held() == 2, "the requests to be held")
        unit.vmm.tell(wire.Id.RESET_DEVICE)
        unit.backend.hold = False
        unit.guest.restart()
        unit.vmm.start()
        unit.vmm.sync()
    unit.io()
    made.units[1].io()


@pytest.mark.parametrize("who", ["front-end", "back-end"])
def test_sessions_that_end_in_the_middle(paired, who):
    """Either peer leaves with requests in flight and waiting: the front-end's next session is
    whole, and in shadow mode the back-end's return completes them."""
    made = paired(devices=2, num=8, keys={"message-timeout": 2})
    unit = made.unit
    for _ in range(6):
        unit.io(5)
        unit.backend.hold = True
        for queue in unit.guest.queues:
            for _ in range(6):
                queue.submit_random()
        wait_until(unit.backend.held, "requests to be held")
        if who == "front-end":
            unit.hang_up()
            unit.backend.hold = False
            made.fresh()
        else:
            shadowed = made.svqd.device("dev0")["mode"] == "shadow"
            unit.backend.abandon()
            if shadowed:
                unit.guest.drain()
            else:
                assert unit.vmm.closed_by_peer()
                made.fresh()
        made.units[1].io(2)
