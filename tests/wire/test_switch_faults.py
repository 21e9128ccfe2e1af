"""Faults at every point of a switch, in both directions, while chains are in flight.

A dry run counts the messages of a switch; then each of them is the one at which the back-end
leaves, falls silent or refuses, or at which the front-end leaves. With reconnect=0: what is lost in
a switch and comes back is in test_migration_recovery.py.
"""

import pytest
from svqwire import message as wire
from svqwire.bench import TIMEOUT
from svqwire.message import Id
from svqwire.qmp import QmpError
from svqwire.wait import Late

DIRECTIONS = {"on": True, "off": False}
WORDS = {True: "shadow", False: "pass-through"}


@pytest.fixture(params=DIRECTIONS)
def enable(request):
    return DIRECTIONS[request.param]


@pytest.fixture
def made(bench):
    made = bench(devices=2, keys={"message-timeout": TIMEOUT, "drain-timeout": 1, "reconnect": 0})
    made.judged = True
    return made


def prepare(made, enable):
    """In the mode that the switch leaves, with work in flight that the back-end finishes when
    it is asked to stop."""
    unit = made.unit
    if not unit.vmm:
        unit.start()
    made.svqd.shadow("dev0", not enable)
    unit.io(4)
    unit.backend.hold = True
    for queue in unit.guest.queues:
        for _ in range(3):
            queue.submit_random()
    return unit


def finish(unit):
    unit.backend.release()
    unit.guest.drain()
    unit.io(4)


def dry_run(made, enable):
    """The messages that the back-end gets in the switch."""
    unit = prepare(made, enable)
    start = len(unit.backend.log)
    made.svqd.shadow("dev0", enable)
    messages = list(unit.backend.log[start:])
    assert messages, "a switch without a message to the back-end"
    finish(unit)
    assert made.svqd.device("dev0")["mode"] == WORDS[enable]
    return messages


def test_dry_run_is_stable(made, enable):
    """The premise of this file; and what a switch must not do."""
    first, second = dry_run(made, enable), dry_run(made, enable)
    assert [m.name for m in first] == [m.name for m in second]
    forbidden = {Id.SET_MEM_TABLE, Id.SET_FEATURES, Id.RESET_DEVICE, Id.RESET_OWNER,
                 Id.SET_PROTOCOL_FEATURES, Id.SET_OWNER}
    assert not forbidden & {m.id for m in first}, [m.name for m in first]
    for message in (Id.SET_VRING_NUM, Id.SET_VRING_ADDR, Id.SET_VRING_BASE, Id.SET_VRING_KICK,
                    Id.GET_VRING_BASE):
        assert sum(m.id == message for m in first) == 2, f"{message.name}: once a queue"


@pytest.mark.parametrize("action", ["close", "closed"])
def test_back_end_leaves(made, enable, action):
    messages = dry_run(made, enable)
    for number, message in enumerate(messages):
        unit = prepare(made, enable)
        unit.backend.fault(action, skip=number)
        try:
            made.svqd.shadow("dev0", enable)
        except QmpError as error:
            assert error.error_class == "GenericError", error
        assert unit.vmm.closed_by_peer(), f"at message {number}, {message.name}"
        unit.backend.hold = False
        made.units[1].io(2)
        made.fresh()


def test_back_end_falls_silent(made, enable):
    messages = dry_run(made, enable)
    for number, message in enumerate(messages):
        asked = message.id == Id.GET_VRING_BASE or message.flags & wire.NEED_REPLY
        unit = prepare(made, enable)
        unit.backend.fault("silent", skip=number)
        if not asked:
            made.svqd.shadow("dev0", enable)
            finish(unit)
            continue
        error = made.svqd.refused("dev0", enable)
        assert error.error_class == "GenericError", error
        assert unit.vmm.closed_by_peer(), f"at message {number}, {message.name}"
        made.svqd.wait_log(rf"error: .*dev0.*{message.name}")
        unit.backend.hold = False
        made.units[1].io(2)
        made.fresh()


def test_back_end_refuses(made, enable):
    """Rolled back: the old mode serves on, nothing in flight is lost."""
    made.judged = False  # messages of one batch follow before the refusal is seen
    messages = dry_run(made, enable)
    for number, message in enumerate(messages):
        unit = prepare(made, enable)
        unit.backend.fault("nack", skip=number)
        if message.id == Id.GET_VRING_BASE:
            continue_or_fresh(made, unit, enable)
        elif not message.flags & wire.NEED_REPLY:
            unit.backend.faults.clear()
            finish(unit)
        elif spare_call(messages, number):
            made.svqd.shadow("dev0", enable)
            finish(unit)
        else:
            where = f"refused at message {number}, {message.name}"
            error = made.svqd.refused("dev0", enable)
            assert "Error enabling (see monitor)" in error.desc, f"{where}: {error}"
            assert made.svqd.device("dev0")["mode"] == WORDS[not enable], where
            made.svqd.wait_log(rf"(warning|error): .*dev0.*{message.name}")
            made.svqd.wait_log(r"error: .*dev0.*cannot switch")
            try:
                finish(unit)
            except Late as late:
                raise AssertionError(f"{where}: {late}") from late
        made.units[1].io(2)


def spare_call(messages, number):
    """A call for a ring that was just stopped, in case that more completes: nice to have."""
    return (messages[number].id == Id.SET_VRING_CALL
            and messages[number - 1].id == Id.GET_VRING_BASE)


def continue_or_fresh(made, unit, enable):
    """A refused GET_VRING_BASE has an ack where its reply should be: the session may end."""
    try:
        made.svqd.shadow("dev0", enable)
        finish(unit)
    except (QmpError, AssertionError):
        unit.backend.hold = False
        made.fresh()


def test_front_end_leaves(made, enable):
    messages = dry_run(made, enable)
    for number in range(len(messages)):
        unit = prepare(made, enable)
        unit.backend.fault("call", skip=number, call=unit.hang_up)
        try:
            made.svqd.shadow("dev0", enable)
        except QmpError as error:
            assert error.error_class == "GenericError", error
        unit.backend.wait_disconnected()
        unit.backend.hold = False
        unit.hang_up()
        made.units[1].io(2)
        unit.backend.faults.clear()
        assert made.svqd.device("dev0")["mode"] == "stopped"
        made.fresh()


STOPS = {
    "GET_VRING_BASE": lambda vmm, queue: vmm.post(
        Id.GET_VRING_BASE, wire.vring_state(queue.index, 0)),
    "ENABLE 0": lambda vmm, queue: vmm.post(
        Id.SET_VRING_ENABLE, wire.vring_state(queue.index, 0)),
    "RESET_DEVICE": lambda vmm, queue: vmm.post(Id.RESET_DEVICE),
    "MEM_TABLE": lambda vmm, queue: vmm.post(
        Id.SET_MEM_TABLE, vmm.guest.memory.table(), vmm.guest.memory.fds()),
    "LOG": lambda vmm, queue: vmm.post(
        Id.SET_FEATURES, wire.u64(vmm.acked | wire.F_LOG_ALL)),
}


@pytest.mark.parametrize("stop", STOPS)
def test_front_end_interferes(made, enable, stop):
    """The front-end's own message arrives at every point of a switch: it is answered after it,
    and the device is in a state from which it starts again."""
    messages = dry_run(made, enable)
    for number in range(len(messages)):
        unit = prepare(made, enable)
        vmm, queue = unit.vmm, unit.guest.queues[0]
        unit.backend.fault("call", skip=number, call=lambda: STOPS[stop](vmm, queue))
        try:
            made.svqd.shadow("dev0", enable)
        except QmpError as error:
            assert error.error_class == "GenericError", error
        unit.backend.faults.clear()
        unit.backend.hold = False
        unit.backend.release()
        if stop == "GET_VRING_BASE":
            index, _ = wire.VRING_STATE.unpack(vmm.reply(Id.GET_VRING_BASE, 8))
            assert index == 0
        vmm.sync()
        made.units[1].io(2)
        made.fresh()
