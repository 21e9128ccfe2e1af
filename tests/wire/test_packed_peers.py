"""The scripted packed rings against each other, without svqd: the tests' own tools work."""

import pytest
from svqwire import message as wire
from svqwire import packed
from svqwire.backend import FEATURES
from svqwire.bench import AckingQemu
from svqwire.dirtylog import DirtyLog
from svqwire.flavours import FLAVOURS, PACKED_FLAVOURS
from svqwire.memory import GuestMemory
from svqwire.message import Id
from svqwire.migration import Copy
from svqwire.packedring import PackedRing
from svqwire.ring import INDIRECT, NEXT, WRITE
from svqwire.virtio_user import VirtioUser
from svqwire.wait import Late, wait_until

pytestmark = pytest.mark.direct

RINGS = [{}, {"event_idx": True}, {"indirect": True}, {"event_idx": True, "indirect": True},
         {"in_order": True}, {"event_idx": True, "indirect": True, "in_order": True}]


@pytest.fixture
def pair(folder, closing, guest):
    """A function that makes a back-end of some flavour with a running front-end."""

    def make(flavour="plain", queues=2, backend_options=None, **rings):
        features = FEATURES | wire.F_PACKED | wire.F_IN_ORDER
        if flavour == "spdk":
            features &= ~wire.F_EVENT_IDX
        options = dict(features=features, **(backend_options or {}))
        backend = closing(FLAVOURS[flavour](folder / "back", **options))
        vmm = closing(AckingQemu(backend.path, guest(queues, packed=True, **rings)))
        vmm.connect()
        vmm.start()
        vmm.sync()
        return backend, vmm

    return make


@pytest.mark.parametrize("flavour", PACKED_FLAVOURS)
def test_flavours(pair, flavour):
    backend, vmm = pair(flavour, event_idx=flavour != "spdk", indirect=True, num=63)
    bases = None
    for _ in range(3):
        if bases:
            vmm.start(bases)
            vmm.sync()
        vmm.guest.io(50, 8)
        bases = vmm.stop()
        mask = 0xFFFF if flavour == "dpdk" else 0xFFFFFFFF
        assert bases == [queue.ring.base() & mask for queue in vmm.guest.queues]
        assert all(queue.ring.untouched() for queue in vmm.guest.queues)
    assert not backend.violations


@pytest.mark.parametrize("rings", RINGS, ids=str)
@pytest.mark.parametrize("num", [1, 2, 3, 7, 64, 100])
def test_wraps(pair, rings, num):
    """Starts at each end of each lap, goes on for many."""
    backend, vmm = pair(queues=1, num=num, **rings)
    queue = vmm.guest.queues[0]
    for place in {0, num // 2, num - 1, num, 2 * num - 1}:
        vmm.stop()
        queue.ring.restart()
        queue.ring.begin_at(place)
        vmm.start([queue.ring.base()])
        vmm.sync()
        for turn in range(3 * num + 20):
            backend.order = ("fifo", "lifo")[turn % 2]
            size = 1 if num < 3 and not queue.ring.indirect else 1 + turn % 2
            for _ in range(1 + turn % 3):
                if queue.ring.room(size):
                    queue.ring.add([b"x"], [9] if size == 2 else [])
            queue.flush()
            queue.complete(len(queue.ring.outstanding))
    assert queue.ring.untouched()
    assert not backend.violations


def test_batches(pair):
    """IN_ORDER: one used descriptor for many chains of several descriptors."""
    backend, vmm = pair(queues=1, num=32, in_order=True)
    queue = vmm.guest.queues[0]
    for _ in range(20):
        backend.hold = True
        for size in (1, 2, 3):
            queue.submit([b"a"] * size, [8, 8])
        wait_until(lambda: backend.held() == 3, "the batch to be held")
        backend.release()
        queue.complete(3)
    assert vmm.stop() == [queue.ring.base()]


def test_base_tells_what_is_in_flight(pair):
    """A back-end that answers before it has completed: asked again, it says how far it is."""
    backend, vmm = pair(queues=1)
    queue = vmm.guest.queues[0]
    vmm.guest.io(7)
    used = queue.ring.used
    backend.drain, backend.hold = "after", True
    for _ in range(3):
        queue.submit([b"held"], [16])
    wait_until(lambda: backend.held() == 3, "the requests to be held")
    first = vmm.get_vring_base(queue)
    assert first == packed.join(queue.ring.avail, used, queue.ring.num) != queue.ring.base()
    wait_until(lambda: vmm.get_vring_base(queue) == queue.ring.base(), "the last completion")
    queue.complete(3)


def test_half_a_base(pair):
    """DPDK on both ends: 16 bits each way."""
    backend, vmm = pair("dpdk", queues=2, indirect=True)
    backend.wait_for(Id.SET_VRING_BASE)
    vmm.close()
    backend.wait_disconnected()
    user = VirtioUser(backend.path, vmm.guest)
    vmm.guest.restart()
    user.connect()
    user.negotiate()
    user.start()
    sent = [m for m in backend.log if m.id == Id.SET_VRING_BASE][-1]
    assert wire.VRING_STATE.unpack(sent.payload)[1] == 0x8000
    vmm.guest.io(50)
    assert user.stop() == [queue.ring.base() & 0xFFFF for queue in vmm.guest.queues]
    user.close()
    assert not backend.violations


def test_encoding():
    assert packed.encode(0, 8) == 0x8000 and packed.encode(8, 8) == 0 == packed.encode(24, 8)
    assert packed.join(9, 7, 8) == 0x8007 << 16 | 1
    assert packed.split(0x80070001, 8) == (9, 7)
    assert packed.split(0x8000, 8) == (0, 0) == packed.split(packed.START, 8)
    assert packed.split(0x00038001, 8) == (17, 11)
    for num in (1, 5):
        for old in range(4 * num):
            for new in range(old, old + num + 1):
                for event in range(old, old + 2 * num):
                    word = packed.encode(event, num)
                    assert packed.reached(word, num, old, new) == (event < new)


def test_a_lost_call_is_noticed(pair):
    """The only call that the driver asked for."""
    backend, vmm = pair(event_idx=True)
    queue = vmm.guest.queues[0]
    backend.run(lambda: setattr(backend.queues[0], "signal", lambda _: None))
    queue.call.take()
    backend.hold = True
    queue.submit([b"x"], [8])
    wait_until(backend.held, "the request to be held")
    backend.run(lambda: backend.later(0.1, backend.complete_held))
    with pytest.raises(Late, match="without a call"):
        queue.complete(1, seconds=0.5)


def test_kicks_are_suppressed(pair):
    """DISABLE: none. DESC: when that descriptor is made available, and not again."""
    backend, vmm = pair(queues=1, event_idx=True)
    queue = vmm.guest.queues[0]
    ring = queue.ring
    backend.run(lambda: backend.queues[0].ring.want_kicks(False))
    ring.add([b"x"])
    assert not ring.publish()
    ring.device.set(packed.DESC_EVENT, ring.avail + 1, ring.num)
    ring.add([b"x"])
    assert not ring.publish()
    ring.add([b"x"])
    assert ring.publish()
    ring.add([b"x"])
    assert not ring.publish()
    queue.kick.signal()
    queue.complete(4)


def breaches():
    """Functions that break one rule each, at the next place of a ring."""

    def id_twice(ring):
        ring.describe(1, 4096, 16, number=7)
        ring.describe(0, 4096, 16, number=7)

    def chain_not_available(ring):
        ring.describe(0, 4096, 16, NEXT)

    def table_flags(ring):
        ring.memory.write(8192, packed.ENTRY.pack(4096, 16, 0, NEXT))
        ring.describe(0, 8192, 16, INDIRECT)

    def table_size(ring):
        ring.describe(0, 8192, 24, INDIRECT)

    def order(ring):
        ring.describe(1, 4096, 16)
        ring.describe(0, 4096, 16, NEXT | WRITE)

    def event_flags(ring):
        ring.driver.set(packed.RESERVED)
        ring.describe(0, 4096, 16)

    def event_offset(ring):
        ring.driver.word[0] = packed.DESC_EVENT << 16 | ring.num
        ring.describe(0, 4096, 16)

    return {case.__name__: case for case in (
        id_twice, chain_not_available, table_flags, table_size, order, event_flags, event_offset)}


@pytest.mark.parametrize("name", breaches())
def test_breaches_are_seen(pair, name):
    backend, vmm = pair(event_idx=True, indirect=True)
    queue = vmm.guest.queues[0]
    backend.hold = name == "id_twice"
    breaches()[name](queue.ring)
    queue.kick.signal()
    wait_until(lambda: backend.violations, name)


def test_migration_copy(pair):
    """A packed ring's descriptors are the guest's, its used descriptors come from the log."""
    backend, vmm = pair(queues=1, num=300, event_idx=True, backend_options=dict(logs=True))
    log = DirtyLog.for_memory(vmm.guest.memory)
    vmm.set_log_base(log)
    queue = vmm.guest.queues[0]
    vmm.set_features(vmm.acked | wire.F_LOG_ALL)
    vmm.vring_addr(queue, 1, queue.ring.used_gpa)
    for forgotten in (False, True):
        copy = Copy(vmm.guest)
        copy.everything()
        vmm.guest.io(400)
        dirty = log.pages()
        ring_pages = {queue.ring.desc_gpa, queue.ring.desc_gpa + 4096}
        assert ring_pages | {queue.ring.used_gpa} <= dirty
        copy.dirty(dirty - ring_pages if forgotten else dirty)
        log.clear()
        if forgotten:
            with pytest.raises(AssertionError, match="never logged"):
                copy.finish()
        else:
            copy.finish()


def test_untouched():
    """A device that writes anything but used descriptors is found out."""
    memory = GuestMemory()
    ring = PackedRing(memory, num=4)
    ring.add([b"x"], [8])
    ring.publish()
    assert ring.untouched()
    ring.table[16 + 3] ^= 1
    assert not ring.untouched()
    memory.close()
