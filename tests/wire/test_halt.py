"""A switch stops all rings of a device at the same time: the back-end is asked for all of them
before it has answered for the first, so that the guest waits for the slowest ring and not for
their sum."""

import fcntl
import struct
import termios
import time

import pytest
from svqwire import message as wire
from svqwire.bench import TIMEOUT
from svqwire.message import Id

QUEUES = 4
SIZE = wire.HEADER.size + 8  # of GET_VRING_BASE and of SET_VRING_CALL


@pytest.fixture
def made(bench):
    return bench(queues=QUEUES, keys={"message-timeout": TIMEOUT, "drain-timeout": 0.3})


@pytest.fixture(params=[True, False], ids=["on", "off"])
def enable(request, made):
    made.svqd.shadow("dev0", not request.param)
    made.unit.io(4)
    return request.param


def load(unit):
    """Work that the back-end holds until it is to stop."""
    unit.backend.hold = True
    for queue in unit.guest.queues:
        for _ in range(3):
            queue.submit_random()


def serve(made, enable):
    made.unit.backend.release()
    made.unit.guest.drain()
    made.unit.io(4)
    assert made.svqd.device("dev0")["mode"] == ("shadow" if enable else "pass-through")


def waiting(backend):
    """Bytes that svqd has sent and the back-end has not read."""
    return struct.unpack("i", fcntl.ioctl(backend.connection, termios.FIONREAD, b"    "))[0]


def test_asked_together(made, enable):
    backend, behind = made.unit.backend, []

    def look():
        time.sleep(0.05)
        behind.append(waiting(backend))

    load(made.unit)
    start = len(backend.log)
    backend.fault("call", Id.GET_VRING_BASE, call=look)
    made.svqd.shadow("dev0", enable)
    assert behind == [SIZE * (2 * QUEUES - 1)], "each ring with its call fd, less the one read"
    assert backend.names(start)[: 2 * QUEUES] == ["GET_VRING_BASE", "SET_VRING_CALL"] * QUEUES
    serve(made, enable)


def test_settings_go_together(made, enable):
    """No ack is waited for before everything has been said; but no ring starts before that."""
    backend, seen = made.unit.backend, {}

    def look(name):
        time.sleep(0.05)
        seen[name] = waiting(backend)

    load(made.unit)
    start = len(backend.log)
    backend.fault("call", Id.SET_VRING_NUM, call=lambda: look("settings"))
    backend.fault("call", Id.SET_VRING_KICK, call=lambda: look("starts"))
    made.svqd.shadow("dev0", enable)
    names = backend.names(start)[2 * QUEUES:]
    first = names.index("SET_VRING_KICK")
    assert not set(names[first:]) - {"SET_VRING_KICK", "SET_VRING_ENABLE"}, names
    sizes = [wire.HEADER.size + len(m.payload) for m in backend.log[start + 2 * QUEUES:]]
    assert seen == {"settings": sum(sizes[1:first]), "starts": sum(sizes[first + 1:])}
    serve(made, enable)


def test_slow_answers(made, enable):
    """Each may take message-timeout and drain-timeout, however many there are."""
    backend, slow = made.unit.backend, 0.6 * (TIMEOUT + 0.3)
    load(made.unit)
    for _ in range(QUEUES):
        backend.fault("call", Id.GET_VRING_BASE, call=lambda: time.sleep(slow))
    began = time.monotonic()
    made.svqd.shadow("dev0", enable)
    assert time.monotonic() - began >= QUEUES * slow
    serve(made, enable)


def test_answers_from_before_the_last_completions(made, enable):
    """As C virtiofsd does: it reads the index for its answer, and its queue's thread, not stopped
    yet, takes and completes more. The used index is right then; nothing is done twice."""
    backend = made.unit.backend

    def early(message):
        index, _ = wire.VRING_STATE.unpack(message.payload)
        return wire.vring_state(index, backend.queue(index).stop() - 2 & 0xFFFF)

    load(made.unit)
    before, backend.on_get_vring_base = backend.on_get_vring_base, early
    made.svqd.shadow("dev0", enable)
    backend.on_get_vring_base = before
    serve(made, enable)


@pytest.mark.parametrize("answers", range(QUEUES))
def test_not_drained_in_time(made, enable, answers):
    """One ring completes nothing after its answer: all of them go on as they were."""
    backend = made.unit.backend

    def lazy():
        backend.drain = "asked"

    load(made.unit)
    backend.fault("call", Id.GET_VRING_BASE, skip=answers, call=lazy)
    error = made.svqd.refused("dev0", enable)
    assert "Error enabling (see monitor)" in error.desc, error
    late = [f"queue {index}: the back-end has not completed" for index in range(QUEUES)]
    told = [line in made.svqd.log() for line in late]
    assert told == [index >= answers for index in range(QUEUES)]
    backend.run(backend.finish_stopped)
    serve(made, not enable)
    # Nothing is left of it.
    made.svqd.shadow("dev0", enable)
    serve(made, enable)
