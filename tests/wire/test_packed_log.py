"""What the shadow logs of packed rings: used descriptors, the device area, buffers; and when."""

import pytest
from svqwire.dirtylog import DirtyLog, pages_of
from svqwire.memory import MIB, PAGE
from svqwire.migration import Copy
from svqwire.pairs import Pair
from svqwire.wait import wait_until
from test_dirty_log import log_for, logging, written_pages

LONG = 600  # descriptors: three pages of them


@pytest.fixture(params=["packed-packed", "packed-split", "split-packed"])
def pair(request):
    return Pair(request.param)


@pytest.fixture
def paired(pair, folder, closing):
    return lambda **options: closing(pair.bench(folder, **options))


def ring_pages(ring):
    """(descriptors, driver area, device area)"""
    return [pages_of(gpa, size) for gpa, size in
            zip((ring.desc_gpa, ring.avail_gpa, ring.used_gpa), ring.sizes)]


@pytest.mark.parametrize("shadow", ["on", "auto"])
def test_ring_pages(folder, closing, shadow):
    """With F_LOG the pages of the slots that were written and the device area, and no others."""
    made = closing(Pair("packed-packed").bench(folder, shadow=shadow, num=LONG))
    unit = made.unit
    log = logging(unit, log_for(unit))
    rings = [queue.ring for queue in unit.guest.queues]
    unit.io(16)
    pages = log.pages()
    for ring in rings:
        desc, driver, device = ring_pages(ring)
        assert ring.desc_gpa in pages and device <= pages
        assert not driver & pages, "the driver's area is not ours to write"
        assert ring.avail < 200
        assert not (desc - {ring.desc_gpa}) & pages, "pages of slots nobody used"
    unit.io(LONG)
    pages = log.pages()
    assert all(ring_pages(ring)[0] <= pages for ring in rings)
    assert made.svqd.device("dev0")["logging"] == "shadow"


def test_rings_without_f_log(folder, closing):
    made = closing(Pair("packed-packed").bench(folder, shadow="on"))
    unit = made.unit
    log = logging(unit, log_for(unit), addresses=0)
    unit.io(16)
    pages = log.pages()
    assert pages
    for queue in unit.guest.queues:
        assert not set().union(*ring_pages(queue.ring)) & pages


def test_log_address_of_a_packed_ring(folder, closing):
    """SET_VRING_ADDR has one address for three areas, and no two peers mean the same by it."""
    made = closing(Pair("packed-packed").bench(folder, shadow="on"))
    unit = made.unit
    log = logging(unit, log_for(unit))
    for queue, address in zip(unit.guest.queues, (0, 1 << 45)):
        unit.vmm.vring_addr(queue, 1, address)
    copy = Copy(unit.guest)
    copy.everything()
    log.clear()
    unit.io(30)
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()
    assert 0 not in log.pages()


@pytest.mark.parametrize("rings", [dict(), dict(event_idx=False), dict(indirect=False)], ids=str)
def test_every_changed_page(paired, pair, rings):
    """Whatever changed is logged: many laps of rings of several pages."""
    num = LONG if pair.guest == "packed" else 512
    made = paired(shadow="on", num=num, **rings)
    unit = made.unit
    log = logging(unit, log_for(unit))
    copy = Copy(unit.guest)
    copy.everything()
    for _ in range(3):
        unit.io(num // 2 + 17)
        unit.backend.order = "lifo"
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()
    assert log.intact()


@pytest.mark.parametrize("drain", ["before", "after"])
@pytest.mark.parametrize("shadow", ["on", "auto"])
def test_buffers_held_when_logging_starts(paired, pair, drain, shadow):
    """Also when logging is what switches the shadow on, and the back-end answers that
    GET_VRING_BASE first and completes later."""
    made = paired(shadow=shadow)
    unit = made.unit
    unit.io(5)
    unit.backend.drain, unit.backend.hold = drain, True
    for queue in unit.guest.queues:
        for _ in range(4):
            queue.submit([b"held"], [2 * PAGE])
    wait_until(lambda: unit.backend.held() == 8, "the back-end to hold the chains")
    log = logging(unit, log_for(unit))
    copy = Copy(unit.guest)
    copy.everything()  # the VMM's first round comes after logging was started
    unit.backend.release()
    unit.guest.drain()
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()


def test_log_ends_and_starts_again(paired, pair):
    """LOG_ALL switches: a device that could pass through is shadowed while it logs and only
    then; a bound one stays, and logs only then."""
    made = paired(devices=2)
    unit = made.unit
    for _ in range(4):
        assert made.svqd.device("dev0")["mode"] == ("shadow" if pair.bound else "pass-through")
        log = logging(unit, log_for(unit))
        assert made.svqd.device("dev0")["mode"] == "shadow"
        unit.io()
        for queue in unit.guest.queues:
            desc, _, device = ring_pages(queue.ring)
            assert device <= log.pages()
            assert (queue.ring.desc_gpa in log.pages()) == (pair.guest == "packed")
        unit.vmm.set_features(unit.vmm.acceptable())
        assert made.svqd.device("dev0")["logging"] == "off"
        log.clear()
        unit.io()
        assert not log.pages(), "logged after logging had ended"
    made.units[1].io()


@pytest.mark.parametrize("area", ["desc_gpa", "used_gpa"])
def test_log_too_small_for_the_ring(folder, closing, area):
    """Its descriptors, or its device area, lie behind the log: that queue breaks."""
    made = closing(Pair("packed-packed").bench(folder, devices=2, shadow="on", start=False))
    unit = made.unit
    ring = unit.guest.queues[0].ring
    setattr(ring, area, unit.guest.memory.alloc(PAGE, region=1))
    ring.bind(ring.memory)
    for each in made.units:
        each.start()
    log = logging(unit, DirtyLog(8 * MIB // PAGE // 8))
    unit.guest.queues[0].submit([b"x"], [64])
    event = made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0)
    assert event["data"]["side"] == "guest" and "log" in event["data"]["reason"]
    assert log.intact()
    unit.guest.queues[1].io()
    made.units[1].io()
    made.fresh()


def test_guest_rewrites_its_descriptors(folder, closing):
    """The log names what was forwarded, not what the guest's ring and table say later."""
    made = closing(Pair("packed-split").bench(folder, shadow="on"))
    unit = made.unit
    log = logging(unit, log_for(unit))
    unit.backend.hold = True
    other = unit.guest.memory.alloc(16 * PAGE)
    chains = []
    for queue in unit.guest.queues:
        chains.append(queue.submit([b"first"], [2 * PAGE, 3 * PAGE]))
        wait_until(lambda: unit.backend.held() > queue.index, "the chain to be forwarded")
        for slot in chains[-1].slots:
            queue.ring.table[16 * slot : 16 * slot + 8] = other.to_bytes(8, "little")
        for table in queue.ring.tables.values():
            unit.guest.memory.write(table, other.to_bytes(8, "little"))
    log.clear()
    unit.backend.release()
    for queue, chain in zip(unit.guest.queues, chains):
        queue.complete(1)
        assert written_pages(chain) <= log.pages(), "the original pages are missing"
        assert not pages_of(other, 16 * PAGE) & log.pages(), "pages nobody wrote to are in the log"
