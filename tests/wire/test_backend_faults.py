"""A back-end that answers wrongly, late or never, under an svqd that is not to wait for its return
(reconnect=0; what happens otherwise is in test_recovery_states.py).

Where in a session it happens does not matter to the outcome: the front-end is not hung for ever,
the log names the message, the device works again with the next session, and another device of
the same svqd does its I/O meanwhile.
"""

import os
import time

import pytest
from svqwire import message as wire
from svqwire.backend import BackEnd
from svqwire.bench import TIMEOUT
from svqwire.frontend import Refused
from svqwire.message import Id, Message
from svqwire.qmp import Qmp
from svqwire.wait import Late, readable, wait_until


def altered(**changes):
    """A function that spoils a reply; a message without one is left alone."""

    def alter(reply):
        if reply:
            for key, value in changes.items():
                setattr(reply, key, value(reply) if callable(value) else value)
        return reply

    return alter


SPOILED = {
    "short": altered(payload=lambda reply: reply.payload[:-4]),
    "empty": altered(payload=b""),
    "long": altered(payload=lambda reply: reply.payload + bytes(8)),
    "huge": altered(payload=lambda reply: reply.payload + bytes(100000)),
    "not a reply": altered(flags=wire.VERSION),
    "other version": altered(flags=wire.REPLY | 2),
    "other id": altered(id=lambda reply: reply.id % 40 + 1),
}
TYPED = {
    Id.GET_FEATURES, Id.GET_PROTOCOL_FEATURES, Id.GET_QUEUE_NUM, Id.GET_MAX_MEM_SLOTS,
    Id.GET_VRING_BASE,
}


def session(unit, seconds=5.0):
    """A whole session; None, or what ended it. Hanging is not an end."""
    try:
        vmm = unit.connect(seconds)
        unit.guest.restart()
        vmm.start()
        vmm.sync()
        for queue in unit.guest.queues:
            queue.submit([b"once"], [32])
        for queue in unit.guest.queues:
            complete_or_closed(vmm, queue)
        vmm.stop()
        return None
    except (wire.Closed, BrokenPipeError, ConnectionResetError, Refused) as error:
        return error


def complete_or_closed(vmm, queue):
    for _ in range(50):
        try:
            queue.complete(1, seconds=0.1)
            return
        except Late:
            if readable(vmm.sock):
                raise wire.Closed("while I/O was waited for") from None
    raise AssertionError("the I/O neither completes nor is the connection closed")


def length_of_session(made):
    """The messages that the back-end gets in a good session."""
    log = made.unit.backend.log
    start = len(log)
    assert session(made.unit) is None
    made.unit.hang_up()
    made.unit.backend.wait_disconnected()
    return list(log[start:])


@pytest.fixture
def made(bench, request):
    callspec = getattr(request.node, "callspec", None)
    mode = callspec.params.get("mode", "off") if callspec else "off"
    made = bench(devices=2, shadow=mode, start=False,
                 keys={"message-timeout": TIMEOUT, "reconnect": 0})
    made.units[1].start()
    return made


def spoil_each(made, action, alter=None, only=None):
    """One session for each message of a session; yields (message, what ended it). A back-end
    whose greeting fails is tried again, like one that is not there: then that ended it."""
    messages = length_of_session(made)
    for number, message in enumerate(messages):
        if only and message.id not in only:
            continue
        made.unit.backend.faults.clear()
        made.unit.backend.fault(action, skip=number, alter=alter)
        sessions = made.unit.backend.sessions
        ended = session(made.unit) or made.unit.backend.sessions > sessions + 1
        made.unit.hang_up()
        made.unit.backend.wait_disconnected()
        made.units[1].io(1)
        yield message, ended
    made.unit.backend.faults.clear()
    made.fresh()
    made.units[1].io()


def told(made, ended):
    """An event for every session that ended."""
    if ended is not True:
        made.qmp.wait_event("DEVICE_ERROR", id="dev0")


@pytest.mark.parametrize("mode", ["off", "on"])
def test_never_answers(made, mode):
    """Silence ends the session after message-timeout, and the log names the message."""
    for message, ended in spoil_each(made, "silent"):
        asked = message.id in TYPED or message.flags & wire.NEED_REPLY
        if not asked:
            continue
        made.svqd.wait_log(rf"error: .*dev0.*{message.name}")
        if message.id not in (Id.GET_CONFIG,):
            assert ended, f"{message.name} was never answered and the session went on"
            told(made, ended)


@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("how", SPOILED)
def test_answers_wrongly(made, mode, how):
    for message, ended in spoil_each(made, "alter", SPOILED[how], only=TYPED):
        made.svqd.wait_log(rf"error: .*dev0.*{message.name}")
        assert ended, f"{message.name}: a reply that is {how} was taken"
        told(made, ended)


@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("action", ["close", "closed"])
def test_leaves_anywhere(made, mode, action):
    """Before and after the handling of each message of a session."""
    for message, ended in spoil_each(made, action):
        if message is not None and message.id in TYPED:
            assert ended, f"{message.name}: the back-end left and the session went on"


@pytest.mark.parametrize("mode", ["off", "on"])
def test_refuses_anything(made, mode):
    """A NACK: the front-end is told, or the session ends; nothing hangs."""
    made.judged = False  # messages of one batch follow before the refusal is seen
    for message, ended in spoil_each(made, "nack"):
        if message.id == Id.SET_MEM_TABLE and message.flags & wire.NEED_REPLY:
            assert ended, "the back-end refused the memory and the session went on"


class Leaving(Exception):
    """The front-end's process dies here."""


@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("silent", [False, True], ids=["answered", "unanswered"])
def test_front_end_leaves_anywhere(made, mode, silent):
    """After each message of a session, also while the back-end still owes its answer."""
    unit, failures = made.unit, []
    for number in range(0, 60, 2 if silent else 1):  # silence costs the timeout each time
        unit.backend.faults.clear()
        vmm = unit.dial()
        post, left = vmm.post, number

        def count(id, *arguments, **options):
            nonlocal left
            post(id, *arguments, **options)
            if left == 0:
                raise Leaving
            left -= 1
            if left == 0 and silent:
                unit.backend.fault("silent")

        vmm.post = count
        try:
            unit.guest.restart()
            vmm.connect()
            vmm.start()
            vmm.stop()
            break
        except Leaving:
            pass
        except (Late, Refused, wire.Closed, BrokenPipeError) as error:
            if not silent:
                failures.append(f"message {number}: {error}")
        unit.hang_up()
        unit.backend.wait_disconnected()
    assert not failures, "\n".join(failures)
    assert number > 20
    unit.backend.faults.clear()
    made.fresh()
    made.units[1].io()


def test_config_failures_are_hidden(made):
    """GET_CONFIG of size 0, of an error, of another range: the front-end's reply is whole."""
    unit = made.unit
    vmm = unit.connect()
    first = vmm.get_config(0, 60)
    for alter in (SPOILED["empty"], altered(payload=b"")):
        unit.backend.fault("alter", Id.GET_CONFIG, alter=alter)
        assert vmm.get_config(0, 60) == first
        unit.backend.fault("alter", Id.GET_CONFIG, alter=alter)
        assert len(vmm.get_config(8, 16)) == 16
    vmm.quiet()


def test_late_answers(made):
    """Just in time is in time."""
    unit = made.unit
    slow = (Id.GET_FEATURES, Id.GET_QUEUE_NUM, Id.SET_MEM_TABLE, Id.GET_VRING_BASE)
    for id in slow:
        unit.backend.fault("call", id, call=lambda: delay(TIMEOUT / 3))
    assert session(unit) is None


def delay(seconds):
    """A slow back-end: this is its slowness, not synchronisation."""
    time.sleep(seconds)


def test_unasked_replies(made):
    """Replies that nobody asked for end the session, not svqd."""
    unit = made.unit
    unit.start()
    flags = wire.VERSION | wire.REPLY
    unit.backend.run(
        lambda: Message(Id.GET_FEATURES, flags, wire.u64(1)).send(unit.backend.connection)
    )
    assert unit.vmm.closed_by_peer()
    made.fresh()
    made.units[1].io()


def test_features_shrink_between_sessions(made):
    """The next back-end offers less: the front-end sees that."""
    unit = made.unit
    unit.start()
    assert unit.vmm.offered & wire.bit(6)
    unit.hang_up()
    unit.backend.wait_disconnected()
    unit.backend.features &= ~wire.bit(6)
    unit.start()
    assert not unit.vmm.offered & wire.bit(6)
    unit.io()


def test_no_back_end_at_all(bench, closing):
    """Nobody listens: the front-end is let go after message-timeout; a late back-end is found."""
    made = bench(start=False, keys={"message-timeout": TIMEOUT})
    unit = made.unit
    path = unit.backend.path
    unit.backend.close()
    os.unlink(path)
    vmm = unit.dial()
    assert vmm.closed_by_peer()
    made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    made.svqd.wait_log(r"error: .*dev0")
    unit.backend = BackEnd(path)
    made.fresh()


def test_hung_back_end_and_its_neighbour(bench, closing):
    """The back-end accepts and never answers; the neighbour's control and data work meanwhile."""
    made = bench(devices=2, start=False, keys={"message-timeout": 3})
    hung, healthy = made.units
    for fault in range(20):
        hung.backend.fault("silent")
    vmm = hung.dial(seconds=10)
    vmm.post(Id.GET_FEATURES)
    wait_until(lambda: hung.backend.log, "the hung back-end to be asked")
    for turn in range(4):
        healthy.start()
        healthy.io()
        made.svqd.shadow("dev1", turn % 2 == 0)
        healthy.io()
        assert len(made.qmp.command("query-devices")) == 2
    blocked = closing(Qmp(made.svqd.qmp_path))
    blocked.write('{"execute": "x-vhost-enable-shadow-vq",'
                  ' "arguments": {"name": "dev0", "enable": true}}\n')
    made.svqd.shadow("dev1", True)
    healthy.io()
    assert not readable(vmm.sock), "the neighbour's work took longer than the timeout"
    assert vmm.closed_by_peer(6)
    made.svqd.wait_log(r"error: .*dev0.*GET_FEATURES")
    assert "error" in blocked.answer(), "a command for the hung device is never answered"
    hung.backend.faults.clear()
    healthy.io()
    made.fresh(hung)
