"""Chains that have to wait for room on the back-end's ring, and chains that never fit it."""

import pytest
from svqwire import message as wire
from svqwire.memory import MIB, GuestMemory
from svqwire.pairs import PAIRS, Pair
from svqwire.wait import wait_until
from test_bad_guest_ring import assert_recovers, assert_stopped

NUM = 8
FLAT = dict(lacks=wire.F_INDIRECT, indirect=True)  # tables are flattened into slots


@pytest.fixture(params=PAIRS)
def pair(request):
    return Pair(request.param)


@pytest.fixture
def paired(pair, folder, closing):
    return lambda **options: closing(pair.bench(
        folder, **{"num": NUM, "shadow": "auto", "devices": 2, **options}))


def submit(queue, *sizes):
    """Chains of so many descriptors each."""
    for size in sizes:
        queue.submit([b"r" * size] * (size - size // 2), [size + 2] * (size // 2))


def hold(unit, count):
    wait_until(lambda: unit.backend.held() == count, lambda: f"{count} held chains, not "
               f"{unit.backend.held()}")


def test_it_waits_its_turn(paired):
    """48 descriptors for 8 slots: one chain after the other, others' queues undisturbed."""
    made = paired(**FLAT)
    unit, queue = made.unit, made.unit.guest.queues[0]
    unit.io()
    assert made.svqd.device("dev0")["mode"] == "shadow"
    for _ in range(4):
        unit.backend.hold = True
        submit(queue, *[6] * 8)
        hold(unit, 1)
        made.units[1].io()
        state = made.svqd.queue("dev0", 0)
        assert (state["in-flight"], unit.backend.held()) == (1, 1)
        unit.backend.hold = False
        unit.guest.queues[1].io()
        unit.backend.release()
        queue.complete(8)
    assert unit.vmm.stop() == [queue.ring.base() for queue in unit.guest.queues]


def test_nothing_overtakes(paired):
    """A small chain that would fit stays behind the large one that does not."""
    made = paired(**FLAT)
    unit, queue = made.unit, made.unit.guest.queues[0]
    back = unit.backend.queues[0]
    unit.backend.hold = True
    submit(queue, 5, 5, 1)
    hold(unit, 1)
    unit.backend.run(lambda: setattr(unit.backend, "hold", False))
    unit.guest.queues[1].io()
    assert len(back.held) == 1
    seen = []
    answer = unit.backend.run(lambda: back.complete)
    unit.backend.run(lambda: setattr(
        back, "complete", lambda chains: (seen.extend(len(c.readable) for c in chains),
                                          answer(chains))))
    unit.backend.release()
    queue.complete(3)
    assert seen == [3, 3, 1]


def test_exactly_as_many_as_there_are(paired):
    made = paired(**FLAT)
    queue = made.unit.guest.queues[0]
    for _ in range(5):
        submit(queue, 8, 8, 1, 8, 7, 1, 1)
        queue.complete(7)


def test_out_of_order_completions_make_room(paired):
    made = paired(**FLAT)
    unit = made.unit
    unit.backend.order = "lifo"
    for queue in unit.guest.queues:
        for _ in range(10):
            submit(queue, 2, 3, 3, 5, 1, 8, 2, 2)
            queue.complete(8)


def test_one_that_never_fits(paired):
    """More descriptors than the whole ring: the guest's fault, told as that."""
    made = paired(**FLAT)
    unit, queue = made.unit, made.unit.guest.queues[0]
    unit.io()
    unit.backend.hold = True
    submit(queue, 3)
    hold(unit, 1)
    queue.err.take()
    submit(queue, 9)
    wait_until(lambda: made.svqd.queue("dev0", 0).get("error"), "the fault")
    assert "never fit" in made.svqd.queue("dev0", 0)["error"]
    unit.backend.hold = False
    assert_stopped(made, queue)
    unit.backend.release()
    assert_recovers(made, queue)


def test_a_chain_at_rest_while_it_waits(paired):
    """svqd sleeps until a completion makes room; then it goes on by itself."""
    made = paired(**FLAT, arguments=["--poll-us", "0"])
    unit, queue = made.unit, made.unit.guest.queues[0]
    for _ in range(10):
        unit.backend.hold = True
        submit(queue, 7, 7)
        hold(unit, 1)
        unit.vmm.sync()
        unit.backend.release()
        queue.complete(2)


@pytest.mark.parametrize("drain", ["before", "after"])
def test_stopped_while_it_waits(paired, drain):
    """What waits stays in the guest's ring; the base says so; it is served after the restart."""
    made = paired(**FLAT)
    unit, queue = made.unit, made.unit.guest.queues[0]
    for turn in range(4):
        unit.backend.drain, unit.backend.hold = drain, True
        before = queue.ring.base()
        submit(queue, 6)
        taken = queue.ring.base()
        submit(queue, 6, 2)
        hold(unit, 1)
        unit.backend.run(lambda: setattr(unit.backend, "hold", False))
        base = unit.vmm.get_vring_base(queue)
        assert base == taken != before
        unit.vmm.start_queue(queue, base)
        unit.vmm.vring_enable(queue)
        queue.complete(3)
        queue.io(turn)


def test_random_shapes(paired):
    """Many chains of random length, some in flight, some waiting, completed in any order."""
    made = paired(**FLAT, queues=1)
    queue = made.unit.guest.queues[0]
    for turn in range(60):
        made.unit.backend.order = ("fifo", "lifo")[turn % 2]
        submit(queue, *[queue.random.randint(1, 8) for _ in range(queue.random.randint(1, 8))])
        queue.complete(len(queue.ring.outstanding))


def test_tables_longer_than_the_ring(paired):
    """Forwarded or converted: Linux makes such tables, the ring's size does not bound them."""
    memory = GuestMemory(((0, 64 * MIB),))
    made = paired(devices=1, queues=1, memory=memory)
    unit, queue = made.unit, made.unit.guest.queues[0]
    for size in (9, 100, 300):
        unit.backend.hold = True
        submit(queue, *[size] * NUM)
        wait_until(unit.backend.held, "the first chains to be held")
        unit.backend.release()
        queue.complete(NUM)
    assert unit.vmm.stop() == [queue.ring.base()]


def test_table_longer_than_any(paired):
    """2000 entries, in a ring of 8: refused as the guest's fault."""
    memory = GuestMemory(((0, 64 * MIB),))
    made = paired(devices=1, shadow="on", memory=memory, keys={"descriptors": "copied"})
    queue = made.unit.guest.queues[0]
    queue.err.take()
    submit(queue, 2000)
    assert_stopped(made, queue)
    made.unit.vmm.stop()
    made.fresh()
