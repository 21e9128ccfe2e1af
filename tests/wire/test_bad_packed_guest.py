"""A guest that misuses its packed ring, in shadow mode (virtio 1.3, 2.8): each rule broken once.

That queue stops, with a reason; the device's other queues and the other devices carry on, and a
new session of the same device works. What looks odd and is right comes at the end.
"""

import pytest
from svqwire import message as wire
from svqwire import packed
from svqwire.frontend import Refused
from svqwire.load import Load
from svqwire.memory import MIB
from svqwire.message import Id
from svqwire.packed import ENTRY
from svqwire.pairs import Pair
from svqwire.ring import INDIRECT, NEXT, WRITE
from svqwire.wait import wait_until
from test_bad_guest_ring import assert_recovers, assert_stopped, offend
from test_dirty_log import log_for, logging, read_pages
from test_pairs import Others

BUFFER = 2 * MIB  # unused guest memory
TABLE = 3 * MIB
LAST = 8 * MIB - 16  # the last 16 bytes of the first region
NUM = 50


@pytest.fixture(params=["packed-packed", "packed-split"])
def paired(request, folder, closing):
    pair = Pair(request.param)
    return lambda **options: closing(pair.bench(
        folder, shadow="on", **{"devices": 2, "num": NUM, **options}))


def bad_endless_chain(ring):
    """Every descriptor of the ring has NEXT."""
    for offset in reversed(range(ring.num)):
        ring.describe(offset, BUFFER, 16, NEXT)


def bad_chain_into_used_descriptors(ring):
    """NEXT, and what follows was used in the last lap or never written."""
    ring.describe(0, BUFFER, 16, NEXT)


def bad_chain_into_stale_descriptors(ring):
    """What follows has the right AVAIL bit and, for its lap, the wrong USED bit."""
    ring.describe(1, BUFFER, 16, packed.AVAIL | packed.USED, available=False)
    ring.describe(0, BUFFER, 16, NEXT)


def bad_order(ring):
    ring.describe(1, BUFFER + 4096, 16)
    ring.describe(0, BUFFER, 16, WRITE | NEXT)


def indirect(ring, entries, flags=INDIRECT, length=None, gpa=TABLE):
    """An indirect descriptor whose table has `entries` (gpa, length, flags)."""
    for position, (address, size, entry_flags) in enumerate(entries):
        ring.memory.write(TABLE + 16 * position, ENTRY.pack(address, size, 0, entry_flags))
    ring.describe(1, BUFFER, 16)
    ring.describe(0, gpa, 16 * len(entries) if length is None else length, flags)


GOOD_ENTRY = (BUFFER, 16, 0)


def bad_indirect_next(ring):
    indirect(ring, [GOOD_ENTRY], INDIRECT | NEXT)


def bad_indirect_order(ring):
    indirect(ring, [GOOD_ENTRY, (BUFFER + 4096, 16, WRITE), (BUFFER + 8192, 16, 0)])


def bad_indirect_order_at_its_start(ring):
    """Two writable ones: see test_false_write() about a single one."""
    indirect(ring, [(BUFFER, 16, WRITE), (BUFFER + 4096, 16, WRITE), GOOD_ENTRY])


def bad_indirect_empty(ring):
    indirect(ring, [GOOD_ENTRY], length=0)


def bad_indirect_half(ring):
    indirect(ring, [GOOD_ENTRY], length=24)


def bad_indirect_huge(ring):
    indirect(ring, [GOOD_ENTRY], length=0xFFFFFFF0)


def bad_indirect_outside(ring):
    indirect(ring, [GOOD_ENTRY], gpa=64 * MIB)


def bad_indirect_over_the_end(ring):
    indirect(ring, [GOOD_ENTRY], gpa=LAST, length=32)


def bad_indirect_buffer_outside(ring):
    indirect(ring, [GOOD_ENTRY, (64 * MIB, 16, WRITE)])


def bad_buffer_outside(ring):
    ring.describe(0, 64 * MIB, 16, WRITE)


def bad_buffer_second_half_outside(ring):
    """The first buffer of the chain is good: nothing of it may leak."""
    ring.describe(1, 64 * MIB, 16, WRITE)
    ring.describe(0, BUFFER, 16, NEXT)


def bad_buffer_wraps(ring):
    ring.describe(0, (1 << 64) - 16, 32, WRITE)


def bad_buffer_over_the_end(ring):
    ring.describe(0, LAST, 17, WRITE)


def bad_buffer_huge(ring):
    ring.describe(0, BUFFER, 0xFFFFFFFF, WRITE)


def event(word):
    """The driver's event area says `word`; it is read when a completion is published."""

    def case(ring):
        ring.driver.word[0] = word(ring)
        ring.describe(0, BUFFER, 16)

    return case


bad_event_flags = event(lambda ring: packed.RESERVED << 16)
bad_event_offset = event(lambda ring: packed.DESC_EVENT << 16 | ring.num)
bad_event_offset_wrapped = event(lambda ring: packed.DESC_EVENT << 16 | 0xFFFF)

CASES = {name[4:]: case for name, case in globals().items() if name.startswith("bad_")}


@pytest.mark.parametrize("laps", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_bad_ring(paired, name, laps):
    """In a fresh ring, and in the second lap of one that has been used."""
    made = paired()
    made.unit.io(6 + laps * NUM)
    queue = offend(made, CASES[name])
    assert_stopped(made, queue, io=False)
    state = made.svqd.queue("dev0", 0)
    assert state["guest"]["format"] == "packed" and state["error"]
    load = Load(Others(made.unit.guest.queues[1:]))
    load.wait_rounds(2)
    load.close()
    made.units[1].io()
    assert_recovers(made, queue)


def test_reasons_tell_them_apart(paired):
    """An operator reads what is wrong."""
    words = {"endless_chain": "loops|more", "order": "readable", "indirect_next": "NEXT",
             "indirect_half": "16", "indirect_outside": "table", "buffer_outside": "buffer",
             "event_offset": "event", "chain_into_used_descriptors": "available"}
    made = paired(devices=1)
    for name, expected in words.items():
        queue = offend(made, CASES[name])
        said = made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0)["data"]
        assert said["side"] == "guest"
        assert any(word in said["reason"] for word in expected.split("|")), said
        assert queue.err.wait(5)
        made.fresh()


@pytest.mark.parametrize("name", ["endless_chain", "order", "buffer_outside",
                                  "chain_into_used_descriptors"])
def test_bad_ring_found_at_a_switch(folder, closing, name):
    """Broken in pass-through, where svqd does not look; found when the shadow is switched on."""
    made = closing(Pair("packed-packed").bench(folder, devices=2, num=NUM, keys={"reconnect": 0}))
    made.judged = False
    made.unit.io()
    queue = made.unit.guest.queues[0]
    made.unit.backend.run(lambda: setattr(made.unit.backend.queues[0], "process", lambda: None))
    CASES[name](queue.ring)
    made.svqd.shadow("dev0", True)
    assert_stopped(made, queue)
    made.unit.backend.disconnect()
    assert_recovers_after(made)


def assert_recovers_after(made):
    assert made.unit.vmm.closed_by_peer()
    made.fresh()
    made.units[1].io()


def test_more_available_than_there_is(paired):
    """Every slot is out, and the next is available again although nothing was used."""
    made = paired(indirect=False)
    queue = made.unit.guest.queues[0]
    made.unit.backend.hold = True
    for _ in range(NUM):
        queue.submit([b"x"])
    wait_until(lambda: made.unit.backend.held() == NUM, "every slot to be out")
    offend(made, lambda ring: ring.describe(0, BUFFER, 16))
    assert_stopped(made, queue, io=False)
    made.unit.backend.hold = False
    made.unit.backend.release()
    made.unit.guest.queues[1].io()
    assert_recovers(made, queue)


def test_descriptor_event_without_event_idx(paired):
    made = paired(event_idx=False)
    queue = offend(made, event(lambda ring: packed.DESC_EVENT << 16))
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_indirect_not_negotiated(paired):
    made = paired(indirect=False)
    queue = offend(made, lambda ring: indirect(ring, [GOOD_ENTRY]))
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_chain_over_four_gigabytes(paired):
    made = paired(num=700)

    def case(ring):
        for offset in reversed(range(600)):
            ring.describe(offset, 0, 8 * MIB, WRITE | (NEXT if offset < 599 else 0))

    queue = offend(made, case)
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_shadow_region_is_not_guest_memory(paired):
    made = paired()
    ours = {region.gpa for region in made.unit.guest.memory.regions}
    extra = [region for region in made.unit.backend.memory.regions if region[0] not in ours]
    queue = offend(made, lambda ring: ring.describe(0, extra[0][0], 16, WRITE))
    assert_stopped(made, queue)
    assert_recovers(made, queue)


def test_work_before_the_fault_is_finished(paired):
    made = paired()
    queue = made.unit.guest.queues[0]
    made.unit.backend.hold = True
    for _ in range(3):
        queue.submit([b"good"], [16])
    wait_until(lambda: made.unit.backend.held() == 3, "the good chains to be forwarded")
    offend(made, bad_buffer_outside)
    assert_stopped(made, queue, io=False)
    made.unit.backend.release()
    made.unit.vmm.stop()
    made.fresh()


IMPOSSIBLE = [NUM, 0x7FFF, 0x8000 | NUM, NUM << 16 | 0x8000, 0x7FFF << 16, 0x80058003]


@pytest.mark.parametrize("base", IMPOSSIBLE, ids=hex)
def test_impossible_base(paired, base):
    """Outside of the ring, or used ahead of available: the ring does not start, others do."""
    made = paired(start=False)
    made.units[1].start()
    unit = made.unit
    vmm = unit.connect()
    made.judged = False
    vmm.vring_base = lambda queue, value, tell=vmm.vring_base: tell(
        queue, base if queue.index == 0 else value)
    vmm.acks_all = True
    with pytest.raises((Refused, wire.Closed)):
        vmm.start()
    made.svqd.wait_log(r"(warning|error): .*dev0")
    made.units[1].io()
    unit.hang_up()
    unit.backend.wait_disconnected()
    made.fresh()
    made.units[1].io()


@pytest.mark.parametrize("shadow", ["on", "auto"])
def test_settings_that_no_packed_ring_has(folder, closing, shadow):
    """Sizes, alignments, and another format while the rings run: refused, nothing happens."""
    made = closing(Pair("packed-packed").bench(folder, shadow=shadow, num=NUM))
    vmm, unit = made.unit.vmm, made.unit
    unit.io()
    vmm.get_vring_base(unit.guest.queues[1])
    uaddr = [unit.guest.memory.uaddr(TABLE + offset) for offset in (0, 4096, 8192)]
    cases = [(Id.SET_VRING_NUM, wire.vring_state(1, num)) for num in (0, 32769, 65536, 1 << 31)]
    for area, by in ((0, 8), (1, 2), (2, 2)):  # descriptors, device area, driver area
        places = list(uaddr)
        places[area] += by
        cases.append((Id.SET_VRING_ADDR, wire.vring_addr(1, *places)))
    cases.append((Id.SET_FEATURES, wire.u64(vmm.acked & ~wire.F_PACKED)))
    cases.append((Id.SET_FEATURES, wire.u64(vmm.acked | wire.F_NOTIFICATION_DATA)))
    for id, payload in cases:
        with pytest.raises(Refused):
            vmm.tell(id, payload, ack=True)
        unit.guest.queues[0].io(4)
    for num in (1, 3, 1000, 32768):
        vmm.tell(Id.SET_VRING_NUM, wire.vring_state(1, num), ack=True)
    made.fresh()


# What looks odd and is right.


def test_descriptors_of_another_lap(paired):
    """Not available: left alone, without a fault, until the flags say so."""
    made = paired()
    queue = made.unit.guest.queues[0]
    made.unit.io(7)
    wrong = packed.bits(queue.ring.avail + NUM, NUM)
    for flags in (wrong, packed.AVAIL | packed.USED, 0):
        queue.ring.describe(0, BUFFER, 16, flags, available=False)
        queue.kick.signal()
        made.unit.vmm.sync()
        made.unit.guest.queues[1].io()
    assert not made.svqd.queue("dev0", 0).get("error")
    made.unit.io(70)


def test_only_write_means_anything_in_a_table(paired):
    """All other flags, and the ids, are noise there; the order is the table's."""
    made = paired()
    made.unit.backend.strict = False
    made.fresh()
    queue = made.unit.guest.queues[0]
    noise = 0xFFFF & ~WRITE

    def noisy(gpa, segments):
        for position, (address, length, flags) in enumerate(segments):
            entry = ENTRY.pack(address, length, 0xFFFF, flags & WRITE | noise)
            queue.ring.memory.write(gpa + 16 * position, entry)

    queue.ring.write_table = noisy
    for _ in range(3 * NUM):
        queue.submit([b"a" * 40, b"b"], [50, 3])
        queue.complete(1)
    assert queue.ring.untouched()


@pytest.mark.parametrize("lacks", [0, wire.F_INDIRECT], ids=["tables", "flattened"])
def test_false_write(paired, lacks):
    """DPDK's net driver leaves WRITE on the header in front of what it sends: it is read. Strict
    back-ends never see it, except in a table of the guest's own."""
    made = paired(lacks=lacks)
    verbatim = made.unit.backend.packed and not lacks
    made.unit.backend.strict = not verbatim
    made.fresh()
    queue = made.unit.guest.queues[0]
    log = logging(made.unit, log_for(made.unit))

    def like_dpdk(gpa, segments):
        for position, (address, length, flags) in enumerate(segments):
            entry = ENTRY.pack(address, length, 0, flags & WRITE if position else WRITE)
            queue.ring.memory.write(gpa + 16 * position, entry)

    queue.ring.write_table = like_dpdk
    for _ in range(NUM + 9):
        chain = queue.submit([b"header", b"a" * 40, b"b"])
        queue.complete(1)
        if not verbatim:
            assert chain.length == 0
    assert not read_pages(chain) & log.pages(), "what is read counts as written"
    assert not made.svqd.queue("dev0", 0).get("error")


def test_ids_are_the_guest_s_business(paired):
    """The same id for everything, and any number."""
    made = paired()
    queue = made.unit.guest.queues[0]
    for number in (0, 0xFFFF, NUM, 0x8000):
        for _ in range(NUM // 2):
            queue.ring.free[-1] = number
            queue.submit([b"x"], [5])
            queue.complete(1)


def test_direct_then_indirect(paired):
    """Not allowed in packed rings, harmless to anybody: served or stopped, nothing else."""
    made = paired()
    made.unit.backend.strict = False
    made.fresh()
    queue = made.unit.guest.queues[0]
    queue.ring.memory.write(TABLE, ENTRY.pack(BUFFER, 16, 0, 0))
    queue.ring.describe(1, TABLE, 16, INDIRECT, number=5)
    queue.ring.describe(0, BUFFER, 16, NEXT)
    queue.kick.signal()
    wait_until(lambda: queue.ring.has_used() or made.svqd.queue("dev0", 0).get("error"),
               "the chain to be served or refused")
    made.unit.guest.queues[1].io()
    made.units[1].io()
    made.qmp.drain().clear()
    made.fresh()


def test_write_flag_of_an_indirect_descriptor(paired):
    """Its WRITE means nothing."""
    made = paired()
    queue = made.unit.guest.queues[0]
    queue.ring.memory.write(TABLE, ENTRY.pack(BUFFER, 16, 0, 0))
    queue.ring.describe(0, TABLE, 16, INDIRECT | WRITE, number=9)
    queue.kick.signal()
    wait_until(queue.ring.has_used, "the chain to be served")
    assert queue.ring.used_entry(queue.ring.used) == (9, 0)


def test_longest_chains(paired):
    """Exactly as many descriptors as the ring has, ring after ring."""
    made = paired(indirect=False)
    queue = made.unit.guest.queues[0]
    for _ in range(4):
        queue.submit([b"a"] * (NUM // 2), [10] * (NUM // 2))
        queue.complete(1)
    for _ in range(4):
        queue.submit([b"a"] * 3, [10] * 7)
        queue.submit([b"a"] * (NUM - 13), [10] * 3)
        queue.complete(2)


def test_spurious_kicks(paired):
    made = paired()
    for _ in range(200):
        for queue in made.unit.guest.queues:
            queue.kick.signal()
    made.alive()
