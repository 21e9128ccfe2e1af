"""The switch: under load, with each kind of back-end, and the gaps the RFC left."""

import threading

import pytest
from svqwire import message as wire
from svqwire.backend import PROTOCOL
from svqwire.bench import Bench
from svqwire.flavours import FLAVOURS, Dpdk
from svqwire.frontend import Refused
from svqwire.load import Load
from svqwire.memory import MIB, GuestMemory
from svqwire.qmp import Qmp, QmpError
from svqwire.wait import wait_until

SECOND = 1_000_000  # microseconds


def rings(flavour):
    """The guest's ring features, of those that this back-end offers."""
    return {"event_idx": flavour not in ("spdk",), "indirect": True}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_toggles_under_load(bench, flavour):
    made = bench(backend=FLAVOURS[flavour], queues=4, **rings(flavour))
    load = Load(made.unit.guest, depth=8)
    for turn in range(50):
        made.svqd.shadow("dev0", turn % 2 == 0)
        load.wait_rounds(1)
    load.close()
    state = made.svqd.device("dev0")
    assert (state["switches"], state["mode"]) == (50, "pass-through")
    assert state["last-switch"]["microseconds"] < SECOND
    made.unit.vmm.stop()


@pytest.mark.parametrize("workers, poll", [(2, 50), (3, 0), (1, 2000)])
def test_toggles_with_workers(bench, workers, poll):
    made = bench(queues=4, arguments=["--workers", str(workers), "--poll-us", str(poll)])
    load = Load(made.unit.guest, depth=8)
    for turn in range(40):
        made.svqd.shadow("dev0", turn % 2 == 0)
        load.wait_rounds(1)
    load.close()


# Those of the others that wait for their requests do so before they answer.
EARLY = [("plain", "after"), ("rust-vmm", "after")]


@pytest.mark.parametrize("flavour, drain", [(name, "before") for name in FLAVOURS] + EARLY)
def test_requests_held_at_a_switch(bench, flavour, drain):
    """What the back-end holds is completed before, or only after it has given its index."""
    made = bench(backend=FLAVOURS[flavour], **rings(flavour))
    unit = made.unit
    unit.backend.drain = drain
    for enable in (True, False, True, False):
        unit.backend.hold = True
        count = 5 * len(unit.guest.queues)
        for queue in unit.guest.queues:
            for _ in range(5):
                queue.submit_random()
        wait_until(lambda: unit.backend.held() == count, "the requests to be held")
        unit.backend.order = "lifo" if enable else "fifo"
        unit.backend.run(lambda: setattr(unit.backend, "hold", False))
        made.svqd.shadow("dev0", enable)
        unit.guest.drain()
        unit.io()


def test_an_event_index_from_anywhere(bench):
    """A back-end that polls leaves its event index where it was, or anywhere. That is no work in
    flight, for which a ring that is run dry would be waited for: half a second."""
    made = bench(backend=FLAVOURS["libvhost-user"], event_idx=True)
    for _ in range(3):
        made.unit.io()
        for queue in made.unit.guest.queues:
            ring = queue.ring
            ring.used[2 + 4 * ring.num] = ring.avail_idx + 100 & 0xFFFF
        made.svqd.shadow("dev0", True)
        assert made.svqd.device("dev0")["last-switch"]["microseconds"] < SECOND // 4
        made.unit.io()
        made.svqd.shadow("dev0", False)


def test_requests_never_completed(bench):
    """A back-end that forgets what it took: the switch says so in its time, and what comes
    later is served."""
    made = bench(keys={"drain-timeout": 0.3, "message-timeout": 2})
    unit = made.unit
    unit.backend.drain, unit.backend.hold = "never", True
    for queue in unit.guest.queues:
        queue.submit([b"forgotten"], [16])
    wait_until(lambda: unit.backend.held() == 2, "the requests to be held")
    error = made.svqd.refused("dev0", True)
    assert "Error enabling (see monitor)" in error.desc
    made.svqd.wait_log(r"error: .*dev0")
    assert made.svqd.device("dev0")["mode"] in ("pass-through", "stopped")
    unit.backend.hold, unit.backend.drain = False, "before"
    made.fresh()


def test_the_kick_at_a_switch(bench):
    """Chains that were published and not kicked for are found, in both directions."""
    made = bench(event_idx=False)
    for enable in (True, False) * 3:
        for queue in made.unit.guest.queues:
            queue.ring.add([b"unkicked"], [32])
            queue.ring.publish()
        made.svqd.shadow("dev0", enable)
        for queue in made.unit.guest.queues:
            queue.complete(1)


def test_the_call_at_a_switch(bench):
    """Completions that the back-end called nobody for are called for at the switch."""
    made = bench(event_idx=False)
    backend = made.unit.backend
    for enable in (True, False) * 3:
        for queue in made.unit.guest.queues:
            backend.run(lambda i=queue.index: setattr(backend.queues[i], "signal", lambda _: 0))
            before = backend.queues[queue.index].chains
            queue.submit([b"uncalled"], [32])
            wait_until(lambda: backend.queues[queue.index].chains > before, "the completion")
            backend.run(lambda i=queue.index: delattr(backend.queues[i], "signal"))
            queue.call.take()
        made.svqd.shadow("dev0", enable)
        for queue in made.unit.guest.queues:
            assert queue.call.wait(5), "completions without a call"
            queue.complete(1)


def test_pending_kick_survives(bench):
    """A kick that nobody read yet, at the moment the kick changes hands."""
    made = bench()
    backend = made.unit.backend
    for turn in range(20):
        for queue in made.unit.guest.queues:
            backend.run(lambda i=queue.index: backend.unwatch(backend.queues[i].kick))
            queue.submit([b"pending"], [32])
        made.svqd.shadow("dev0", turn % 2 == 0)
        for queue in made.unit.guest.queues:
            queue.complete(1)


def test_shadow_rings_are_svqd_s_own(bench):
    """In shadow mode the back-end knows no ring of the guest; in pass-through no other. (The
    guest's descriptors alone it may have: test_shared.py.)"""
    made = bench(shadow="on", keys={"descriptors": "copied"})
    unit = made.unit
    memory = unit.guest.memory
    theirs = [(r.uaddr, r.uaddr + r.size) for r in memory.regions]

    def in_guest():
        return [any(low <= queue.addr[0] < high for low, high in theirs)
                for queue in unit.backend.queues[:2]]

    assert in_guest() == [False, False]
    made.svqd.shadow("dev0", False)
    assert in_guest() == [True, True]


def test_shadow_region(bench):
    """Ascending, unused addresses, 2 MiB sized and aligned for back-ends that map such pieces."""
    made = bench()
    ours = {region.gpa for region in made.unit.guest.memory.regions}
    regions = made.unit.backend.memory.regions
    extra = [region for region in regions if region[0] not in ours]
    assert len(extra) == 1, regions
    gpa, size, uaddr, _ = extra[0]
    assert gpa > max(ours) and gpa % (2 * MIB) == 0 and size % (2 * MIB) == 0
    assert uaddr % (2 * MIB) == 0


@pytest.mark.parametrize("queues, num", [(1, 1024), (2, 32768), (8, 4096), (4, 1), (4, 2)])
def test_ring_sizes(folder, closing, queues, num):
    """A switch either works or is refused with a reason; the device serves in any case."""
    memory = GuestMemory(((0, 64 * MIB),))
    made = closing(Bench(folder, queues=queues, num=num, memory=memory,
                         indirect=True, backend_options=dict(queues=queues)))
    depth = min(num, 16)
    for enable in (True, False, True):
        for queue in made.unit.guest.queues:
            queue.io(3 * depth, depth)
        try:
            made.svqd.shadow("dev0", enable)
        except QmpError as error:
            assert queues * num > 32768, error
            assert "Error enabling (see monitor)" in error.desc
        for queue in made.unit.guest.queues:
            queue.io(3 * depth, depth)


def test_eight_regions(folder, closing):
    """A back-end with room for 8, all of them the VMM's."""
    layout = [(n << 30, MIB) for n in range(7)] + [(8 << 30, 4 * MIB)]
    memory = GuestMemory(((0, 8 * MIB), *layout[1:]))
    made = closing(Bench(folder, backend=Dpdk, memory=memory))
    made.alive()
    try:
        made.svqd.shadow("dev0", True)
    except QmpError as error:
        assert "Error enabling (see monitor)" in error.desc
        made.svqd.wait_log("region")
    made.alive()


@pytest.mark.parametrize("mode", ["pass-through", "shadow"])
@pytest.mark.parametrize("what", ["gpa", "uaddr"])
def test_memory_where_svqd_s_is(bench, mode, what):
    """The VMM adds memory at the very place that svqd chose for itself: refused or taken."""
    made = bench(devices=2, shadow="on" if mode == "shadow" else "auto")
    unit = made.unit
    ours = {region.gpa for region in unit.guest.memory.regions}
    gpa, size, uaddr, _ = next(r for r in unit.backend.memory.regions if r[0] not in ours)
    place = (gpa, 0x7B0000000000) if what == "gpa" else (1 << 36, uaddr)
    region = unit.guest.memory.add(place[0], size, place[1])
    try:
        unit.vmm.update_memory()
    except Refused:
        unit.guest.memory.remove(region)
    else:
        for queue in unit.guest.queues:
            for pool in queue.ring.buffers.values():
                pool.region, pool.free = 2, {}
    for enable in (True, False):
        unit.io()
        made.svqd.shadow("dev0", enable)
    unit.io()


@pytest.mark.parametrize("what", ["gpa", "uaddr"])
def test_table_where_svqd_s_is(bench, what):
    """The same with a whole new table, while the shadow rings are in use."""
    protocol = PROTOCOL & ~wire.P_MEM_SLOTS
    made = bench(devices=2, shadow="on", backend_options=dict(protocol=protocol))
    unit = made.unit
    ours = {region.gpa for region in unit.guest.memory.regions}
    gpa, size, uaddr, _ = next(r for r in unit.backend.memory.regions if r[0] not in ours)
    place = (gpa, 0x7B0000000000) if what == "gpa" else (1 << 36, uaddr)
    region = unit.guest.memory.add(place[0], size, place[1])
    try:
        unit.vmm.update_memory()
    except Refused:
        unit.guest.memory.remove(region)
    unit.io()
    made.svqd.shadow("dev0", False)
    unit.io()


def test_last_region_goes_while_shadowing(bench):
    """The VMM's new table fills all 8 places, the one of the shadow rings included."""
    protocol = PROTOCOL & ~wire.P_MEM_SLOTS
    made = bench(devices=2, shadow="on", backend_options=dict(protocol=protocol))
    unit = made.unit
    for number in range(6):
        unit.guest.memory.add((number + 8) << 32, MIB, 0x7C0000000000 + (number << 24))
    try:
        unit.vmm.update_memory()
    except Refused:
        pass
    unit.io()
    made.units[1].io()


@pytest.mark.parametrize("shadow", ["on", "auto"])
def test_memory_table_under_load(bench, shadow):
    """A whole new table while requests are under way."""
    protocol = PROTOCOL & ~wire.P_MEM_SLOTS
    made = bench(shadow=shadow, backend_options=dict(protocol=protocol))
    load, memory, added = Load(made.unit.guest), made.unit.guest.memory, []
    for number in range(20):
        load.wait_rounds(1)
        uaddr = 0x7C0000000000 + (number << 24)
        added.append(memory.add((number + 8) << 32, MIB, uaddr))
        made.unit.vmm.update_memory()
        if len(added) > 4:
            memory.remove(added.pop(0))
            made.unit.vmm.update_memory()
    load.wait_rounds(2)
    load.close()


def test_region_in_use_is_removed(bench):
    """Requests in it are under way: refused or lost, but nobody crashes."""
    made = bench(devices=2, shadow="on")
    made.judged = False
    unit = made.unit
    region = unit.guest.memory.add(1 << 34, MIB, 0x7C0000000000)
    unit.vmm.update_memory()
    for queue in unit.guest.queues:
        queue.ring.buffers["w"].region, queue.ring.buffers["w"].free = 2, {}
    unit.backend.hold = True
    for queue in unit.guest.queues:
        queue.submit([b"in use"], [4096])
    wait_until(lambda: unit.backend.held() == 2, "the requests to be held")
    payload = wire.mem_reg(region.gpa, region.size, region.uaddr)
    unit.vmm.post(wire.Id.REM_MEM_REG, payload)
    unit.backend.hold = False
    made.units[1].io()
    made.svqd.device("dev0")
    unit.hang_up()
    unit.backend.wait_disconnected()
    unit.guest.memory.remove(region)
    unit.guest.memory.next.pop(2, None)
    for queue in unit.guest.queues:
        queue.ring.buffers["w"].region, queue.ring.buffers["w"].free = 0, {}
    made.fresh()


def test_reset_device(bench):
    made = bench(devices=2, shadow="on")
    unit = made.unit
    for _ in range(3):
        unit.io()
        unit.vmm.tell(wire.Id.RESET_DEVICE)
        unit.guest.restart()
        unit.vmm.start()
        unit.vmm.sync()
        unit.io()
    assert made.svqd.device("dev0")["mode"] == "shadow"


def test_queue_enabled_after_the_switch(bench):
    """A queue that is started and not enabled takes part in a switch and starts later."""
    made = bench(queues=3)
    unit, last = made.unit, made.unit.guest.queues[2]
    unit.vmm.vring_enable(last, 0)
    unit.vmm.sync()
    for enable in (True, False, True):
        last.submit([b"early"], [32])
        made.svqd.shadow("dev0", enable)
        for queue in unit.guest.queues[:2]:
            queue.io()
        assert not last.ring.all_used(), "a disabled queue was served"
        unit.vmm.vring_enable(last, 1)
        last.complete(1)
        unit.vmm.vring_enable(last, 0)
        unit.vmm.sync()


def test_queue_started_after_the_switch(bench):
    """The guest starts a further queue while the others are shadowed."""
    made = bench(queues=3, start=False)
    unit = made.unit
    vmm = unit.connect()
    last = unit.guest.queues.pop()
    vmm.start()
    vmm.sync()
    for enable in (True, False):
        made.svqd.shadow("dev0", enable)
        vmm.start_queue(last, last.ring.start_base)
        vmm.vring_enable(last)
        vmm.vring_call(last)
        vmm.sync()
        last.io()
        unit.io()
        vmm.vring_enable(last, 0)
        assert vmm.get_vring_base(last) == last.ring.base()
        last.ring.restart()
    unit.guest.queues.append(last)


def test_one_queue_stops_and_starts(bench):
    """GET_VRING_BASE of one queue leaves the others running, in each mode."""
    made = bench(queues=3)
    unit = made.unit
    for enable in (True, False, True):
        made.svqd.shadow("dev0", enable)
        queue = unit.guest.queues[1]
        base = unit.vmm.get_vring_base(queue)
        assert base == queue.ring.base()
        for other in (unit.guest.queues[0], unit.guest.queues[2]):
            other.io()
        unit.vmm.start_queue(queue, base)
        unit.vmm.vring_call(queue)
        unit.vmm.vring_enable(queue)
        unit.io()


def test_commands_from_many_clients(bench, closing):
    """Switches of the same device from several clients at once, while I/O runs."""
    made = bench()
    load = Load(made.unit.guest)
    errors = []

    def switch(enable):
        client = Qmp(made.svqd.qmp_path)
        try:
            for turn in range(25):
                client.command("x-vhost-enable-shadow-vq", name="dev0", enable=turn % 2 == enable)
                client.command("query-devices")
        except Exception as error:
            errors.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=switch, args=(n % 2,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors, errors
    load.wait_rounds(1)
    load.close()


def test_deleted_in_a_switch(bench):
    """device-del while a switch waits for the back-end's drain."""
    made = bench(devices=2, keys={"message-timeout": 1, "drain-timeout": 1})
    unit = made.unit
    client = Qmp(made.svqd.qmp_path)
    thread = threading.Thread(target=lambda: delete(client), daemon=True)
    unit.backend.fault("call", wire.Id.GET_VRING_BASE, call=thread.start)
    try:
        made.svqd.shadow("dev0", True)
    except QmpError as error:
        assert error.error_class in ("GenericError", "DeviceNotFound")
    thread.join(10)
    client.close()
    assert unit.vmm.closed_by_peer()
    assert [d["id"] for d in made.qmp.command("query-devices")] == ["dev1"]
    made.units[1].io()
    made.idle_fds = 10**6  # one device fewer


def delete(client):
    client.command("device-del", id="dev0")
