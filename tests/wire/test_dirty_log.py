"""What the shadow logs, when, and where: the promises a migration rests on."""

import pytest
from svqwire import message as wire
from svqwire.daemon import sanitized
from svqwire.dirtylog import DirtyLog, pages_of
from svqwire.frontend import Refused
from svqwire.load import Load
from svqwire.memory import MIB, PAGE, GuestMemory
from svqwire.message import Id
from svqwire.migration import Copy
from svqwire.pairs import Pair
from svqwire.qmp import QmpError
from svqwire.ring import WRITE
from svqwire.wait import wait_until

ODD = ((0, 8 * MIB), (1 << 32, 8 * MIB + 3 * PAGE))


def logging(unit, log, features=True, addresses=1):
    """Starts logging into `log`, as a front-end may for any part of it."""
    vmm = unit.vmm
    vmm.set_log_base(log)
    if features:
        vmm.set_features(vmm.acked | wire.F_LOG_ALL)
        vmm.acked &= ~wire.F_LOG_ALL
        for queue in unit.guest.queues:
            vmm.vring_addr(queue, addresses, queue.ring.used_gpa if addresses else 0)
    return log


def log_for(unit):
    return DirtyLog.for_memory(unit.guest.memory)


def written_pages(chain):
    return set().union(*(pages_of(gpa, length) for gpa, length in chain.writable))


def read_pages(chain):
    return set().union(*(pages_of(gpa, length) for gpa, length in chain.readable))


@pytest.fixture(params=["on", "auto"])
def made(bench, request):
    return bench(devices=2, shadow=request.param)


@pytest.fixture(params=["split-split", "split-packed", "packed-split", "packed-packed"])
def paired(request, folder, closing):
    """A function that makes a bench with that pair of ring formats."""
    return lambda **options: closing(Pair(request.param).bench(folder, **options))


@pytest.mark.parametrize("shadow", ["on", "auto"])
def test_whole_writable_length(paired, shadow):
    """The used length may be small although everything was written."""
    made = paired(devices=2, shadow=shadow)
    unit = made.unit
    log = logging(unit, log_for(unit))
    unit.backend.short = True
    for queue in unit.guest.queues:
        chain = queue.submit([b"q" * 5000], [5 * PAGE, 1, 100])
        queue.complete(1)
        assert chain.length == 1
        pages = log.pages()
        assert written_pages(chain) <= pages, "writable pages are missing in the log"
        assert not read_pages(chain) & pages, "a readable page is in the log"
    assert log.intact()
    assert made.svqd.device("dev0")["logging"] == "shadow"
    assert made.svqd.device("dev0")["mode"] == "shadow"
    made.units[1].io()


def test_used_ring(made):
    """Logged when the ring has F_LOG, and then everything svqd writes in it."""
    unit = made.unit
    before = {q.index: q.ring.used.tobytes() for q in unit.guest.queues}
    log = logging(unit, log_for(unit))
    unit.io(16)
    pages = log.pages()
    for queue in unit.guest.queues:
        assert queue.ring.used.tobytes() != before[queue.index]
        assert pages_of(queue.ring.used_gpa, 6) <= pages
        assert not pages_of(queue.ring.avail_gpa, 6) & pages
        assert not pages_of(queue.ring.desc_gpa, 6) & pages


def test_used_ring_without_f_log(made):
    unit = made.unit
    log = logging(unit, log_for(unit), addresses=0)
    unit.io(16)
    pages = log.pages()
    assert pages
    for queue in unit.guest.queues:
        assert not pages_of(queue.ring.used_gpa, queue.ring.used_size) & pages


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("num", [256, 2048])
def test_every_changed_page(bench, num, event_idx):
    """Used rings of several pages, with the event index on the last: whatever changed is
    logged. Many laps, so that each page of the ring is written."""
    made = bench(shadow="on", num=num, event_idx=event_idx)
    unit = made.unit
    log = logging(unit, log_for(unit))
    copy = Copy(unit.guest)
    copy.everything()
    for _ in range(3):
        unit.io(num // 2 + 17)
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()
    assert log.intact()


def test_guest_rewrites_its_descriptors(made):
    """The log names what was forwarded, not what the guest's table says later."""
    unit = made.unit
    log = logging(unit, log_for(unit))
    unit.backend.hold = True
    other = unit.guest.memory.alloc(16 * PAGE)
    for queue in unit.guest.queues:
        chain = queue.submit([b"first"], [2 * PAGE, 3 * PAGE])
        wait_until(lambda: unit.backend.held() > queue.index, "the chain to be forwarded")
        for slot in chain.slots:
            queue.ring.describe(slot, other, 16 * PAGE, WRITE)
        for table in queue.ring.tables.values():
            queue.ring.write_table(table, [(other, 16 * PAGE, WRITE)])
        log.clear()
        queue.chain = chain
    unit.backend.release()
    for queue in unit.guest.queues:
        queue.complete(1)
        pages = log.pages()
        assert written_pages(queue.chain) <= pages, "the original pages are missing"
        assert not pages_of(other, 16 * PAGE) & pages, "pages nobody wrote to are in the log"


@pytest.mark.parametrize("drain", ["before", "after"])
def test_buffers_held_when_logging_starts(made, drain):
    """Also when logging is what switches the shadow on, and the back-end answers that
    GET_VRING_BASE first and completes later."""
    unit = made.unit
    unit.backend.drain, unit.backend.hold = drain, True
    for queue in unit.guest.queues:
        for _ in range(4):
            queue.submit([b"held"], [2 * PAGE])
    count = 4 * len(unit.guest.queues)
    wait_until(lambda: unit.backend.held() == count, "the back-end to hold the chains")
    log = logging(unit, log_for(unit))
    copy = Copy(unit.guest)
    copy.everything()  # the VMM's first round comes after logging was started
    unit.backend.release()
    unit.guest.drain()
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()


def test_log_too_small(paired):
    """Chains with pages behind the log: their queue is broken, the others go on, and no byte
    outside the log is written."""
    made = paired(devices=2, shadow="on")
    unit = made.unit
    first, second = unit.guest.queues
    log = logging(unit, DirtyLog(8 * MIB // PAGE // 8, offset=PAGE))
    unit.io(8)
    assert log.intact()
    for pool in second.ring.buffers.values():
        pool.region, pool.free = 1, {}  # from 4 GiB on
    second.err.take()
    second.submit([b"high"], [64])
    made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=1)
    made.svqd.wait_log(r"error: .*dev0")
    assert second.err.wait(5), "the err eventfd was not signalled"
    assert log.intact(), "written outside the log"
    first.io(16)
    made.units[1].io()
    made.fresh()


def test_used_ring_behind_the_log(bench):
    """The log is too small for the used ring itself."""
    made = bench(devices=2, shadow="on")
    unit = made.unit
    queue = unit.guest.queues[0]
    log = DirtyLog(8 * MIB // PAGE // 8)
    unit.vmm.set_log_base(log)
    unit.vmm.post(Id.SET_FEATURES, wire.u64(unit.vmm.acked | wire.F_LOG_ALL))
    payload = wire.vring_addr(
        0, *(unit.guest.memory.uaddr(gpa) for gpa in
             (queue.ring.desc_gpa, queue.ring.used_gpa, queue.ring.avail_gpa)), 1, 1 << 40)
    unit.vmm.post(Id.SET_VRING_ADDR, payload)
    unit.vmm.sync()
    queue.submit([b"x"], [64])
    made.qmp.wait_event("QUEUE_ERROR", id="dev0", queue=0)
    assert log.intact()
    made.units[1].io()
    made.fresh()


@pytest.mark.parametrize("offset", [0, PAGE, 3 * PAGE])
def test_odd_size(folder, bench, offset):
    """Cloud Hypervisor's logs have any number of bytes; the last bit is the last page's."""
    made = bench(shadow="on", start=False)
    unit = made.unit
    unit.guest.close()
    unit.guest = type(unit.guest)(2, memory=GuestMemory(ODD), event_idx=True, indirect=True)
    unit.start()
    size = unit.guest.memory.last_gpa() // (8 * PAGE) + 1
    assert size % PAGE and size % 8, "the test's premise"
    log = logging(unit, DirtyLog(size, offset))
    region = unit.guest.memory.regions[1]
    unit.guest.memory.next[1] = region.size - PAGE
    queue = unit.guest.queues[0]
    queue.ring.buffers["w"].region = 1
    chain = queue.submit([b"last page"], [64])
    queue.complete(1)
    assert chain.writable[0][0] == region.gpa + region.size - PAGE
    assert chain.writable[0][0] in log.pages()
    assert log.intact()


@pytest.mark.parametrize("shadow, workers", [("on", 1), ("auto", 2), ("on", 3)])
def test_swaps_under_load(paired, shadow, workers):
    """After the reply to SET_LOG_BASE no bit lands in the old log, and none is lost."""
    made = paired(shadow=shadow, queues=4, arguments=["--workers", str(workers)])
    unit = made.unit
    log = logging(unit, log_for(unit))
    copy = Copy(unit.guest)
    copy.everything()
    load = Load(unit.guest)
    old = []
    for _ in range(30):
        load.wait_rounds(1)
        previous, log = log, log_for(unit)
        unit.vmm.set_log_base(log)
        old.append((previous, previous.bytes()))
    load.wait_rounds(2)
    load.close()
    unit.vmm.stop()
    for previous, content in old:
        assert previous.bytes() == content, "a bit landed in a log that was replaced"
        assert previous.intact()
        copy.dirty(previous.pages())
        previous.close()
    copy.dirty(log.pages())
    copy.finish()


def test_swaps_leak_nothing(made):
    unit = made.unit
    log = logging(unit, log_for(unit))
    unit.io()
    fds, maps = made.svqd.fds(), made.svqd.maps()
    for _ in range(200):
        log.close()
        log = log_for(unit)
        unit.vmm.set_log_base(log)
    unit.io()
    made.svqd.wait_fds(fds)
    assert sanitized() or made.svqd.maps() <= maps + 2


def test_log_ends_and_starts_again(bench):
    """auto: shadowed while it logs, and only then; the events tell why."""
    made = bench(devices=2)
    unit = made.unit
    for _ in range(4):
        assert made.svqd.device("dev0")["mode"] == "pass-through"
        log = logging(unit, log_for(unit))
        made.qmp.wait_event("DEVICE_SHADOW_CHANGED", id="dev0", shadow=True, reason="migration")
        unit.io()
        assert log.pages()
        unit.vmm.set_features(unit.vmm.acceptable())
        made.qmp.wait_event("DEVICE_SHADOW_CHANGED", id="dev0", shadow=False, reason="migration")
        assert made.svqd.device("dev0")["logging"] == "off"
        log.clear()
        unit.io()
        assert not log.pages(), "logged after logging had ended"
    made.units[1].io()


@pytest.mark.parametrize("when", ["before the log", "while it logs"])
def test_policy_off_is_set_meanwhile(bench, when):
    """The VMM was promised a log when it connected: shadow=off, set later, must not take it
    away without a word. Whatever svqd makes of it, the copy is right or somebody is told."""
    made = bench()
    unit = made.unit
    unit.io()
    refused = False
    try:
        if when == "before the log":
            made.qmp.command("device-set-shadow", id="dev0", shadow="off")
        logs = [logging(unit, log_for(unit))]
        if when == "while it logs":
            made.qmp.command("device-set-shadow", id="dev0", shadow="off")
    except (QmpError, Refused):
        refused = True
    if refused and when == "before the log":
        return
    copy = Copy(unit.guest)
    copy.everything()
    unit.io(24)
    unit.vmm.stop()
    copy.dirty(logs[0].pages())
    copy.finish()


@pytest.mark.parametrize("pause", ["GET_VRING_BASE", "ENABLE"])
def test_migration_without_a_shadow(bench, pause):
    """The back-end refuses the switch that logging needs: all memory counts as dirty, again and
    again, so that the copy is right all the same."""
    made = bench(devices=2)
    made.judged = False  # messages of one batch follow before the refusal is seen
    unit = made.unit
    unit.io()
    unit.backend.fault("nack", Id.SET_VRING_KICK)
    logs = [logging(unit, log_for(unit))]
    assert made.svqd.device("dev0")["mode"] == "pass-through"
    made.svqd.wait_log(r"error: .*dev0")
    copy = Copy(unit.guest)
    copy.everything()
    for _ in range(3):
        unit.io(16)
        logs.append(log_for(unit))
        unit.vmm.set_log_base(logs[-1])
        copy.dirty(logs[-2].pages())
    unit.io(16)
    if pause == "ENABLE":
        for queue in unit.guest.queues:
            unit.vmm.vring_enable(queue, 0)
        logs.append(log_for(unit))
        unit.vmm.set_log_base(logs[-1])
        copy.dirty(logs[-2].pages())
    else:
        unit.vmm.stop()
    copy.dirty(logs[-1].pages())
    copy.finish()


def test_back_end_that_logs(bench):
    """dirty-log=auto and a back-end with LOG_ALL and LOG_SHMFD: it logs, nothing is shadowed."""
    made = bench(backend_options=dict(logs=True))
    unit = made.unit
    log = logging(unit, log_for(unit))
    copy = Copy(unit.guest)
    copy.everything()
    unit.io(16)
    assert made.svqd.device("dev0")["mode"] == "pass-through"
    assert made.svqd.device("dev0")["logging"] == "backend"
    second = log_for(unit)
    unit.vmm.set_log_base(second)
    content = log.bytes()
    unit.io(16)
    assert log.bytes() == content
    assert second.pages()
    unit.vmm.stop()
    copy.dirty(log.pages() | second.pages())
    copy.finish()


def test_back_end_that_logs_shadowed_by_hand(bench):
    """The shadow is switched while the back-end logs: still nothing is missed."""
    made = bench(backend_options=dict(logs=True))
    unit = made.unit
    log = logging(unit, log_for(unit))
    copy = Copy(unit.guest)
    copy.everything()
    for enable in (True, False, True):
        unit.io(16)
        made.svqd.shadow("dev0", enable)
        unit.io(16)
    unit.vmm.stop()
    copy.dirty(log.pages())
    copy.finish()
    assert log.intact()


def test_dirty_log_shadow(bench):
    """dirty-log=shadow: the back-end could, and is not asked to."""
    made = bench(backend_options=dict(logs=True), keys={"dirty-log": "shadow"})
    unit = made.unit
    log = logging(unit, log_for(unit))
    unit.io(16)
    assert made.svqd.device("dev0")["logging"] == "shadow"
    assert log.pages()
    assert unit.backend.count(Id.SET_LOG_BASE) == 0
    assert not unit.backend.acked & wire.F_LOG_ALL


def test_dirty_log_backend(bench):
    """dirty-log=backend and a back-end that cannot: logging is not offered."""
    made = bench(start=False, keys={"dirty-log": "backend"})
    vmm = made.unit.connect()
    assert not vmm.offered & wire.F_LOG_ALL


def test_shadow_off_offers_no_log(bench):
    """shadow=off over a back-end that cannot log must not promise a log."""
    made = bench(start=False, shadow="off")
    vmm = made.unit.connect()
    assert not vmm.offered & wire.F_LOG_ALL or not vmm.offered_protocol & wire.P_LOG_SHMFD
