"""ring= and offer=: what a guest is offered, what its back-end is acked, who may pass through."""

import itertools
import subprocess

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES, BackEnd
from svqwire.bench import AckingQemu
from svqwire.daemon import binary
from svqwire.guest import Guest
from svqwire.memory import MIB, GuestMemory
from svqwire.pairs import (ALL_RING_BITS, PACKED_FEATURES, RING_BITS, in_guest, offered,
                           ring_addresses, served)
from svqwire.qmp import QmpError

SUBSETS = [names for count in range(5) for names in itertools.combinations(RING_BITS, count)]
PLAIN = FEATURES & ~ALL_RING_BITS
HAVE = [(), ("packed",), ("event_idx", "indirect"), ("packed", "in_order"), tuple(RING_BITS)]
LAYOUT = ((0, 2 * MIB), (1 << 32, MIB))
SHOWN = {"event_idx": "event_idx", "indirect": "indirect_desc", "in_order": "in_order"}


def bits(names):
    return sum(RING_BITS[name] for name in names)


class Case:
    """One device of a running svqd: its keys, what its back-end has, what its guest acks."""

    def __init__(self, svqd, ring, shadow, have, offer):
        self.svqd, self.ring, self.shadow, self.have, self.offer = svqd, ring, shadow, have, offer
        self.features = PLAIN | bits(have)
        self.expected = offered(self.features, ring, bits(offer))

    def wants(self, turn):
        """All that it may, nothing, or every other feature."""
        possible = [name for name in RING_BITS if RING_BITS[name] & self.expected]
        self.wanted = (possible, [], possible[turn // 3 % 2 :: 2])[turn % 3]

    def run(self, folder, name):
        backend = BackEnd(folder / f"{name}.back", features=self.features)
        options = {option: option in self.wanted for option in RING_BITS}
        vm = Guest(1, memory=GuestMemory(LAYOUT), num=16, **options)
        keys = {"offer": "+".join(self.offer)} if self.offer else {}
        self.svqd.qmp.command(
            "device-add", id=name, frontend=str(folder / f"{name}.front"), ring=self.ring,
            backend=f"vhost-user:{backend.path}", shadow=self.shadow, descriptors="copied",
            **keys)
        vmm = AckingQemu(folder / f"{name}.front", vm)
        try:
            vmm.connect(config=False)
            assert vmm.offered & ALL_RING_BITS == self.expected
            vmm.start()
            self.check(name, vmm, backend)
        finally:
            vmm.close()
            backend.wait_disconnected()
            self.svqd.qmp.command("device-del", id=name)
            backend.close()
            vm.close()
        assert not backend.violations, backend.violations

    def check(self, name, vmm, backend):
        vmm.guest.io(6)
        acked, bound = served(self.features, self.ring, bits(self.wanted))
        assert backend.acked & ALL_RING_BITS == acked
        state = self.svqd.device(name)
        assert int(state["features"]["served"], 16) == backend.acked
        self.check_state(state, bound)
        self.check_ends(state["queues"][0], acked)
        if bound:
            assert self.svqd.refused(name, False).error_class == "GenericError"
        for enable in (True,) if bound else (self.shadow == "auto", self.shadow != "auto"):
            self.svqd.shadow(name, enable)
            vmm.guest.io(6)
        direct = {in_guest(vmm.guest.memory, address) for address in ring_addresses(backend)}
        assert direct == ({False} if bound else {False, True})
        assert vmm.stop() == [queue.ring.base() for queue in vmm.guest.queues]

    def check_state(self, state, bound):
        shadowed = bound or self.shadow == "on"
        assert state["mode"] == ("shadow" if shadowed else "pass-through")
        through = state["pass-through"]
        assert through["possible"] == (not bound)
        assert bool(through.get("reason")) == bound
        lacking = bits(self.wanted) & ~self.features
        for name, bit in RING_BITS.items() if lacking else ():
            assert (SHOWN.get(name, name) in through["reason"]) == bool(bit & lacking), through

    def check_ends(self, queue, acked):
        for end, has in (("guest", bits(self.wanted)), ("backend", acked)):
            assert queue[end]["format"] == ("packed" if has & wire.F_PACKED else "split")
            names = [SHOWN[name] for name in SHOWN if RING_BITS[name] & has]
            assert sorted(queue[end]["features"]) == sorted(names)

    def __str__(self):
        return f"back-end with {self.have}, offer={self.offer}, acked {self.wanted}"


@pytest.mark.parametrize("shadow", ["auto", "on"])
@pytest.mark.parametrize("ring", ["auto", "split", "packed"])
def test_every_subset(bench, folder, ring, shadow):
    svqd = bench(queues=1).svqd
    for turn, (have, offer) in enumerate(itertools.product(HAVE, SUBSETS)):
        if ring == "packed" and "packed" not in have:
            continue
        case = Case(svqd, ring, shadow, have, offer[::-1] if turn % 2 else offer)
        case.wants(turn)
        try:
            case.run(folder, f"d{turn}")
        except AssertionError as error:
            raise AssertionError(str(case)) from error


def test_no_packed_rings_to_choose(bench):
    """ring=packed with a back-end that has none: told at once, and another session is tried."""
    made = bench(devices=2, start=False, keys=dict(ring="packed"))
    made.units[1].start()
    for _ in range(3):
        vmm = made.unit.dial()
        assert vmm.closed_by_peer()
        event = made.qmp.wait_event("DEVICE_ERROR", id="dev0")
        assert "packed" in event["data"]["reason"], event
    made.svqd.wait_log(r"error: .*dev0.*packed")
    made.unit.hang_up()
    made.unit.backend.wait_disconnected()
    made.unit.backend.features |= wire.F_PACKED
    made.fresh()
    assert made.svqd.queue("dev0", 0)["backend"]["format"] == "packed"
    made.units[1].io()


REFUSED = [dict(offer="packed"), dict(ring="split"), dict(ring="packed"),
           dict(offer="event_idx", ring="packed")]


@pytest.mark.parametrize("keys", REFUSED, ids=str)
def test_not_with_shadow_off(bench, folder, keys):
    """What needs the shadow does not go with shadow=off: on the command line, in QMP, later."""
    made = bench(keys=keys, backend_options=dict(features=PACKED_FEATURES))
    name = next(iter(keys))
    for change in (
        lambda: made.qmp.command("device-set-shadow", id="dev0", shadow="off"),
        lambda: made.qmp.command(
            "device-add", id="new", frontend=str(folder / "new"), backend="vhost-user:/x",
            shadow="off", **keys),
    ):
        with pytest.raises(QmpError) as raised:
            change()
        assert raised.value.error_class == "GenericError"
        assert any(word in raised.value.desc for word in (name, "packed")), raised.value.desc
    made.unit.io()
    assert [d["id"] for d in made.qmp.command("query-devices")] == ["dev0"]
    words = {"id": "x", "frontend": folder / "f", "backend": "vhost-user:/x", "shadow": "off",
             **keys}
    device = ",".join(f"{key}={value}" for key, value in words.items())
    run = subprocess.run([binary(), "--device", device], capture_output=True, text=True, timeout=20)
    assert run.returncode != 0 and f"{name}=" in run.stderr, run.stderr


def test_ring_auto_goes_with_shadow_off(bench):
    made = bench(keys=dict(ring="auto"), shadow="off", packed=True,
                 backend_options=dict(features=PACKED_FEATURES))
    made.unit.io()
    assert made.svqd.device("dev0")["mode"] == "pass-through"


def test_features_change_between_starts(bench):
    """QEMU starts twice: firmware with split rings, then Linux with packed ones that the back-end
    lacks, then firmware again: bound to the shadow only in between."""
    made = bench(start=False, packed=False, event_idx=False, indirect=False,
                 keys=dict(offer="packed+in_order"))
    unit, svqd = made.unit, made.svqd
    unit.start()
    for is_packed in (False, True, False, True):
        unit.vmm.stop()
        unit.guest.restart(packed=is_packed, event_idx=is_packed, num=100 if is_packed else 16)
        start = len(unit.backend.log)
        unit.vmm.start()
        unit.io()
        state = svqd.device("dev0")
        assert state["pass-through"]["possible"] == (not is_packed)
        assert state["mode"] == ("shadow" if is_packed else "pass-through")
        direct = {in_guest(unit.guest.memory, a) for a in ring_addresses(unit.backend, start)}
        assert direct == {not is_packed}
        if not is_packed:
            svqd.shadow("dev0", True)
            unit.io()
    unit.vmm.stop()


MASKED = {
    wire.bit(24): "notify_on_empty", wire.F_NOTIFICATION_DATA: "notification_data",
    wire.bit(37): "sr_iov", wire.bit(39): "notif_config_data", wire.bit(41): "admin_vq",
}


@pytest.mark.parametrize("shadow", ["auto", "on", "off"])
def test_masked_features(bench, shadow):
    """What no relay can carry is not offered, and status says why, for each."""
    features = FEATURES | wire.F_RING_RESET | sum(MASKED)
    made = bench(shadow=shadow, backend_options=dict(features=features))
    vmm = made.unit.vmm
    assert not vmm.offered & sum(MASKED)
    assert vmm.offered & wire.F_RING_RESET
    masked = made.svqd.device("dev0")["masked-features"]
    assert sorted(one["feature"] for one in masked) == sorted(MASKED.values())
    reasons = {one["feature"]: one["reason"] for one in masked}
    assert all(len(reason) > 10 for reason in reasons.values()), reasons
    assert "eventfd" in reasons["notification_data"]
    assert not made.unit.backend.acked & sum(MASKED)
    made.unit.io()


@pytest.mark.parametrize("has", [0, wire.F_NOTIFICATION_DATA, wire.F_RING_RESET])
def test_nothing_of_the_sort_is_invented(bench, has):
    """A back-end without it: neither offered nor listed as masked."""
    made = bench(backend_options=dict(features=FEATURES | has))
    unit = made.unit
    assert bool(unit.vmm.offered & wire.F_RING_RESET) == (has == wire.F_RING_RESET)
    masked = [one["feature"] for one in made.svqd.device("dev0")["masked-features"]]
    assert masked == (["notification_data"] if has == wire.F_NOTIFICATION_DATA else [])
    unit.io()
