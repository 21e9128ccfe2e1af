"""RING_RESET: one queue is reset and started again, elsewhere and with another size, while the
others move. On this socket that is GET_VRING_BASE, maybe with ENABLE 0, and a start at 0."""

import pytest
from svqwire import message as wire
from svqwire.guest import make_ring
from svqwire.load import Load
from svqwire.pairs import PAIRS, Pair, bases_told
from svqwire.wait import wait_until
from test_pairs import Others


@pytest.fixture(params=PAIRS)
def pair(request):
    return Pair(request.param)


def resetting(pair, folder, closing, **options):
    made = closing(pair.bench(folder, has=wire.F_RING_RESET, start=False, queues=3, **options))
    unit = made.unit
    unit.connect()
    assert unit.vmm.offered & wire.F_RING_RESET
    unit.vmm.wanted = wire.F_RING_RESET
    unit.vmm.start()
    unit.vmm.sync()
    assert unit.backend.acked & wire.F_RING_RESET
    return made


def renew(unit, queue, num):
    """The driver's new ring."""
    options = {**unit.guest.options, "num": num}
    queue.ring = make_ring(unit.guest.memory, **options)
    queue.call.take()


@pytest.mark.parametrize("shadow", ["auto", "on"])
@pytest.mark.parametrize("disables", [False, True], ids=["base", "enable-0"])
def test_reset_of_one_queue(pair, folder, closing, shadow, disables):
    made = resetting(pair, folder, closing, shadow=shadow)
    unit = made.unit
    queue, others = unit.guest.queues[1], [unit.guest.queues[0], unit.guest.queues[2]]
    load = Load(Others(others))
    for num in (16, 64, 8, 128):
        queue.io(5)
        unit.backend.hold = False
        if disables:
            unit.vmm.vring_enable(queue, 0)
        assert unit.vmm.get_vring_base(queue) == queue.ring.base()
        renew(unit, queue, num if pair.guest == "split" else num - 3)
        load.wait_rounds(1)
        queue.submit([b"early"], [16])
        unit.vmm.start_queue(queue, queue.ring.start_base)
        unit.vmm.vring_enable(queue)
        queue.complete(1)
        queue.io(40, depth=4)
        load.wait_rounds(1)
    load.close()
    size = made.svqd.queue("dev0", 1)["guest"]["size"]
    assert size == queue.ring.num
    if shadow == "auto" and not pair.bound:
        assert bases_told(unit.backend, 1)[-1] == queue.ring.start_base
        for enable in (True, False):
            made.svqd.shadow("dev0", enable)
            unit.io()
    assert unit.vmm.stop() == [queue.ring.base() for queue in unit.guest.queues]


def test_requests_in_flight_are_dropped(pair, folder, closing):
    """A reset completes what the back-end took, or not; either way the new ring starts empty."""
    made = resetting(pair, folder, closing, shadow="on")
    unit, queue = made.unit, made.unit.guest.queues[1]
    for _ in range(3):
        queue.io(5)
        unit.backend.hold = True
        for _ in range(4):
            queue.submit([b"in flight"], [64])
        wait_until(lambda: unit.backend.held() == 4, "the requests to be held")
        unit.backend.run(lambda: setattr(unit.backend, "hold", False))
        unit.vmm.get_vring_base(queue)
        renew(unit, queue, 32)
        unit.vmm.start_queue(queue, queue.ring.start_base)
        unit.vmm.vring_enable(queue)
        queue.io(20)
        unit.guest.queues[0].io(4)


def test_a_broken_queue_is_reset(pair, folder, closing):
    """A queue that its guest broke works again after its reset; nobody else noticed anything."""
    made = resetting(pair, folder, closing, shadow="on", keys={"descriptors": "copied"})
    unit, queue = made.unit, made.unit.guest.queues[1]
    for _ in range(3):
        queue.io(5)
        queue.err.take()
        queue.ring.describe(0, 1 << 40, 16)
        if not queue.ring.is_packed:
            queue.ring.offer(0)
        queue.flush(force=True)
        made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=1, side="guest")
        assert queue.err.wait(5)
        unit.guest.queues[0].io()
        unit.vmm.get_vring_base(queue)
        renew(unit, queue, 32)
        unit.vmm.start_queue(queue, queue.ring.start_base)
        unit.vmm.vring_enable(queue)
        queue.io(20)
        assert "error" not in made.svqd.queue("dev0", 1)
    unit.guest.queues[2].io()


def test_not_acked_not_served(folder, closing):
    """A back-end with it and a guest without: the bit is offered, and acked by nobody."""
    made = closing(Pair("split-split").bench(folder, has=wire.F_RING_RESET))
    assert made.unit.vmm.offered & wire.F_RING_RESET
    assert not made.unit.backend.acked & wire.F_RING_RESET
    made.unit.io()
