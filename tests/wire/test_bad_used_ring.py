"""A back-end that misuses the used ring, in shadow mode: that queue stops with side backend."""

import os

import pytest
from svqwire.guest import answer
from svqwire.pairs import Pair
from svqwire.qmp import QmpError
from svqwire.wait import wait_until
from test_bad_guest_ring import assert_recovers, assert_stopped


def bad_id_range(ring, chain):
    ring.push(ring.num, 0)


def bad_id_huge(ring, chain):
    ring.push(0xFFFFFFFF, 0)


def bad_id_high_half(ring, chain):
    """Right in its low 16 bits only."""
    ring.push(chain.head | 0x10000, 0)


def bad_not_outstanding(ring, chain):
    ring.push((chain.head + 1) % ring.num, 0)


def bad_duplicate(ring, chain):
    ring.push(chain.head, 0)
    ring.push(chain.head, 0)


def bad_duplicate_at_once(ring, chain):
    ring.put(ring.used_idx, chain.head, 0)
    ring.put(ring.used_idx + 1, chain.head, 0)
    ring.publish(ring.used_idx + 2)


def bad_jump(ring, chain):
    ring.put(ring.used_idx, chain.head, 0)
    ring.publish(ring.used_idx + 3)


def bad_jump_over_the_ring(ring, chain):
    ring.publish(ring.used_idx + ring.num + 1)


def bad_step_back(ring, chain):
    ring.publish(ring.used_idx - 1)


CASES = {name[4:]: case for name, case in globals().items() if name.startswith("bad_")}


def corrupting(case):
    """For BackEnd.corrupt: spoils queue 0's next completion, leaves the others alone."""

    def corrupt(queue, chain):
        if queue.index != 0:
            return False
        case(chain.ring, chain)
        queue.signal(chain.ring)
        return True

    return corrupt


@pytest.mark.parametrize("name", CASES)
def test_bad_used(bench, name):
    made = bench(devices=2, shadow="on")
    made.unit.io()
    queue = made.unit.guest.queues[0]
    queue.err.take()
    made.unit.backend.corrupt = corrupting(CASES[name])
    queue.submit([b"request"], [64])
    assert_stopped(made, queue, side="backend")
    made.unit.backend.corrupt = None
    assert_recovers(made, queue)


@pytest.mark.parametrize("name", ["id_range", "duplicate", "jump"])
def test_bad_used_while_a_switch_drains(bench, name):
    """The drain that ends the shadow must not wait for what will never come."""
    made = bench(devices=2, keys={"drain-timeout": 1, "message-timeout": 1})
    made.svqd.shadow("dev0", True)
    queue = made.unit.guest.queues[0]
    made.unit.backend.hold = True
    queue.submit([b"request"], [64])
    wait_until(made.unit.backend.held, "the request to be held")
    made.unit.backend.corrupt = corrupting(CASES[name])
    try:
        made.svqd.shadow("dev0", False)
    except QmpError as error:
        assert error.desc.startswith("Can't enable shadow vq on dev0: "), error
    made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0, side="backend")
    made.unit.backend.corrupt, made.unit.backend.hold = None, False
    made.units[1].io()
    made.fresh()


@pytest.fixture(params=["split-split", "packed-packed", "split-packed"])
def paired(request, folder, closing):
    """A function that makes a bench with that pair of ring formats."""
    return lambda **options: closing(
        Pair(request.param).bench(folder, shadow="on", keys={"descriptors": "copied"}, **options))


@pytest.mark.parametrize("length", [65, 4096, 0xFFFFFFFF])
def test_length_is_clamped(paired, length):
    """More than the chain's writable total is told as that total."""
    made = paired()

    def corrupt(queue, chain):
        chain.write(answer(chain.read(), chain.room))
        chain.ring.push(chain.head, length)
        queue.signal(chain.ring)
        return True

    made.unit.backend.corrupt = corrupt
    for queue in made.unit.guest.queues:
        queue.submit([b"request"], [60, 4])
        assert queue.complete(1)[0].length == 64
        queue.submit([b"nothing to write"])
        assert queue.complete(1)[0].length == 0


def test_shadow_descriptors_are_never_read_back(bench):
    """A back-end that scribbles over the table and the avail ring harms only itself."""
    made = bench(shadow="on", keys={"descriptors": "copied"})

    def corrupt(queue, chain):
        data = answer(chain.read(), chain.room)
        chain.write(data)
        ring = chain.ring
        ring.table[16 * chain.head : 16 * chain.head + 16] = b"\xee" * 16
        ring.avail[2 + (ring.last_avail - 1) % ring.num] = 0xEEEE
        ring.push(chain.head, len(data))
        queue.signal(ring)
        return True

    made.unit.backend.corrupt = corrupt
    for _ in range(3):
        made.unit.io(100)
    made.unit.backend.corrupt = None
    made.svqd.shadow("dev0", True)
    made.unit.io(40)


def test_spurious_calls(paired):
    """Calls without a completion: the guest is not told of any."""
    made = paired()
    queue = made.unit.guest.queues[0]
    queue.call.take()
    for _ in range(100):
        made.unit.backend.run(lambda: os.eventfd_write(made.unit.backend.queues[0].call, 1))
    made.unit.io()


def test_suppression_of_kicks(bench):
    """NO_NOTIFY of the back-end is honoured: chains wait for its polling."""
    made = bench(shadow="on", event_idx=False)
    backend, queue = made.unit.backend, made.unit.guest.queues[0]
    made.unit.io()

    def suppress(on):
        backend.queues[0].ring.used[0] = on

    backend.run(lambda: suppress(1))
    queue.ring.publish()
    before = backend.queues[0].kicks
    for _ in range(8):
        queue.submit([b"polled"], [16])
    wait_until(lambda: backend.run(lambda: backend.queues[0].ring.avail[1]
                                   - backend.queues[0].ring.last_avail & 0xFFFF) == 8,
               "the chains to be on the shadow ring")
    assert backend.queues[0].kicks == before
    backend.run(lambda: suppress(0))
    backend.run(lambda: backend.queues[0].process())
    queue.complete(8)


@pytest.mark.parametrize("event_idx", [False, True])
def test_suppression_of_calls(bench, event_idx):
    """A guest that wants no call gets none."""
    made = bench(shadow="on", event_idx=event_idx)
    queue = made.unit.guest.queues[0]
    made.unit.io()
    queue.ring.want_calls(False)
    queue.call.take()
    for _ in range(8):
        queue.submit([b"polled"], [16])
    wait_until(lambda: queue.ring.all_used(), "the completions")
    made.unit.vmm.sync()
    assert queue.call.take() == 0, "interrupted although it suppressed interrupts"
    queue.complete(8)
