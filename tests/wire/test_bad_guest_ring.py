"""A guest that misuses its ring, in shadow mode (virtio 1.3, 2.7; CVEs of earlier devices).

That queue stops: a log line, a QUEUE_ERROR of side guest, its err eventfd. The device's other
queues and the other devices carry on, and a new session of the same device works.
"""

import pytest
from svqwire.memory import MIB
from svqwire.ring import INDIRECT, NEXT, WRITE
from svqwire.wait import wait_until

BUFFER = 2 * MIB  # unused guest memory
TABLE = 3 * MIB
LAST = 8 * MIB - 16  # the last 16 bytes of the first region
NUM = 64

# svqd looks into every chain. (What becomes of those it does not look into: test_shared.py.)
COPIED = {"descriptors": "copied"}


def bad_avail_jump(ring):
    ring.avail_idx += ring.num + 1


def bad_avail_back(ring):
    ring.avail_idx -= 1


def bad_head(ring):
    ring.offer(ring.num)


def bad_head_high(ring):
    ring.offer(0xFFFF)


def bad_next(ring):
    ring.describe(0, BUFFER, 16, NEXT, ring.num)
    ring.offer(0)


def bad_loop_of_one(ring):
    ring.describe(0, BUFFER, 16, NEXT, 0)
    ring.offer(0)


def bad_loop_of_all(ring):
    for slot in range(ring.num):
        ring.describe(slot, BUFFER, 16, NEXT, (slot + 1) % ring.num)
    ring.offer(5)


def bad_order(ring):
    ring.describe(0, BUFFER, 16, WRITE | NEXT, 1)
    ring.describe(1, BUFFER + 4096, 16)
    ring.offer(0)


def indirect(ring, entries, flags=INDIRECT, length=None, gpa=TABLE):
    """An indirect descriptor whose table has `entries` (gpa, length, flags)."""
    if entries:
        ring.write_table(TABLE, entries)
    ring.describe(0, gpa, 16 * len(entries) if length is None else length, flags, 1)
    ring.describe(1, BUFFER, 16)
    ring.offer(0)


GOOD_ENTRY = (BUFFER, 16, 0)


def bad_indirect_next(ring):
    indirect(ring, [GOOD_ENTRY], INDIRECT | NEXT)


def bad_indirect_nested(ring):
    ring.memory.write(TABLE + 4096, ring.memory.read(TABLE, 16))
    indirect(ring, [(TABLE + 4096, 16, INDIRECT)])


def bad_indirect_empty(ring):
    indirect(ring, [GOOD_ENTRY], length=0)


def bad_indirect_half(ring):
    indirect(ring, [GOOD_ENTRY], length=24)


def bad_indirect_short(ring):
    indirect(ring, [GOOD_ENTRY], length=8)


def bad_indirect_huge(ring):
    indirect(ring, [GOOD_ENTRY], length=0xFFFFFFF0)


def bad_indirect_outside(ring):
    indirect(ring, [GOOD_ENTRY], gpa=64 * MIB)


def bad_indirect_over_the_end(ring):
    indirect(ring, [GOOD_ENTRY], gpa=LAST, length=32)


def bad_indirect_loop(ring):
    indirect(ring, [GOOD_ENTRY, GOOD_ENTRY])
    ring.memory.write(TABLE + 16 + 12, (NEXT).to_bytes(2, "little") + bytes(2))


def bad_indirect_index(ring):
    indirect(ring, [GOOD_ENTRY, GOOD_ENTRY])
    ring.memory.write(TABLE + 14, (2).to_bytes(2, "little"))


def bad_indirect_order(ring):
    indirect(ring, [(BUFFER, 16, WRITE), GOOD_ENTRY])


def bad_buffer_outside(ring):
    ring.describe(0, 64 * MIB, 16, WRITE)
    ring.offer(0)


def bad_buffer_second_half_outside(ring):
    """The first buffer of the chain is good: nothing of it may leak."""
    ring.describe(0, BUFFER, 16, NEXT, 1)
    ring.describe(1, 64 * MIB, 16, WRITE)
    ring.offer(0)


def bad_buffer_wraps(ring):
    ring.describe(0, (1 << 64) - 16, 32, WRITE)
    ring.offer(0)


def bad_buffer_over_the_end(ring):
    ring.describe(0, LAST, 17, WRITE)
    ring.offer(0)


def bad_buffer_huge(ring):
    ring.describe(0, BUFFER, 0xFFFFFFFF, WRITE)
    ring.offer(0)


def bad_head_twice(ring):
    """The same head again while the back-end still has it."""
    ring.describe(0, BUFFER, 16, WRITE)
    ring.offer(0)
    ring.offer(0)


CASES = {name[4:]: case for name, case in globals().items() if name.startswith("bad_")}
WITHOUT_INDIRECT = [name for name in CASES if "indirect" not in name]


def offend(made, case):
    """Applies the case to queue 0 of the first device."""
    queue = made.unit.guest.queues[0]
    queue.err.take()
    case(queue.ring)
    queue.flush(force=True)
    return queue


def assert_stopped(made, queue, side="guest", io=True):
    event = made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=queue.index)
    assert event["data"]["side"] == side, event
    assert event["data"]["reason"], event
    made.svqd.wait_log(r"error: .*dev0")
    assert queue.err.wait(5), "the err eventfd was not signalled"
    state = made.svqd.queue("dev0", queue.index)
    assert state.get("error"), f"query-queues shows no error: {state}"
    if io:
        for other in made.unit.guest.queues:
            if other is not queue:
                other.io(8)
        for unit in made.units[1:]:
            unit.io()


def assert_recovers(made, queue):
    queue.kick.signal()  # kicks of a stopped queue are harmless
    made.unit.backend.hold = False
    made.unit.vmm.sync()
    errors = [e for e in made.qmp.drain() if e["event"] == "QUEUE_ERROR"]
    assert not errors, f"told more than once: {errors}"
    made.unit.vmm.get_vring_base(queue)
    made.fresh()
    assert "error" not in made.svqd.queue("dev0", queue.index)
    for unit in made.units[1:]:
        unit.io()


# What is seen in the available ring, whoever reads the descriptors.
HEADS = [name for name in CASES if name.startswith(("avail", "head"))]


@pytest.mark.parametrize("name", CASES)
def test_bad_ring(bench, name):
    check_bad_ring(bench(devices=2, shadow="on", num=NUM, keys=COPIED), name)


@pytest.mark.parametrize("name", HEADS)
def test_bad_heads(bench, name):
    check_bad_ring(bench(devices=2, shadow="on", num=NUM), name)


def check_bad_ring(made, name):
    made.unit.io()
    made.unit.backend.hold = name == "head_twice"
    queue = offend(made, CASES[name])
    made.unit.backend.hold = False
    assert_stopped(made, queue)
    assert_recovers(made, queue)


@pytest.mark.parametrize("name", WITHOUT_INDIRECT)
def test_bad_ring_found_at_a_switch(bench, name):
    """Broken in pass-through, where svqd does not look; found when the shadow is switched on."""
    made = bench(devices=2, num=NUM, keys=COPIED)
    made.judged = False
    made.unit.io()
    queue = made.unit.guest.queues[0]
    made.unit.backend.run(lambda: setattr(made.unit.backend.queues[0], "process", lambda: None))
    case = CASES[name]
    case(queue.ring)
    queue.ring.publish()
    made.svqd.shadow("dev0", True)
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_indirect_not_negotiated(bench):
    made = bench(devices=2, shadow="on", indirect=False, keys=COPIED)
    queue = offend(made, lambda ring: indirect(ring, [GOOD_ENTRY]))
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_shadow_region_is_not_guest_memory(bench):
    """svqd's own region is in the back-end's memory table and must be out of the guest's reach."""
    made = bench(devices=2, shadow="on", keys=COPIED)
    ours = {region.gpa for region in made.unit.guest.memory.regions}
    extra = [region for region in made.unit.backend.memory.regions if region[0] not in ours]
    assert extra, "no region for the shadow rings"
    gpa = extra[0][0]

    def case(ring):
        ring.describe(0, gpa, 16, WRITE)
        ring.offer(0)

    queue = offend(made, case)
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_chain_over_four_gigabytes(bench):
    made = bench(devices=2, shadow="on", num=1024, keys=COPIED)

    def case(ring):
        for slot in range(600):
            flags = WRITE | (NEXT if slot < 599 else 0)
            ring.describe(slot, 0, 8 * MIB, flags, slot + 1)
        ring.offer(0)

    queue = offend(made, case)
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_every_queue_broken_at_once(bench):
    made = bench(devices=2, shadow="on", queues=4)
    for queue in made.unit.guest.queues:
        bad_head(queue.ring)
        queue.flush(force=True)
    for queue in made.unit.guest.queues:
        assert_stopped(made, queue, io=False)
    made.units[1].io()
    made.fresh()


def test_work_before_the_fault_is_finished(bench):
    """What was forwarded before the bad chain is completed, and its memory may be freed."""
    made = bench(shadow="on")
    queue = made.unit.guest.queues[0]
    made.unit.backend.hold = True
    for _ in range(3):
        queue.submit([b"good"], [16])
    wait_until(lambda: made.unit.backend.held() == 3, "the good chains to be forwarded")
    offend(made, bad_head)
    assert_stopped(made, queue, io=False)
    made.unit.backend.release()
    made.unit.vmm.stop()
    made.fresh()


# What looks odd and is right.


def test_direct_then_indirect(bench):
    made = bench(shadow="on")
    for direct in range(1, 6):
        for queue in made.unit.guest.queues:
            queue.submit([b"x" * 30, b"y" * 5, b"z"], [7, 4096, 100], direct=direct)
            queue.complete(1)


def test_longest_chains(bench):
    """Exactly as many descriptors as the ring has, direct and indirect, ring after ring."""
    made = bench(shadow="on", num=16, indirect=False)
    queue = made.unit.guest.queues[0]
    for _ in range(3):
        queue.submit([b"a"] * 8, [10] * 8)
        queue.complete(1)
    made.unit.vmm.stop()
    made.unit.guest.restart(indirect=True)
    made.unit.vmm.set_features(made.unit.vmm.acceptable())
    made.unit.vmm.start()
    queue = made.unit.guest.queues[0]
    made.unit.backend.hold = True
    for _ in range(16):
        queue.submit([b"a"] * 8, [10] * 8)
    wait_until(lambda: made.unit.backend.held() == 16, "16 chains of 16 indirect descriptors")
    made.unit.backend.release()
    queue.complete(16)


def test_indirect_longer_than_the_ring(bench):
    """The specification forbids it and Linux does it: it must not park the queue for ever."""
    made = bench(shadow="on", num=8)
    queue = made.unit.guest.queues[0]
    for _ in range(3):
        for _ in range(4):
            queue.submit([b"r"] * 20, [9] * 20, direct=1)
        queue.complete(4)


@pytest.mark.parametrize("flags", [0, WRITE])
def test_zero_length_buffers(bench, flags):
    """Some devices refuse them; served or stopped, nothing else happens."""
    made = bench(devices=2, shadow="on")
    queue = made.unit.guest.queues[0]
    queue.ring.describe(0, BUFFER, 0, flags)
    queue.ring.offer(0)
    used = queue.ring.used_idx()
    queue.flush(force=True)
    wait_until(
        lambda: queue.ring.used_idx() != used or made.svqd.queue("dev0", 0).get("error"),
        "the zero-length chain to be served or refused",
    )
    made.unit.guest.queues[1].io()
    made.units[1].io()
    made.qmp.drain().clear()
    made.fresh()


def test_spurious_kicks(bench):
    made = bench(shadow="on")
    for _ in range(200):
        for queue in made.unit.guest.queues:
            queue.kick.signal()
    made.alive()
