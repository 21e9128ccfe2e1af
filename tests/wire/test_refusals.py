"""Well-framed messages that ask for what cannot be: each is refused, nothing else happens.

Every case is sent to a device that is not started, to one in pass-through and to one in shadow
mode; afterwards the same connection goes on and the running device does I/O. The back-end has 4
queues; as some back-ends count pairs, 8 is the first index that is certainly none.
"""

import os
import random

import pytest
from svqwire import message as wire
from svqwire.bench import reads_ack
from svqwire.frontend import Refused
from svqwire.memory import MIB
from svqwire.message import Id

STATES = ("idle", "pass-through", "shadow")
HIGH = 1 << 40
TOP = (1 << 64) - 4096


def memfd(size):
    fd = os.memfd_create("case")
    os.ftruncate(fd, size)
    return fd


def table(*regions, file_size=MIB):
    return Id.SET_MEM_TABLE, wire.mem_table(regions), [file_size] * len(regions)


def addr(desc=0, used=0, avail=0, index=0, flags=0):
    """Offsets from a valid address of guest memory."""
    base = 0x7F1200000000 + MIB
    desc, used, avail = base + desc, base + 0x2000 + used, base + 0x4000 + avail
    mask = (1 << 64) - 1
    payload = wire.vring_addr(index, desc & mask, used & mask, avail & mask, flags)
    return Id.SET_VRING_ADDR, payload, []


def state(id, index, value):
    return id, wire.vring_state(index, value), []


# what: (id, payload, sizes of the files that go with it)
CASES = {
    "NUM 0": state(Id.SET_VRING_NUM, 0, 0),
    "NUM 3": state(Id.SET_VRING_NUM, 0, 3),
    "NUM 65536": state(Id.SET_VRING_NUM, 0, 65536),
    "NUM 32769": state(Id.SET_VRING_NUM, 0, 32769),
    "NUM 0x80000000": state(Id.SET_VRING_NUM, 0, 0x80000000),
    "NUM of queue 8": state(Id.SET_VRING_NUM, 8, 64),
    "NUM of queue 0xffffffff": state(Id.SET_VRING_NUM, 0xFFFFFFFF, 64),
    "BASE of queue 8": state(Id.SET_VRING_BASE, 8, 0),
    "BASE 0x10000": state(Id.SET_VRING_BASE, 0, 0x10000),
    "ENABLE of queue 8": state(Id.SET_VRING_ENABLE, 8, 1),
    "ENABLE 2": state(Id.SET_VRING_ENABLE, 0, 2),
    "ADDR of queue 8": addr(index=8),
    "ADDR desc misaligned": addr(desc=8),
    "ADDR used misaligned": addr(used=2),
    "ADDR avail misaligned": addr(avail=1),
    "ADDR desc outside": addr(desc=HIGH),
    "ADDR used outside": addr(used=HIGH),
    "ADDR avail outside": addr(avail=HIGH),
    "ADDR desc at the top": addr(desc=TOP - 0x7F1200000000 - MIB),
    "ADDR flags": addr(flags=0x8),
    "KICK of queue 8": (Id.SET_VRING_KICK, wire.u64(8), ["eventfd"]),
    "CALL of queue 8": (Id.SET_VRING_CALL, wire.u64(8), ["eventfd"]),
    "ERR of queue 8": (Id.SET_VRING_ERR, wire.u64(8), ["eventfd"]),
    "KICK of queue 255, no fd": (Id.SET_VRING_KICK, wire.u64(255 | wire.NO_FD), []),
    "overlapping regions": table((0, MIB, HIGH, 0), (MIB - 4096, MIB, 2 * HIGH, 0)),
    "equal regions": table((0, MIB, HIGH, 0), (0, MIB, 2 * HIGH, 0)),
    "overlapping uaddr": table((0, MIB, HIGH, 0), (MIB, MIB, HIGH + 4096, 0)),
    "gpa wraps": table((TOP, MIB, HIGH, 0)),
    "uaddr wraps": table((0, MIB, TOP, 0)),
    "size 0": table((0, 0, HIGH, 0)),
    "offset + size wraps": table((0, MIB, HIGH, TOP)),
    "file too short": table((0, 2 * MIB, HIGH, 0)),
    "offset behind the file": table((0, MIB, HIGH, 4096)),
    "size of everything": table((0, (1 << 64) - 1, 0, 0)),
    "ADD overlapping": (Id.ADD_MEM_REG, wire.mem_reg(4096, MIB, 4 * HIGH), [MIB]),
    "ADD wraps": (Id.ADD_MEM_REG, wire.mem_reg(TOP, MIB, HIGH), [MIB]),
    "ADD file too short": (Id.ADD_MEM_REG, wire.mem_reg(HIGH, 2 * MIB, HIGH), [MIB]),
    "REM unknown": (Id.REM_MEM_REG, wire.mem_reg(HIGH, MIB, HIGH), []),
    "REM other size": (Id.REM_MEM_REG, wire.mem_reg(0, MIB, 0x7F1200000000), []),
    "features not offered": (Id.SET_FEATURES, wire.u64(1 << 32 | 1 << 30 | 1 << 61), []),
    "SET_VRING_ENDIAN": state(Id.SET_VRING_ENDIAN, 0, 1),
    "POSTCOPY_LISTEN": (Id.POSTCOPY_LISTEN, b"", []),
    "VRING_KICK in band": state(Id.VRING_KICK, 0, 0),
    "CONFIG behind all": (Id.SET_CONFIG, wire.config(0xFFFFFFF0, 32), []),
}
LENIENT = {  # refused or taken: real peers differ; nothing may break
    "CONFIG behind all", "SET_VRING_ENDIAN", "POSTCOPY_LISTEN", "overlapping uaddr",
    "ADDR desc outside", "ADDR used outside", "ADDR avail outside", "ADDR desc at the top",
}


def ready(bench, state):
    """A bench in that state; its front-end."""
    made = bench(devices=2, shadow="on" if state == "shadow" else "off", start=False)
    made.units[1].start()
    unit = made.unit
    if state == "idle":
        unit.connect()
        unit.vmm.set_features(unit.vmm.acceptable())
        unit.vmm.update_memory()
    else:
        unit.start()
        unit.io()
    return made, unit.vmm


def files(kinds):
    fds = []
    for kind in kinds:
        fds.append(os.eventfd(0) if kind == "eventfd" else memfd(kind))
    return fds


@pytest.mark.parametrize("state", STATES)
def test_refused(bench, state):
    made, vmm = ready(bench, state)
    failures = []
    for what, case in CASES.items():
        try:
            if not refused(vmm, case) and what not in LENIENT:
                failures.append(f"{what}: acked")
            if what in LENIENT:
                raise wire.Closed
            if state != "idle":
                made.unit.io(2)
        except wire.Closed:
            if what not in LENIENT:
                failures.append(f"{what}: the connection was closed")
            vmm = again(made, state)
        except AssertionError as error:
            failures.append(f"{what}: {error}")
            vmm = again(made, state)
    made.judged = state == "shadow"  # else lenient cases may have reached the back-end
    assert not failures, "\n".join(failures)
    made.fresh()
    made.units[1].io()


def refused(vmm, case):
    """Sends it with and without NEED_REPLY; whether it was refused."""
    id, payload, kinds = case
    for flags in (wire.VERSION | wire.NEED_REPLY, wire.VERSION):
        fds = files(kinds)
        try:
            vmm.post(id, payload, fds, flags)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise wire.Closed from error
        finally:
            for fd in fds:
                os.close(fd)
        if flags & wire.NEED_REPLY:
            status = reads_ack(vmm, id)
    vmm.quiet()
    return status != 0


def again(made, state):
    """A new session after a case that changed or ended the last one."""
    if state != "idle":
        made.fresh()
        return made.unit.vmm
    unit = made.unit
    unit.connect()
    unit.vmm.set_features(unit.vmm.acceptable())
    unit.vmm.update_memory()
    return unit.vmm


@pytest.mark.parametrize("state", STATES)
def test_get_vring_base_of_no_queue(bench, state):
    """Whatever the answer, there is one, of 8 bytes."""
    made, vmm = ready(bench, state)
    made.judged = False  # for some back-ends 4 queues are 4 pairs
    for index in (4, 8, 255, 0xFFFFFFFF):
        flags = wire.VERSION | wire.NEED_REPLY
        vmm.post(Id.GET_VRING_BASE, wire.vring_state(index, 0), flags=flags)
        try:
            vmm.reply(Id.GET_VRING_BASE, 8)
        except wire.Closed:
            made.fresh()
            vmm = made.unit.vmm
    made.units[1].io()


@pytest.mark.parametrize("state", ("pass-through", "shadow"))
def test_second_kick(bench, state):
    """QEMU never does it, crosvm's back-end refuses it, others take the new one: no leak, and
    the queue is served by one of the two."""
    made, vmm = ready(bench, state)
    made.judged = False
    queue = made.unit.guest.queues[0]
    before = made.svqd.fds()
    for _ in range(20):
        try:
            vmm.vring_kick(queue)
        except Refused:
            pass
    made.svqd.wait_fds(before)
    made.unit.io()


@pytest.mark.parametrize("state", STATES)
def test_log_base_cases(bench, state):
    """Offsets and sizes that overflow, or reach behind the file."""
    made, vmm = ready(bench, state)
    cases = {
        "offset + size wraps": (4096, TOP),
        "size wraps": (TOP, 4096),
        "behind the file": (2 * MIB, 0),
        "offset behind the file": (4096, MIB),
    }
    failures = []
    for what, (size, offset) in cases.items():
        fd = memfd(MIB)
        vmm.post(Id.SET_LOG_BASE, wire.LOG.pack(size, offset), [fd],
                 wire.VERSION | wire.NEED_REPLY)
        os.close(fd)
        reply = wire.receive(vmm.sock)  # an ack or a LOG payload
        if reply.payload in (bytes(8), wire.LOG.pack(size, offset)):
            failures.append(f"{what}: accepted")
        vmm.quiet()
    assert not failures, "\n".join(failures)
    if state != "idle":
        made.unit.io()
    made.units[1].io()


@pytest.mark.parametrize("order", [
    [Id.SET_VRING_ENABLE], [Id.SET_VRING_KICK], [Id.GET_VRING_BASE], [Id.SET_VRING_ADDR],
    [Id.SET_MEM_TABLE, Id.SET_VRING_KICK], [Id.CHECK_DEVICE_STATE], [Id.GET_CONFIG],
    [Id.SET_VRING_KICK, Id.SET_VRING_ENABLE, Id.GET_VRING_BASE], [Id.RESET_DEVICE],
    [Id.SET_LOG_BASE, Id.SET_VRING_ADDR], [Id.REM_MEM_REG, Id.GET_VRING_BASE],
    [Id.SET_STATUS, Id.GET_STATUS], [Id.NET_SET_MTU, Id.SEND_RARP],
], ids=lambda order: "-".join(id.name for id in order))
def test_out_of_order(bench, order):
    """Before anything was negotiated: an answer, a refusal or an end, then a good session."""
    made = bench(devices=2, start=False)
    made.judged = False
    made.units[1].start()
    for negotiated in (False, True):
        vmm = made.unit.dial(seconds=5.0)
        vmm.get_features()
        if negotiated:
            vmm.set_protocol_features(vmm.get_protocol_features())
        send_all(vmm, order)
        made.fresh()
    made.units[1].io()


def send_all(vmm, order):
    try:
        for id in order:
            post_good(vmm, id, random.Random(1))
        vmm.post(Id.GET_FEATURES)
        while wire.receive(vmm.sock).id != Id.GET_FEATURES:
            pass
    except (wire.Closed, BrokenPipeError, ConnectionResetError):
        pass


def post_good(vmm, id, pick):
    """A well-formed message of that id, about a random queue of the guest."""
    memory = vmm.guest.memory
    queue = pick.choice(vmm.guest.queues)
    region = memory.regions[-1]
    ring, uaddr = queue.ring, memory.uaddr
    index = queue.index
    words = {
        Id.SET_FEATURES: vmm.acceptable(), Id.SET_PROTOCOL_FEATURES: vmm.offered_protocol,
        Id.SET_VRING_KICK: index, Id.SET_VRING_CALL: index, Id.SET_VRING_ERR: index,
        Id.SET_STATUS: 0xF, Id.NET_SET_MTU: 1500, Id.SEND_RARP: 0,
    }
    states = {
        Id.SET_VRING_NUM: ring.num, Id.SET_VRING_BASE: 0, Id.GET_VRING_BASE: 0,
        Id.SET_VRING_ENABLE: pick.randint(0, 1),
    }
    payload, fds, made = b"", [], []
    if id in words:
        payload = wire.u64(words[id])
        event = {Id.SET_VRING_KICK: queue.kick, Id.SET_VRING_CALL: queue.call,
                 Id.SET_VRING_ERR: queue.err}.get(id)
        fds = [event.fd] if event else []
    elif id in states:
        payload = wire.vring_state(index, states[id])
    elif id == Id.SET_VRING_ADDR:
        payload = wire.vring_addr(
            index, uaddr(ring.desc_gpa), uaddr(ring.used_gpa), uaddr(ring.avail_gpa)
        )
    elif id == Id.SET_MEM_TABLE:
        payload, fds = memory.table(), memory.fds()
    elif id in (Id.ADD_MEM_REG, Id.REM_MEM_REG):
        payload = wire.mem_reg(*region.wire())
        fds = [region.fd] if id == Id.ADD_MEM_REG else []
    elif id == Id.SET_LOG_BASE:
        made = fds = [memfd(1 << 18)]
        payload = wire.LOG.pack(1 << 18, 0)
    elif id in (Id.GET_CONFIG, Id.SET_CONFIG):
        payload = wire.config(0, 8)
    vmm.post(id, payload, fds, wire.VERSION | pick.choice((0, wire.NEED_REPLY)))
    for fd in made:
        os.close(fd)


SHUFFLED = (
    Id.SET_FEATURES, Id.SET_MEM_TABLE, Id.SET_VRING_NUM, Id.SET_VRING_ADDR, Id.SET_VRING_BASE,
    Id.SET_VRING_KICK, Id.SET_VRING_CALL, Id.SET_VRING_ERR, Id.SET_VRING_ENABLE,
    Id.GET_VRING_BASE, Id.SET_LOG_BASE, Id.ADD_MEM_REG, Id.REM_MEM_REG, Id.GET_CONFIG,
    Id.SET_CONFIG, Id.RESET_DEVICE, Id.RESET_OWNER, Id.SET_OWNER, Id.NET_SET_MTU, Id.SEND_RARP,
    Id.GET_QUEUE_NUM, Id.GET_MAX_MEM_SLOTS, Id.CHECK_DEVICE_STATE,
)


@pytest.mark.parametrize("seed", range(6))
def test_random_order(bench, seed):
    """Random well-formed messages in random order while chains are on offer; the neighbour
    works, a good session follows, nothing leaks."""
    made = bench(devices=2, shadow=("on", "auto")[seed % 2], start=False)
    made.judged = False
    made.units[1].start()
    pick = random.Random(seed)
    for _ in range(10):
        vmm = made.unit.connect(seconds=5.0)
        made.unit.guest.restart()
        for queue in made.unit.guest.queues:
            for _ in range(4):
                queue.submit_random()
        send_all(vmm, pick.choices(SHUFFLED, k=40))
    made.units[1].io()
    made.fresh()
