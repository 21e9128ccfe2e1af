"""A back-end that misuses its packed ring, in shadow mode: that queue stops with side backend."""

import os

import pytest
from svqwire import packed
from svqwire.guest import answer
from svqwire.load import Load
from svqwire.message import F_EVENT_IDX, F_IN_ORDER, Id
from svqwire.pairs import Pair
from svqwire.qmp import QmpError
from svqwire.wait import wait_until
from test_bad_guest_ring import assert_recovers, assert_stopped
from test_pairs import Others


@pytest.fixture(params=["packed-packed", "split-packed"])
def paired(request, folder, closing):
    pair = Pair(request.param)
    return lambda **options: closing(pair.bench(
        folder, **{"devices": 2, "shadow": "on", "num": 32, **options}))


def bad_id_range(ring, chain):
    ring.put(ring.used, ring.num, 0)


def bad_id_high(ring, chain):
    ring.put(ring.used, 0xFFFF, 0)


def bad_not_outstanding(ring, chain):
    ring.put(ring.used, (chain.head + 1) % ring.num, 0)


def bad_duplicate(ring, chain):
    ring.put(ring.used, chain.head, 0)
    ring.put(ring.used + chain.slots, chain.head, 0)


def bad_duplicate_at_once(ring, chain):
    """The second is there before the first is shown."""
    ring.put(ring.used + chain.slots, chain.head, 0)
    ring.put(ring.used, chain.head, 0)


def bad_more_than_outstanding(ring, chain):
    """After the last outstanding chain one more used descriptor."""
    ring.put(ring.used + chain.slots, (chain.head + 3) % ring.num, 0)
    ring.put(ring.used, chain.head, 0)


def bad_event_flags(ring, chain):
    """Read when the next chain is published: corrupt() is called with one more to come."""
    ring.device.word[0] = packed.RESERVED << 16


def bad_event_offset(ring, chain):
    ring.device.word[0] = packed.DESC_EVENT << 16 | ring.num


def bad_event_offset_wrapped(ring, chain):
    ring.device.word[0] = packed.DESC_EVENT << 16 | 0xFFFF


def corrupting(case):
    """For BackEnd.corrupt: spoils queue 0's next completion, leaves the others alone."""

    def corrupt(queue, chain):
        if queue.index != 0:
            return False
        case(chain.ring, chain)
        os.eventfd_write(queue.call, 1)
        return True

    return corrupt


CASES = {name[4:]: case for name, case in globals().items() if name.startswith("bad_")}


@pytest.mark.parametrize("laps", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_bad_used(paired, name, laps):
    made = paired()
    made.unit.io(5 + 32 * laps)
    queue = made.unit.guest.queues[0]
    queue.err.take()
    made.unit.backend.corrupt = corrupting(CASES[name])
    queue.submit([b"request"], [64])
    if name.startswith("event"):
        backend = made.unit.backend
        wait_until(lambda: backend.queues[0].chains > 5 + 32 * laps, "the event to be written")
        made.unit.backend.run(lambda: setattr(backend.queues[0], "process", lambda: None))
        queue.submit([b"request"], [64])
    assert_stopped(made, queue, side="backend", io=False)
    assert made.svqd.queue("dev0", 0)["backend"]["format"] == "packed"
    load = Load(Others(made.unit.guest.queues[1:]))
    load.wait_rounds(2)
    load.close()
    made.units[1].io()
    made.unit.backend.corrupt = None
    assert_recovers(made, queue)


def test_descriptor_event_without_event_idx(paired):
    made = paired(event_idx=False, lacks=F_EVENT_IDX)
    queue = made.unit.guest.queues[0]
    made.unit.io()
    backend = made.unit.backend
    backend.run(lambda: backend.queues[0].ring.device.set(packed.DESC_EVENT, 0, 32))
    queue.submit([b"request"], [64])
    assert_stopped(made, queue, side="backend")
    assert_recovers(made, queue)


def test_used_although_nothing_is_outstanding(paired):
    made = paired()
    made.unit.io(3)
    queue = made.unit.guest.queues[0]
    queue.err.take()

    def lie():
        back = made.unit.backend.queues[0]
        back.ring.put(back.ring.used, 0, 0)
        os.eventfd_write(back.call, 1)

    made.unit.backend.run(lie)
    queue.submit([b"request"], [64])  # polls for it, at the latest
    assert_stopped(made, queue, side="backend")
    assert_recovers(made, queue)


def test_batch_that_names_a_stranger(paired):
    """IN_ORDER: an id that is not out."""
    made = paired(has=F_IN_ORDER, in_order=True)
    backend, queue = made.unit.backend, made.unit.guest.queues[0]
    made.unit.io(4)
    queue.err.take()
    backend.corrupt = corrupting(lambda ring, chain: ring.put(
        ring.used, (chain.head + 7) % ring.num, 0))
    queue.submit([b"request"], [64])
    assert_stopped(made, queue, side="backend")
    backend.corrupt = None
    assert_recovers(made, queue)


@pytest.mark.parametrize("name", ["id_range", "duplicate", "not_outstanding"])
def test_bad_used_while_a_switch_drains(folder, closing, name):
    """The drain that ends the shadow must not wait for what will never come."""
    made = closing(Pair("packed-packed").bench(
        folder, devices=2, keys={"drain-timeout": 1, "message-timeout": 1}))
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


WRONG_BASES = [32, 0x7FFF, 0x8000 | 32, 0x8000 | 9, 3, 0xFFFF]


@pytest.mark.parametrize("base", WRONG_BASES, ids=hex)
def test_impossible_answer(paired, base):
    """GET_VRING_BASE: outside of the ring, or where it cannot be. The front-end gets its own
    ring's place all the same."""
    made = paired()
    unit, queue = made.unit, made.unit.guest.queues[0]
    made.judged = False
    unit.io(4)
    unit.backend.fault("alter", Id.GET_VRING_BASE, alter=lambda reply: lie_about(reply, base))
    told = unit.vmm.get_vring_base(queue)
    assert told == queue.ring.base()
    made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0, side="backend")
    unit.guest.queues[1].io()
    made.units[1].io()
    made.fresh()


def lie_about(reply, base):
    reply.payload = reply.payload[:4] + base.to_bytes(4, "little")
    return reply


@pytest.mark.parametrize("base", [32, 0x8000 | 40, 50 << 16 | 0x8000], ids=hex)
def test_impossible_answer_in_pass_through(folder, closing, base):
    """At a switch: it is not believed, nothing is read or written outside of the ring."""
    made = closing(Pair("packed-packed").bench(folder, devices=2, num=32))
    made.judged = False
    unit = made.unit
    unit.io(4)
    unit.backend.fault("alter", Id.GET_VRING_BASE, alter=lambda reply: lie_about(reply, base))
    try:
        made.svqd.shadow("dev0", True)
    except QmpError as error:
        assert "Error enabling (see monitor)" in error.desc
    made.svqd.wait_log(r"error: .*dev0")
    made.units[1].io()
    made.fresh()
    unit.io()


# What looks odd and is right.


def test_shadow_descriptors_are_never_read_back(paired):
    """A back-end that scribbles over descriptors it has taken harms only itself."""
    made = paired()

    def corrupt(queue, chain):
        ring = chain.ring
        data = answer(chain.read(), chain.room)
        chain.write(data)
        for place in range(ring.used, ring.last_avail):
            slot = place % ring.num
            ring.table[16 * slot : 16 * slot + 14] = b"\xee" * 14
        ring.push(chain.head, len(data))
        queue.signal(ring)
        return True

    made.unit.backend.corrupt = corrupt
    for _ in range(3):
        made.unit.io(100)
    made.unit.backend.corrupt = None
    made.unit.io(40)
