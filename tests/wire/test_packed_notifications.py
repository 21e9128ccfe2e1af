"""Kicks and calls of packed rings, counted on the eventfds: none too many, none too few.

svqd is between two event suppression areas: it reads the guest's driver area before a call and
the back-end's device area before a kick, and writes the other two itself.
"""

import os

import pytest
from svqwire import packed
from svqwire.pairs import Pair
from svqwire.wait import wait_until

NUM = 21


@pytest.fixture(params=["packed-packed", "split-packed"])
def to_packed(request, folder, closing):
    """A bench with a packed ring at the back-end, whose queue 0 nobody serves."""

    def make(**options):
        made = closing(Pair(request.param).bench(
            folder, shadow="on", **{"num": 16, "indirect": False, **options}))
        made.unit.io(5)
        return made

    return make


@pytest.fixture(params=["packed-packed", "packed-split"])
def from_packed(request, folder, closing):
    def make(**options):
        made = closing(Pair(request.param).bench(
            folder, shadow="on", **{"num": NUM, "indirect": False, **options}))
        made.unit.io(5)
        return made

    return make


class Ear:
    """The back-end's end of queue 0, which counts kicks and serves only when told to."""

    def __init__(self, made):
        self.svqd, self.backend = made.svqd, made.unit.backend
        self.queue = self.backend.queues[0]
        self.backend.run(lambda: self.backend.unwatch(self.queue.kick))
        self.kicks()

    def kicks(self):
        """Since the last look. The query waits for the worker's turn, which ends with the kick."""
        self.svqd.queue("dev0", 0)

        def read():
            try:
                return os.eventfd_read(self.queue.kick)
            except BlockingIOError:
                return 0

        return self.backend.run(read)

    def ask(self, flags, ahead=0):
        """The device area: from `ahead` places after the next one on."""
        ring = self.queue.ring
        self.backend.run(lambda: ring.device.set(flags, ring.last_avail + ahead, ring.num))

    def wait_pending(self, count):
        wait_until(lambda: self.backend.run(self.queue.ring.pending) == count,
                   f"{count} descriptors on the shadow ring")

    def serve(self):
        self.backend.run(self.queue.process)


def offer(queue, ear, expected):
    """One chain of one descriptor after the other; the kicks after each."""
    seen = []
    for number in range(len(expected)):
        queue.submit([b"x"])
        ear.wait_pending(number + 1)
        seen.append(ear.kicks())
    return seen


@pytest.mark.parametrize("poll", ["0", "50"])
@pytest.mark.parametrize("event_idx", [False, True])
def test_no_kick_for_disable(to_packed, event_idx, poll):
    made = to_packed(event_idx=event_idx, arguments=["--poll-us", poll])
    ear, queue = Ear(made), made.unit.guest.queues[0]
    for _ in range(2 * NUM):
        ear.ask(packed.DISABLE)
        assert offer(queue, ear, [0] * 4) == [0] * 4
        ear.serve()
        queue.complete(4)


def test_one_kick_for_each_when_enabled(to_packed):
    made = to_packed(event_idx=False)
    ear, queue = Ear(made), made.unit.guest.queues[0]
    for _ in range(NUM):
        ear.ask(packed.ENABLE)
        assert offer(queue, ear, [1] * 3) == [1] * 3
        ear.serve()
        queue.complete(3)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_one_kick_at_the_descriptor(to_packed, ahead):
    """DESC: when that descriptor is published, once, in every place of the ring."""
    made = to_packed(event_idx=True)
    ear, queue = Ear(made), made.unit.guest.queues[0]
    expected = [int(number == ahead) for number in range(5)]
    for _ in range(2 * NUM):
        ear.ask(packed.DESC_EVENT, ahead)
        assert offer(queue, ear, expected) == expected
        ear.serve()
        queue.complete(5)


def test_one_kick_for_a_batch(to_packed):
    """Several chains with one kick of the guest's: one for the back-end, at most."""
    made = to_packed(event_idx=True)
    ear, queue = Ear(made), made.unit.guest.queues[0]
    for turn in range(NUM):
        ear.ask(packed.DESC_EVENT, turn % 6)
        for size in (1, 2, 3):
            queue.ring.add([b"x"] * size)
        queue.flush(force=True)
        ear.wait_pending(6)
        assert ear.kicks() == 1
        ear.serve()
        queue.complete(3)


# Calls, as the guest's driver area asks for them.


def submit_one(queue):
    queue.ring.add([b"x"], [4])
    queue.flush()


def settle(made, queue):
    """Everything is used, and whatever call there was to be has been made."""
    wait_until(queue.ring.all_used, "the completions")
    made.svqd.queue("dev0", 0)
    return queue.call.take()


@pytest.mark.parametrize("event_idx", [False, True])
def test_no_call_for_disable(from_packed, event_idx):
    made = from_packed(event_idx=event_idx)
    queue = made.unit.guest.queues[0]
    for _ in range(NUM):
        queue.ring.want_calls(False)
        queue.call.take()
        for _ in range(4):
            submit_one(queue)
        assert settle(made, queue) == 0, "interrupted although it suppressed interrupts"
        queue.complete(4)


def test_a_call_for_each_when_enabled(from_packed):
    made = from_packed(event_idx=False)
    queue = made.unit.guest.queues[0]
    for _ in range(NUM):
        queue.ring.driver.set(packed.ENABLE)
        queue.call.take()
        submit_one(queue)
        assert settle(made, queue) == 1
        queue.complete(1)


@pytest.mark.parametrize("ahead", [0, 2, 5])
def test_one_call_at_the_descriptor(from_packed, ahead):
    """Chains of two descriptors each: the place may be in the middle of one."""
    made = from_packed(event_idx=True)
    queue = made.unit.guest.queues[0]
    for _ in range(2 * NUM):
        ring = queue.ring
        ring.driver.set(packed.DESC_EVENT, ring.used + ahead, NUM)
        queue.call.take()
        seen = []
        for _ in range(4):
            submit_one(queue)
            seen.append(settle(made, queue))
        assert seen == [int(number == ahead // 2) for number in range(4)]
        queue.complete(4)


def test_guest_kicks_are_suppressed_while_polling(folder, closing):
    """A busy worker asks the guest for no kicks; an idle one asks again."""
    made = closing(Pair("packed-packed").bench(
        folder, shadow="on", queues=1, arguments=["--poll-us", "200000"]))
    queue = made.unit.guest.queues[0]
    queue.io(4)
    wait_until(lambda: queue.ring.device.get()[0] == packed.DISABLE, "the worker to poll")
    before = made.svqd.queue("dev0", 0)["kicks"]["guest"]
    queue.io(40)
    assert made.svqd.queue("dev0", 0)["kicks"]["guest"] - before <= 2
    expected = (packed.DESC_EVENT, packed.encode(queue.ring.avail, queue.ring.num))
    wait_until(lambda: queue.ring.device.get() == expected, "the worker to ask for a kick")
    queue.io(4)


def test_back_end_calls_are_suppressed_while_polling(folder, closing):
    made = closing(Pair("split-packed").bench(
        folder, shadow="on", queues=1, arguments=["--poll-us", "200000"]))
    queue, back = made.unit.guest.queues[0], made.unit.backend.queues[0]
    queue.io(4)
    wait_until(lambda: back.ring.driver.get()[0] == packed.DISABLE, "the worker to poll")
    before = back.calls
    queue.io(40)
    assert back.calls - before <= 2
    wait_until(lambda: back.ring.driver.get() == (
        packed.DESC_EVENT, packed.encode(back.ring.used, back.ring.num)), "the worker to sleep")
    queue.io(4)
