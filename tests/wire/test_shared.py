"""Shared descriptor tables: a shadowed back-end reads the guest's own, and svqd only heads."""

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES, PROTOCOL
from svqwire.dirtylog import DirtyLog, pages_of
from svqwire.load import Load
from svqwire.memory import MIB, PAGE, GuestMemory
from svqwire.migration import Copy
from svqwire.ring import INDIRECT, NEXT, WRITE
from svqwire.wait import wait_until

COPIED = {"descriptors": "copied"}


def in_guest(unit, queue):
    """Which of the descriptor table, the used and the available ring of the back-end's queue are
    the guest's? Each is the right one of the guest's, or none of it."""
    memory, ring = unit.guest.memory, unit.guest.queues[queue].ring
    areas = (ring.desc_gpa, ring.used_gpa, ring.avail_gpa)
    ranges = [(r.uaddr, r.uaddr + r.size) for r in memory.regions]
    found = []
    for address, gpa in zip(unit.backend.queues[queue].addr, areas):
        theirs = any(low <= address < high for low, high in ranges)
        assert not theirs or address == memory.uaddr(gpa)
        found.append(theirs)
    return found


def told(made, index=0):
    return made.svqd.queue("dev0", index).get("descriptors")


SHARED, OWN, DIRECT = [True, False, False], [False] * 3, [True] * 3


def test_addresses(bench):
    """In shadow mode the descriptors are the guest's and the rings svqd's; query-queues says so."""
    made = bench(shadow="on", queues=3)
    for index in range(3):
        assert in_guest(made.unit, index) == SHARED
        assert told(made, index) == "shared"
    assert made.svqd.device("dev0")["descriptors"] == "shared"
    made.unit.io(20)
    made.svqd.shadow("dev0", False)
    assert [in_guest(made.unit, index) for index in range(3)] == [DIRECT] * 3
    assert told(made) is None
    made.unit.io(20)


def test_copied(bench):
    made = bench(devices=2, shadow="on", keys=COPIED)
    assert in_guest(made.unit, 0) == OWN and told(made) == "copied"
    assert made.svqd.device("dev0")["descriptors"] == "copied"
    assert made.svqd.device("dev1")["descriptors"] == "shared"
    made.unit.io(20)


@pytest.mark.parametrize("options", [
    dict(packed=True),
    dict(packed=True, keys=dict(offer="packed"), backend_options=dict(features=FEATURES)),
    dict(keys=dict(offer="indirect_desc"),
         backend_options=dict(features=FEATURES & ~wire.F_INDIRECT)),
], ids=["packed", "to-split", "flattened"])
def test_copied_all_the_same(bench, options):
    """Where a back-end cannot read what the guest wrote, it gets copies, whatever the key says."""
    if "keys" not in options:
        options = {**options, "backend_options": dict(features=FEATURES | wire.F_PACKED)}
    made = bench(shadow="on", indirect=True, **options)
    assert in_guest(made.unit, 0) == OWN and told(made) == "copied"
    assert made.svqd.device("dev0")["descriptors"] == "shared"
    made.unit.io(20)


def start_logging(unit):
    unit.vmm.set_log_base(log := DirtyLog.for_memory(unit.guest.memory))
    unit.vmm.set_features(unit.vmm.acked | wire.F_LOG_ALL)
    unit.vmm.acked &= ~wire.F_LOG_ALL
    for queue in unit.guest.queues:
        unit.vmm.vring_addr(queue, 1, queue.ring.used_gpa)
    return log


def stop_logging(unit):
    unit.vmm.set_features(unit.vmm.acked)
    for queue in unit.guest.queues:
        unit.vmm.vring_addr(queue)


@pytest.mark.parametrize("options", [dict(), dict(event_idx=True), dict(in_order=True)],
                         ids=["plain", "event_idx", "in_order"])
def test_switches_under_load(bench, options):
    """The shadow, and with it now and then a log, comes and goes; every byte is checked."""
    features = FEATURES | wire.F_IN_ORDER
    made = bench(shadow="auto", backend_options=dict(features=features),
                 **options)
    load = Load(made.unit.guest)
    for number in range(12):
        made.svqd.shadow("dev0", True)
        assert in_guest(made.unit, 0) == SHARED
        load.wait_rounds(1)
        if number % 3 == 0:
            start_logging(made.unit)
            load.wait_rounds(1)
            assert told(made) == "shared"
            stop_logging(made.unit)
            load.wait_rounds(1)
        made.svqd.shadow("dev0", False)
        load.wait_rounds(1)
    load.close()


@pytest.mark.parametrize("keys", [{}, COPIED], ids=["shared", "copied"])
def test_another_back_end(scene, keys):
    """It crashes with requests in flight; its successor gets the same table, which svqd has not
    touched, and does all of them again."""
    made = scene("shadow", keys=keys)
    queue = made.guest.queues[0]
    before = queue.ring.table.tobytes()
    made.backend.down, made.backend.hold = 0, True
    made.backend.kill()
    data = made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]
    assert data["resubmitted"] == 6
    assert in_guest(made.unit, 0) == (OWN if keys else SHARED)
    assert queue.ring.table.tobytes() == before
    made.mend()
    made.serves()
    assert made.recorder.again() == 6 and not made.recorder.violations


CHAINS = {
    "one": ([], [3 * PAGE], 0),
    "several": ([b"a" * 100, b"b"], [100, 2 * PAGE, 1], 9),
    "table": ([b"t" * 100], [PAGE, 2 * PAGE], 0),
    "table-last": ([b"l"], [PAGE, 5, 2 * PAGE], 2),
}


@pytest.mark.parametrize("in_order", [False, True], ids=["any-order", "in-order"])
def test_in_flight_when_logging_starts(bench, in_order):
    """Nobody had looked into these chains. Now their writable pages are marked, and no others."""
    options = dict(in_order=True) if in_order else {}
    made = bench(shadow="on", backend_options=dict(features=FEATURES | wire.F_IN_ORDER), **options)
    unit = made.unit
    unit.backend.hold = True
    queue = unit.guest.queues[0]
    chains = [queue.submit(readable, writable, direct=direct)
              for readable, writable, direct in CHAINS.values()]
    wait_until(lambda: unit.backend.held() == len(chains), "the back-end to hold the chains")
    log = start_logging(unit)
    copy = Copy(unit.guest)
    copy.everything()
    unit.backend.release()
    queue.complete(len(chains))
    pages = log.pages()
    for chain in chains:
        for gpa, length in chain.writable:
            assert pages_of(gpa, length) <= pages, "a page in flight is not marked"
        for gpa, length in chain.readable:
            assert not pages_of(gpa, length) & pages, "a page that nobody writes to is marked"
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()


def test_memory_comes_and_goes(bench):
    """A new memory table under load: the back-end goes on with the table of the same name."""
    made = bench(shadow="on", backend_options=dict(protocol=PROTOCOL & ~wire.P_MEM_SLOTS))
    unit, load, added = made.unit, Load(made.unit.guest), []
    for number in range(10):
        load.wait_rounds(1)
        uaddr = 0x7C0000000000 + (number << 24)
        added.append(unit.guest.memory.add((number + 8) << 32, MIB, uaddr))
        unit.vmm.update_memory()
        if len(added) > 2:
            unit.guest.memory.remove(added.pop(0))
            unit.vmm.update_memory()
        assert in_guest(unit, 0) == SHARED
    load.wait_rounds(2)
    load.close()


def test_table_that_nobody_copies(bench):
    """Longer than any that svqd would take a copy of: good enough for a back-end that wants it."""
    memory = GuestMemory(((0, 64 * MIB),))
    made = bench(shadow="on", num=8, queues=1, memory=memory)
    queue = made.unit.guest.queues[0]
    for _ in range(3):
        chain = queue.submit([b"r" * 100] * 1000, [3] * 1000)
        queue.complete(1)
        assert chain.length == 3000


def blind(unit, index, length):
    """Has the back-end complete every chain of the queue without a look at it."""
    queue = unit.backend.queues[index]

    def process():
        ring = queue.ring
        while ring and ring.pending():
            head = ring.avail[2 + ring.last_avail % ring.num]
            ring.last_avail = (ring.last_avail + 1) & 0xFFFF
            ring.push(head, length)
        if ring and ring.event_idx:
            ring.used[2 + 4 * ring.num] = ring.last_avail
        queue.signal(ring)

    unit.backend.run(lambda: setattr(queue, "process", process))


OUTSIDE = 64 * MIB
MALFORMED = {
    "outside": [(OUTSIDE, 16, WRITE, 0)],
    "wraps": [((1 << 64) - 16, 32, WRITE, 0)],
    "huge": [(0, 0xFFFFFFFF, WRITE, 0)],
    "loop": [(2 * MIB, 16, NEXT, 0)],
    "next": [(2 * MIB, 16, NEXT, 999)],
    "order": [(2 * MIB, 16, WRITE | NEXT, 1), (2 * MIB, 16, 0, 0)],
    "table-outside": [(OUTSIDE, 16, INDIRECT, 0)],
    "table-half": [(2 * MIB, 24, INDIRECT, 0)],
    "table-next": [(2 * MIB, 16, INDIRECT | NEXT, 1)],
}


@pytest.mark.parametrize("logged", [False, True], ids=["unread", "logged"])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_chains(bench, name, logged):
    """They are the back-end's business. Where svqd has to look, the queue stops; in any case
    everybody else is served."""
    made = bench(devices=2, shadow="on", num=64)
    made.judged = False
    unit = made.unit
    unit.io()
    blind(unit, 0, 0xFFFFFFFF)
    if logged:
        start_logging(unit)
    queue = unit.guest.queues[0]
    used = queue.ring.used[1]
    for slot, (gpa, length, flags, following) in enumerate(MALFORMED[name]):
        queue.ring.describe(slot, gpa, length, flags, following)
    queue.ring.offer(0)
    queue.flush(force=True)
    if logged:
        event = made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0)
        assert event["data"]["side"] == "guest", event
    else:
        wait_until(lambda: queue.ring.used[1] != used, "the chain to come back")
        slot = used % queue.ring.num
        assert queue.ring.used_items[1 + 2 * slot] == 0
        assert queue.ring.used_items[2 + 2 * slot] == 0xFFFFFFFF
        assert "error" not in made.svqd.queue("dev0", 0)
    unit.guest.queues[1].io(8)
    made.units[1].io()
    unit.vmm.get_vring_base(queue)
    made.fresh()
