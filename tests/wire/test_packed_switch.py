"""Switches of packed rings: under load, with each back-end, and the bases that go either way."""

import pytest
from svqwire import message as wire
from svqwire import packed
from svqwire.bench import Bench
from svqwire.flavours import FLAVOURS, PACKED_FLAVOURS
from svqwire.load import Load
from svqwire.pairs import PACKED_FEATURES, bases_told, in_guest, ring_addresses
from svqwire.wait import wait_until

ODD = 61


@pytest.fixture
def packing(folder, closing):
    """A function that makes a bench with packed rings on both sides."""

    def make(flavour="plain", **options):
        features = PACKED_FEATURES & ~(wire.F_EVENT_IDX if flavour == "spdk" else 0)
        rings = dict(packed=True, event_idx=flavour != "spdk", num=ODD,
                     backend_options=dict(features=features))
        return closing(Bench(folder, backend=FLAVOURS[flavour], **{**rings, **options}))

    return make


def half(backend):
    return 0xFFFF if backend.half_base else 0xFFFFFFFF


def direct_bases(unit, queue, start):
    """The bases of the guest's own ring that went to the back-end since `start`."""
    messages = [m for m in unit.backend.log[start:]
                if m.id in (wire.Id.SET_VRING_BASE, wire.Id.SET_VRING_ADDR)]
    bases, base = [], None
    for message in messages:
        if message.id == wire.Id.SET_VRING_BASE:
            index, value = wire.VRING_STATE.unpack(message.payload)
            base = value if index == queue.index else base
        elif message.payload[0] == queue.index and in_guest(
                unit.guest.memory, wire.VRING_ADDR.unpack(message.payload)[2]):
            bases.append(base)
    return bases


@pytest.mark.parametrize("flavour", PACKED_FLAVOURS)
def test_toggles_under_load(packing, flavour):
    made = packing(flavour, queues=4)
    load = Load(made.unit.guest, depth=8)
    for turn in range(60):
        made.svqd.shadow("dev0", turn % 2 == 0)
        load.wait_rounds(1)
    load.close()
    state = made.svqd.device("dev0")
    assert (state["switches"], state["mode"]) == (60, "pass-through")
    assert all(queue.ring.untouched() for queue in made.unit.guest.queues)
    for queue in made.unit.guest.queues:
        bases = direct_bases(made.unit, queue, 0)
        assert len(bases) == 31 and bases[0] == packed.START
        for base in bases[1:]:
            assert base >> 16 == base & 0xFFFF, "in flight, or not known, at a switch"
            assert base & 0x7FFF < ODD
        shadow = [base for base in bases_told(made.unit.backend, queue.index)]
        assert shadow.count(packed.START) >= 30
        assert made.unit.vmm.get_vring_base(queue) == queue.ring.base() & half(made.unit.backend)


@pytest.mark.parametrize("flavour", ["plain", "dpdk"])
@pytest.mark.parametrize("rings", [dict(event_idx=False, indirect=False), dict(in_order=True)],
                         ids=["plain", "in-order"])
def test_toggles_of_other_rings(packing, flavour, rings):
    made = packing(flavour, **rings, backend_options=dict(
        features=PACKED_FEATURES | wire.F_IN_ORDER))
    load = Load(made.unit.guest, depth=8)
    for turn in range(50):
        made.svqd.shadow("dev0", turn % 2 == 0)
        load.wait_rounds(1)
    load.close()
    assert all(queue.ring.untouched() for queue in made.unit.guest.queues)


@pytest.mark.parametrize("flavour", ["plain", "dpdk"])
def test_bases_at_every_place(packing, flavour):
    """A ring at rest, switched at each place of two laps: the base is that place, both times."""
    made = packing(flavour, queues=1, num=5)
    unit = made.unit
    queue = unit.guest.queues[0]
    for place in range(11):
        for enable in (True, False):
            start = len(unit.backend.log)
            made.svqd.shadow("dev0", enable)
            expected = [] if enable else [queue.ring.base()]
            assert direct_bases(unit, queue, start) == expected
            if enable:
                state = made.svqd.queue("dev0", 0)["guest"]
                assert (state["avail-idx"], state["avail-wrap"]) == (place % 5, place % 10 < 5)
        queue.submit([b"x"], [3])
        queue.complete(1)
        made.svqd.shadow("dev0", False)


@pytest.mark.parametrize("flavour", ["plain", "dpdk"])
def test_starts_at_every_place(packing, flavour):
    """Stops and starts of the front-end, in each mode; a front-end that knows half of a base."""
    for shadow in ("auto", "on"):
        made = packing(flavour, queues=1, num=5, shadow=shadow)
        unit = made.unit
        queue = unit.guest.queues[0]
        for place in range(11):
            base = unit.vmm.get_vring_base(queue)
            passed = half(unit.backend) if shadow == "auto" else 0xFFFFFFFF
            assert base == queue.ring.base() & passed
            unit.vmm.start_queue(queue, base & (0xFFFF if place % 3 else 0xFFFFFFFF))
            unit.vmm.vring_enable(queue)
            assert queue.ring.avail == place
            queue.submit([b"x"], [3])
            queue.complete(1)
        made.close()
        made.unit.folder.joinpath("qmp.sock").unlink(missing_ok=True)
        made.unit.folder.joinpath("dev0.back").unlink(missing_ok=True)


def test_half_a_base_to_start_with(packing):
    """0x8000, as DPDK's virtio-user sends it, and a restart with it after a reset."""
    made = packing(start=False, shadow="on")
    unit = made.unit
    vmm = unit.connect()
    for turn in range(3):
        unit.guest.restart()
        vmm.start([0x8000] * 2)
        vmm.sync()
        unit.io(20)
        made.svqd.shadow("dev0", turn % 2 == 1)
        unit.io(20)
        vmm.stop()


# A back-end may answer before it has completed everything; the others wait until they have.
@pytest.mark.parametrize("flavour, drain", [(name, "before") for name in PACKED_FLAVOURS]
                         + [("plain", "after"), ("rust-vmm", "after")])
@pytest.mark.parametrize("order", ["fifo", "lifo"])
def test_requests_held_at_a_switch(packing, flavour, drain, order):
    made = packing(flavour)
    unit = made.unit
    unit.backend.drain, unit.backend.order = drain, order
    for enable in (True, False) * 3:
        unit.backend.hold = True
        for queue in unit.guest.queues:
            for _ in range(5):
                queue.submit_random()
        wait_until(lambda: unit.backend.held() == 10, "the requests to be held")
        unit.backend.run(lambda: setattr(unit.backend, "hold", False))
        made.svqd.shadow("dev0", enable)
        if drain == "after":
            assert all(queue.ring.all_used() for queue in unit.guest.queues), "not drained"
        unit.guest.drain()
        unit.io()
    assert all(queue.ring.untouched() for queue in unit.guest.queues)


def test_early_answers_under_load(packing):
    """The same while the guest goes on submitting."""
    made = packing()
    made.unit.backend.drain = "after"
    load = Load(made.unit.guest, depth=8)
    for turn in range(12):
        made.unit.backend.hold = turn % 3 == 0
        if made.unit.backend.hold:
            wait_until(made.unit.backend.held, "requests to be held")
        made.unit.backend.run(lambda: setattr(made.unit.backend, "hold", False))
        made.svqd.shadow("dev0", turn % 2 == 0)
        load.wait_rounds(1)
    load.close()


def test_requests_never_completed(packing):
    """A back-end that forgets what it took: the switch is refused in its time, every mode serves
    on, and nothing is done twice."""
    made = packing(keys={"drain-timeout": 0.3, "message-timeout": 2})
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


def test_the_kick_and_the_call_at_a_switch(packing):
    """Chains that nobody kicked for, completions that nobody called for."""
    made = packing(event_idx=False)
    backend = made.unit.backend
    for enable in (True, False) * 4:
        for queue in made.unit.guest.queues:
            queue.ring.add([b"unkicked"], [32])
            queue.ring.publish()
        made.svqd.shadow("dev0", enable)
        for queue in made.unit.guest.queues:
            queue.complete(1)
            back = backend.queues[queue.index]
            backend.run(lambda back=back: setattr(back, "signal", lambda _: 0))
            before = back.chains
            queue.submit([b"uncalled"], [32])
            wait_until(lambda: back.chains > before, "the completion")
            backend.run(lambda back=back: delattr(back, "signal"))
            queue.call.take()
        made.svqd.shadow("dev0", not enable)
        for queue in made.unit.guest.queues:
            assert queue.call.wait(5), "completions without a call"
            queue.complete(1)
        made.svqd.shadow("dev0", enable)


def test_suppression_left_behind(packing):
    """After a switch no device area says "no kicks", whoever wrote it last."""
    made = packing("dpdk")  # polls, and writes DISABLE
    unit = made.unit
    for enable in (True, False) * 3:
        unit.io(20)
        made.svqd.shadow("dev0", enable)
        unit.io(20)
    made.svqd.shadow("dev0", True)
    unit.io(4)
    for queue in unit.guest.queues:
        unit.vmm.vring_enable(queue, 0)
        assert queue.ring.device.get()[0] != packed.DISABLE
        unit.vmm.vring_enable(queue, 1)
    unit.io(20)


def test_memory_table_under_load(packing):
    """The ring moves in svqd's address space while requests are under way."""
    made = packing(shadow="on", backend_options=dict(
        features=PACKED_FEATURES, protocol=wire.P_MQ | wire.P_REPLY_ACK))
    load, memory = Load(made.unit.guest), made.unit.guest.memory
    for number in range(12):
        load.wait_rounds(1)
        memory.add((number + 8) << 32, 1 << 20, 0x7C0000000000 + (number << 24))
        made.unit.vmm.update_memory()
        if len(memory.regions) > 5:
            memory.remove(memory.regions[2])
    load.wait_rounds(2)
    load.close()


def test_shadow_rings_are_svqd_s_own(packing):
    """In shadow mode the back-end knows no area of the guest's ring; in pass-through no other."""
    made = packing("dpdk")
    for enable in (True, False):
        start = len(made.unit.backend.log)
        made.svqd.shadow("dev0", enable)
        areas = [address for message in made.unit.backend.log[start:]
                 if message.id == wire.Id.SET_VRING_ADDR
                 for address in wire.VRING_ADDR.unpack(message.payload)[2:5]]
        assert len(areas) == 6
        assert {in_guest(made.unit.guest.memory, area) for area in areas} == {not enable}
        assert ring_addresses(made.unit.backend, start)
        made.unit.io()


@pytest.mark.parametrize("flavour", ["plain", "dpdk"])
def test_split_rings_after_packed_ones(packing, flavour):
    """The same connection with the other format."""
    made = packing(flavour, shadow="on")
    unit = made.unit
    for turn in range(4):
        unit.io(12)
        made.svqd.shadow("dev0", turn % 2 == 0)
        unit.io(12)
        unit.vmm.stop()
        unit.guest.restart(packed=turn % 2 == 1, num=64)
        unit.vmm.start()
    unit.io()
