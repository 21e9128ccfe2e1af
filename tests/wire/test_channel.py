"""The back-end's own requests, over the channel of SET_BACKEND_REQ_FD."""

import socket

import pytest
from svqwire import message as wire
from svqwire.message import BackendId
from svqwire.wait import readable, wait_until

FLAGS = wire.VERSION | wire.NEED_REPLY


@pytest.fixture(params=["on", "auto"])
def made(bench, request):
    made = bench(devices=2, shadow=request.param)
    made.unit.vmm.channel.settimeout(5)
    return made


def test_ack_travels_back(made):
    """CONFIG_CHANGE with NEED_REPLY: the VMM's ack reaches the back-end, whatever it says."""
    backend, channel = made.unit.backend, made.unit.vmm.channel
    for status in (0, 1):
        backend.run(
            lambda: wire.Message(BackendId.CONFIG_CHANGE, FLAGS).send(backend.requests))
        request = wire.receive(channel)
        assert (request.id, request.payload) == (BackendId.CONFIG_CHANGE, b"")
        if request.flags & wire.NEED_REPLY:
            wire.Message(request.id, wire.VERSION | wire.REPLY, wire.u64(status)).send(channel)
        assert backend.run(lambda: answer(backend.requests)) in (status, 0)
    made.alive()


def answer(sock):
    sock.settimeout(5)
    message = wire.receive(sock)
    assert message.flags == wire.VERSION | wire.REPLY
    return message.u64()


def test_host_notifier_is_refused_while_shadowing(bench):
    """Doorbells would go past the relay."""
    made = bench(shadow="on")
    backend = made.unit.backend
    reply = backend.request(BackendId.VRING_HOST_NOTIFIER, bytes(24), FLAGS)
    assert reply.u64() != 0
    assert not readable(made.unit.vmm.channel), "told to the VMM"
    made.alive()


def test_unknown_requests(made):
    """Refused by somebody; neither end of the channel nor the device suffers."""
    backend, channel = made.unit.backend, made.unit.vmm.channel
    for id in (0, 77, 0x10000):
        backend.run(lambda id=id: wire.Message(id, FLAGS, bytes(8)).send(backend.requests))
        relayed = readable(channel, 0.05)
        if relayed:
            request = wire.receive(channel)
            wire.Message(request.id, wire.VERSION | wire.REPLY, wire.u64(1)).send(channel)
        assert backend.run(lambda: answer(backend.requests)) != 0
    made.alive()


@pytest.mark.parametrize("data", [
    b"\xff" * 12, wire.HEADER.pack(2, wire.VERSION, 0xFFFFFFFF), wire.HEADER.pack(2, 0, 0),
    wire.HEADER.pack(2, wire.VERSION | wire.REPLY, 8) + bytes(8), b"\x02\x00\x00",
], ids=["ones", "huge", "version", "reply", "cut"])
def test_garbage(made, data):
    """The channel may end; the device and its neighbour do I/O all the same, or the session ends
    with an error and the next one works."""
    backend = made.unit.backend
    backend.run(lambda: backend.requests.sendall(data))
    if data == b"\x02\x00\x00":
        backend.run(lambda: backend.requests.shutdown(socket.SHUT_RDWR))
    made.units[1].io()
    made.qmp.command("query-devices")
    made.fresh()


def test_vmm_closes_its_end(made):
    """crosvm tolerates losing just the channel; so does svqd from its VMM."""
    backend = made.unit.backend
    made.unit.vmm.channel.close()
    made.unit.vmm.sync()
    made.unit.io()
    backend.run(lambda: wire.Message(BackendId.CONFIG_CHANGE).send(backend.requests))
    made.alive()


def test_channel_is_replaced(made):
    """A second SET_BACKEND_REQ_FD replaces the first; no fd stays behind."""
    unit = made.unit
    before = made.svqd.fds()
    for _ in range(10):
        unit.vmm.channel.close()
        unit.vmm.channel, theirs = socket.socketpair()
        unit.vmm.tell(wire.Id.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
    unit.vmm.sync()
    made.svqd.wait_fds(before)
    unit.backend.run(
        lambda: wire.Message(BackendId.CONFIG_CHANGE).send(unit.backend.requests))
    wait_until(lambda: readable(unit.vmm.channel), "the relayed request")
    made.alive()
