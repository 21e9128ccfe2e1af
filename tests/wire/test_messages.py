"""Every request of the specification, well formed, in every state of a device.

Whether it is served depends on the back-end and on what was negotiated; that it is answered when
an answer is due, that nothing else is, and that the device goes on, does not.
"""

import os

import pytest
from svqwire import message as wire
from svqwire.message import Id
from svqwire.wait import readable
from test_refusals import STATES, ready

# Payload and fds of those requests that are not about memory, rings or configuration.
U64 = {Id.SET_VRING_ERR, Id.SEND_RARP, Id.NET_SET_MTU, Id.SET_STATUS, Id.CLOSE_CRYPTO_SESSION}
EMPTY = {
    Id.GET_FEATURES, Id.SET_OWNER, Id.GET_PROTOCOL_FEATURES, Id.GET_QUEUE_NUM,
    Id.GET_MAX_MEM_SLOTS, Id.GET_STATUS, Id.CHECK_DEVICE_STATE, Id.GET_SHMEM_CONFIG,
    Id.POSTCOPY_ADVISE, Id.POSTCOPY_LISTEN, Id.POSTCOPY_END,
}
WITH_FD = {Id.SET_LOG_FD: 0, Id.SET_BACKEND_REQ_FD: 0, Id.GPU_SET_SOCKET: 0,
           Id.SET_INFLIGHT_FD: 24, Id.SET_DEVICE_STATE_FD: 8}
SIZED = {Id.IOTLB_MSG: 32, Id.GET_INFLIGHT_FD: 24, Id.GET_SHARED_OBJECT: 16,
         Id.CREATE_CRYPTO_SESSION: 0, Id.VRING_KICK: 8, Id.SET_VRING_ENDIAN: 8,
         Id.GET_VRING_BASE: 8}
TYPED = {  # and the size of the answer, where one is certain
    Id.GET_FEATURES: 8, Id.GET_PROTOCOL_FEATURES: 8, Id.GET_QUEUE_NUM: 8,
    Id.GET_MAX_MEM_SLOTS: 8, Id.GET_VRING_BASE: 8, Id.GET_CONFIG: 12 + 24,
    Id.SET_LOG_BASE: 16, Id.CHECK_DEVICE_STATE: 8, Id.SET_DEVICE_STATE_FD: 8,
    Id.GET_STATUS: None, Id.GET_INFLIGHT_FD: None, Id.GET_SHARED_OBJECT: None,
    Id.GET_SHMEM_CONFIG: None, Id.CREATE_CRYPTO_SESSION: None, Id.POSTCOPY_ADVISE: None,
    Id.POSTCOPY_END: None,
}
FD_MESSAGES = {Id.SET_VRING_KICK, Id.SET_VRING_CALL, Id.SET_VRING_ERR}
REST = {Id.SET_FEATURES, Id.SET_PROTOCOL_FEATURES, Id.SET_MEM_TABLE, Id.SET_LOG_BASE,
        Id.SET_VRING_NUM, Id.SET_VRING_ADDR, Id.SET_VRING_BASE, Id.SET_VRING_ENABLE,
        Id.GET_CONFIG, Id.SET_CONFIG, Id.ADD_MEM_REG, Id.REM_MEM_REG, Id.RESET_DEVICE,
        Id.RESET_OWNER}
assert U64 | EMPTY | set(WITH_FD) | set(SIZED) | FD_MESSAGES | REST == set(Id)


def well_formed(vmm, id):
    """(payload, fds) of a request that repeats what is so already, as far as that is possible."""
    guest = vmm.guest
    queue, memory = guest.queues[0], guest.memory
    ring, uaddr, region = queue.ring, memory.uaddr, memory.regions[0]
    states = {Id.SET_VRING_NUM: ring.num, Id.SET_VRING_BASE: 0, Id.SET_VRING_ENABLE: 1}
    events = {Id.SET_VRING_KICK: queue.kick, Id.SET_VRING_CALL: queue.call,
              Id.SET_VRING_ERR: queue.err}
    if id in events:
        return wire.u64(0), [events[id].fd]
    if id in states:
        return wire.vring_state(0, states[id]), []
    if id in U64:
        return wire.u64(0), []
    if id in WITH_FD:
        return bytes(WITH_FD[id]), [os.memfd_create("with")]
    return {
        Id.SET_FEATURES: (wire.u64(vmm.acked), []),
        Id.SET_PROTOCOL_FEATURES: (wire.u64(vmm.protocol), []),
        Id.SET_MEM_TABLE: (memory.table(), memory.fds()),
        Id.SET_LOG_BASE: (wire.LOG.pack(4096, 0), [sized_memfd()]),
        Id.SET_VRING_ADDR: (wire.vring_addr(
            0, uaddr(ring.desc_gpa), uaddr(ring.used_gpa), uaddr(ring.avail_gpa)), []),
        Id.GET_CONFIG: (wire.config(0, 24), []),
        Id.SET_CONFIG: (wire.config(0, 4, 0, b"conf"), []),
        Id.ADD_MEM_REG: (wire.mem_reg(*region.wire()), [region.fd]),
        Id.REM_MEM_REG: (wire.mem_reg(1 << 40, 4096, 1 << 40), []),
    }.get(id, (bytes(SIZED.get(id, 0)), []))


def sized_memfd():
    fd = os.memfd_create("log")
    os.ftruncate(fd, 4096)
    return fd


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("need_reply", [False, True], ids=["plain", "need-reply"])
def test_every_request(bench, state, need_reply):
    made, vmm = ready(bench, state)
    made.judged = False
    failures = []
    for id in Id:
        made.units[1].io(1)
        if not made.unit.vmm or readable(vmm.sock):
            vmm = made.unit.start()
        payload, fds = well_formed(vmm, id)
        flags = wire.VERSION | (wire.NEED_REPLY if need_reply else 0)
        try:
            vmm.post(id, payload, fds, flags)
            answers = answers_before_fence(vmm, id)
        except (wire.Closed, BrokenPipeError, ConnectionResetError):
            made.unit.hang_up()
            failures.append(f"{id.name}: the connection was closed")
            continue
        finally:
            for fd in fds:
                if id in WITH_FD or id == Id.SET_LOG_BASE:
                    os.close(fd)
        size = TYPED.get(id, 8)
        if id == Id.SET_LOG_BASE and not vmm.protocol & wire.P_LOG_SHMFD:
            size = 8  # then it has no answer of its own
        failures += judge(id, need_reply, answers, size)
    assert not failures, "\n".join(failures)
    made.fresh()
    made.units[1].io()


def answers_before_fence(vmm, id):
    """Whatever was answered before the request that is sent now."""
    fence = Id.GET_QUEUE_NUM if id == Id.GET_FEATURES else Id.GET_FEATURES
    vmm.post(fence)
    answers = []
    while True:
        answer = wire.receive(vmm.sock)
        for fd in answer.fds:
            os.close(fd)
        if answer.id == fence:
            return answers
        answers.append(answer)


def judge(id, need_reply, answers, size):
    """What is wrong with the answers to one request."""
    due = need_reply or (id in TYPED and (id != Id.SET_LOG_BASE or size == 16))
    if not due:
        return [f"{id.name}: an answer that nobody asked for"] if answers else []
    if id in TYPED and size is None and not need_reply and len(answers) <= 1:
        return []  # the feature is not offered: silence is as good
    if len(answers) != 1:
        return [f"{id.name}: {len(answers)} answers"]
    answer = answers[0]
    found = []
    if answer.id != id:
        found.append(f"{id.name}: answered as {answer.name}")
    if answer.flags != wire.VERSION | wire.REPLY:
        found.append(f"{id.name}: flags {answer.flags:#x}")
    if size is not None and len(answer.payload) != size:
        found.append(f"{id.name}: {len(answer.payload)} bytes instead of {size}")
    return found
