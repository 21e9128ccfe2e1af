"""The scripted peers against each other, without svqd: the tests' own tools work."""

import pytest
from svqwire import message as wire
from svqwire.bench import AckingQemu
from svqwire.dirtylog import DirtyLog
from svqwire.fault import Fault
from svqwire.flavours import FLAVOURS
from svqwire.frontend import Refused
from svqwire.guest import answer
from svqwire.memory import PAGE
from svqwire.message import Id
from svqwire.wait import Late, wait_until

pytestmark = pytest.mark.direct


@pytest.fixture
def pair(folder, closing, guest):
    """A function that makes a back-end of some flavour with a running front-end."""

    def make(flavour="plain", queues=2, seconds=5.0, **rings):
        backend = closing(FLAVOURS[flavour](folder / "back"))
        vmm = closing(AckingQemu(backend.path, guest(queues, **rings), seconds=seconds))
        vmm.connect()
        vmm.start()
        vmm.sync()
        return backend, vmm

    return make


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_flavours(pair, flavour):
    backend, vmm = pair(flavour, event_idx=flavour != "spdk", indirect=True)
    bases = None
    for _ in range(3):
        if bases:
            vmm.start(bases)
            vmm.sync()
        vmm.guest.io(50, 8)
        bases = vmm.stop()
        assert bases == [queue.ring.base() for queue in vmm.guest.queues]
    assert not backend.violations


@pytest.mark.parametrize("rings", [{}, {"event_idx": True}, {"indirect": True},
                                   {"event_idx": True, "indirect": True}], ids=str)
def test_rings_wrap(pair, rings):
    """Every index goes past 65535."""
    _, vmm = pair(queues=1, num=8, **rings)
    queue, near = vmm.guest.queues[0], 65500
    vmm.stop()
    queue.ring.avail_idx = queue.ring.last_used = near
    for view in (queue.ring.avail, queue.ring.used):
        view[1] = near
    vmm.start([near])
    vmm.sync()
    for _ in range(30):
        for _ in range(8 if queue.ring.indirect else 4):
            queue.ring.add([b"x"], [1])
        queue.flush()
        queue.complete(len(queue.ring.outstanding))
    assert queue.ring.all_used() < near


def test_breaches_are_seen(pair):
    backend, vmm = pair()
    queue = vmm.guest.queues[0]
    breaches = [
        (lambda: vmm.tell(Id.SET_VRING_NUM, wire.vring_state(0, 3), ack=True), "ring size"),
        (lambda: vmm.tell(Id.SET_FEATURES, wire.u64(1 << 61), ack=True), "not offered"),
        (lambda: vmm.tell(Id.SET_STATUS, wire.u64(1), ack=True), "not negotiated"),
        (lambda: vmm.tell(Id.SET_VRING_BASE, bytes(16), ack=True), "size 16"),
        (lambda: vmm.tell(Id.SET_OWNER, fds=[queue.call.fd], ack=True), "1 fds"),
        (lambda: vmm.tell(99, ack=True), "unknown"),
    ]
    for act, text in breaches:
        backend.violations.clear()
        try:
            act()
        except (Refused, wire.Closed):
            pass
        wait_until(lambda: backend.violations, text)
        assert text in " ".join(backend.violations)
        if not backend.connection:
            break


@pytest.mark.parametrize("action", ["silent", "close", "closed", "nack"])
def test_faults(pair, action):
    backend, vmm = pair(seconds=0.2)
    backend.fault(action, Id.SET_MEM_TABLE)
    with pytest.raises((Late, wire.Closed, Refused)):
        vmm.set_mem_table()


def test_altered_replies_are_refused(pair):
    backend, vmm = pair(seconds=0.2)
    for change in (dict(flags=1), dict(flags=0xD), dict(payload=bytes(16)), dict(id=9)):

        def alter(reply, change=change):
            for key, value in change.items():
                setattr(reply, key, value)
            return reply

        backend.fault("alter", Id.GET_QUEUE_NUM, alter=alter)
        with pytest.raises(AssertionError):
            vmm.ask_u64(Id.GET_QUEUE_NUM)
            vmm.quiet()
        vmm.sock.settimeout(0.01)
        try:
            vmm.sock.recv(64)  # what a longer reply left behind
        except TimeoutError:
            pass
        vmm.sock.settimeout(0.2)


def test_a_lost_call_is_noticed(pair):
    backend, vmm = pair()
    queue = vmm.guest.queues[0]
    backend.run(lambda: setattr(backend.queues[0], "signal", lambda _: None))
    queue.call.take()
    backend.hold = True
    queue.submit([b"x"], [8])
    wait_until(backend.held, "the request to be held")
    backend.run(lambda: backend.later(0.1, backend.complete_held))  # the driver sleeps by then
    with pytest.raises(Late, match="without a call"):
        queue.complete(1, seconds=0.5)


def test_a_wrong_answer_is_noticed(pair):
    backend, vmm = pair()

    def corrupt(queue, chain):
        chain.write(bytes(chain.room))
        chain.ring.push(chain.head, chain.room)
        queue.signal(chain.ring)
        return True

    backend.corrupt = corrupt
    vmm.guest.queues[0].submit([b"x"], [8])
    with pytest.raises(AssertionError, match="answer"):
        vmm.guest.queues[0].complete(1)


def test_dirty_log_bits():
    log = DirtyLog(3, offset=5)
    assert log.intact() and not log.pages()
    log.view[5] = 0x81
    log.view[7] = 0x80
    assert log.pages() == {0, 7 * PAGE, 23 * PAGE}
    log.view[8] ^= 1
    assert not log.intact()
    log.close()


def test_answers():
    assert answer(b"", 3) == b"\x5a\x5a\x5a"
    assert answer(b"\x00\x5a", 5) == b"\x5a\x00\x5a\x00\x5a"
    assert answer(b"x", 0) == b""


def test_fault_counts():
    fault = Fault("close", Id.SET_OWNER, skip=1)
    owner, other = wire.Message(Id.SET_OWNER), wire.Message(Id.GET_FEATURES)
    assert [fault.matches(m) for m in (other, owner, other, owner, owner)] == [
        False, False, False, True, False]
