"""QEMU guests with every combination of packed, event_idx and indirect_desc, before back-ends that
have and that lack them. One guest holds a device of each combination, so all run side by side.

Linux 6.1 never takes IN_ORDER, and QEMU 7.2 does not offer it: test_dpdk_rings.py has that.
"""

import itertools

import pytest

from peers import rings
from peers.guest import Guest, vhost_blk, vhost_net
from peers.mask import Mask
from peers.qmp import QmpError
from peers.storage import StorageDaemon
from peers.testpmd import Testpmd
from peers.toggle import Renewal
from peers.wait import Deadline, wait_for

pytestmark = pytest.mark.timeout(600)
ROUNDS = 16
FIRST_SLOT = 16
PART_MIB = 8
COMBINATIONS = [
    dict(zip(("packed", "event_idx", "indirect_desc"), on))
    for on in itertools.product((False, True), repeat=3)
]
BITS = {
    "packed": rings.PACKED,
    "event_idx": rings.EVENT_IDX,
    "indirect_desc": rings.INDIRECT_DESC,
}
STORAGE = rings.EVENT_IDX | rings.INDIRECT_DESC  # what qemu-storage-daemon has of them
VHOST_PORT = rings.ALL


class Device:
    """One of the guest's devices: a combination of ring features."""

    def __init__(self, number, combination):
        self.slot = FIRST_SLOT + number
        self.number = number
        self.ident = f"dev{number}"
        self.combination = combination
        self.progress = [0, 0]

    def acks(self, offered):
        """The ring features that the guest's driver takes of those."""
        return sum(BITS[name] for name, on in self.combination.items() if on) & offered


class Bank:
    """The devices of one guest behind one svqd, and the load on each of them."""

    def __init__(self, bench, wire, direct, sockets, has, lacks, options):
        if lacks:
            sockets = [Mask(bench, s, f"mask{n}", lacks).socket for n, s in enumerate(sockets)]
        self.direct = direct
        self.devices = [Device(number, c) for number, c in enumerate(COMBINATIONS)]
        self.has = has & ~lacks
        self.wanted = options.get("ring", "auto")
        self.steady = options.get("shadow") == "on"
        self.offered = self.has
        if not direct:
            names = {**BITS, "indirect": rings.INDIRECT_DESC}
            for name in filter(None, options.get("offer", "").split("+")):
                self.offered |= names[name]
        self.wiring = wire({d.ident: s for d, s in zip(self.devices, sockets)}, **options)

    def arguments(self, device_arguments):
        """QEMU's, for all devices."""
        for device in self.devices:
            yield from device_arguments(
                self.wiring.sockets[device.ident],
                ident=device.ident,
                addr=hex(device.slot),
                **device.combination,
            )

    def check_features(self, guest):
        """The guest took what it was offered, and svqd serves it as it should."""
        self.expected = {}
        for device in self.devices:
            acked = guest.acked_features(device.slot) & rings.ALL
            assert acked == device.acks(self.offered), (device.combination, hex(acked))
            self.expected[device] = rings.Expectation(acked, self.has, self.wanted)
        if not self.direct:
            self.check_status()

    def check_status(self):
        for device, expected in self.expected.items():
            expected.check_device(self.wiring.device(device.ident))

    def switch_all(self, guest, enable):
        """Switch the devices that can pass through; renew the others' policy."""
        for device, expected in self.expected.items():
            if expected.bound and not self.direct:
                Renewal(self.wiring).shadow(device.ident, enable)
            elif not self.steady:
                self.wiring.shadow(device.ident, enable)
        guest.assert_well()

    def rounds(self, guest, enough):
        """ROUNDS times: switch all; then every device's load must have gone on, checked."""
        for number in range(ROUNDS):
            self.switch_all(guest, number % 2 == 0)
            self.wait_load(guest, enough, f"round {number}")

    def wait_load(self, guest, enough, when):
        """Until every device has moved so much more, both ways."""
        tags = [device.ident for device in self.devices]
        before = guest.all_progress(tags)
        late = set(range(len(tags)))

        def moved():
            guest.assert_well()
            after = guest.all_progress(tags)
            for i in [*late]:
                if all(b - a >= enough for a, b in zip(before[i], after[i])):
                    late.discard(i)
            return not late

        try:
            wait_for(moved, f"load flows everywhere in {when}", 60)
        except Deadline as stall:
            stuck = [self.devices[i].combination for i in late]
            raise Deadline(f"{stall}: not on {stuck}") from None

    def check_refusals(self):
        """No bound device can be made to pass through."""
        for device, expected in self.expected.items():
            if expected.bound:
                with pytest.raises(QmpError) as refusal:
                    self.wiring.shadow(device.ident, False)
                assert refusal.value.error_class == "GenericError"
                names = rings.feature_names(expected.missing)
                assert all(name in refusal.value.desc for name in names), refusal.value.desc

    def end(self, guest):
        """What svqd tells at the end, and a clean one."""
        if not self.direct:
            self.check_refusals()
            self.switch_all(guest, True)
            self.check_status()
            for device, expected in self.expected.items():
                told = self.wiring.device(device.ident)
                switched = not (expected.bound or self.steady)
                assert told["switches"] == (ROUNDS + 1 if switched else 0), told
                for queue in told["queues"]:
                    assert "error" not in queue, queue
                assert sum(queue["chains"] for queue in told["queues"]) > 0, told
        guest.assert_no_trouble()
        self.wiring.assert_no_errors()
        guest.quit()
        self.wiring.assert_nothing_leaked()


@pytest.mark.parametrize(
    "lacks, options",
    [
        pytest.param(0, {"offer": "packed"}, id="storage-daemon"),
        # Not switched: to stop qemu-storage-daemon's rings, messages must reach it together.
        pytest.param(
            rings.ALL, {"offer": "packed+event_idx+indirect", "shadow": "on"}, id="bare"
        ),
    ],
)
def test_disks(bench, wire, need, kernel, initramfs, direct, lacks, options):
    """Verified I/O on eight disks; qemu-storage-daemon has split rings only."""
    need("qemu-storage-daemon", "qemu-utils")
    count = len(COMBINATIONS)
    storage = StorageDaemon(bench, mib=count * PART_MIB, exports=count, queues=2)
    bank = Bank(bench, wire, direct, storage.sockets, STORAGE, lacks, options)
    devices = bank.arguments(lambda *a, **k: vhost_blk(*a, queues=2, **k))
    guest = Guest(bench, kernel, initramfs, [*devices], cpus=2).wait_ready()
    bank.check_features(guest)
    for device in bank.devices:
        disk = guest.find_device(device.slot, "block")
        # All show the same image: each disk has a part of it to itself.
        first = device.number * PART_MIB
        guest.start(device.ident, f"churn disk /dev/{disk} {first} {PART_MIB} 2")
    bank.rounds(guest, 64 << 10)
    guest.finish("churn", *[device.ident for device in bank.devices])
    for device in bank.devices:
        disk = guest.find_device(device.slot, "block")
        assert guest.disk_checksum(disk) == storage.checksum(), device.combination
    bank.end(guest)


@pytest.mark.parametrize(
    "lacks, options",
    [
        pytest.param(0, {}, id="all"),
        pytest.param(rings.PACKED, {"offer": "packed"}, id="split"),
        pytest.param(0, {"ring": "packed"}, id="ring-packed"),
        pytest.param(rings.ALL, {"offer": "packed+event_idx+indirect"}, id="bare"),
    ],
)
def test_networks(bench, wire, need, kernel, initramfs, direct, lacks, options):
    """No echo reply is lost or changed on any of eight interfaces."""
    need("dpdk-testpmd", "dpdk-dev")
    sockets = [bench.path(f"net{number}.sock") for number in range(len(COMBINATIONS))]
    ports = [f"eth_vhost{number},iface={path}" for number, path in enumerate(sockets)]
    testpmd = Testpmd(bench, "testpmd", ports, "icmpecho", patient=True)
    bank = Bank(bench, wire, direct, sockets, VHOST_PORT, lacks, options)

    def arguments(*args, ident, **properties):
        mac = f"52:54:00:53:56:{int(ident[3:]):02x}"
        return vhost_net(*args, pairs=1, ident=ident, mac=mac, **properties)

    guest = Guest(bench, kernel, initramfs, [*bank.arguments(arguments)], cpus=2).wait_ready()
    bank.check_features(guest)
    for device in bank.devices:
        n, eth = device.number, guest.find_device(device.slot, "net")
        guest.run(
            f"ip addr add 10.77.{n}.2/24 dev {eth} && ip link set {eth} up && "
            f"arp -s 10.77.{n}.1 56:48:4f:53:54:{n:02x}"
        )
        guest.start(device.ident, f"pinger 10.77.{n}.1 {(56, 1400)[n % 2]} 50")
    bank.wait_load(guest, 1, "the beginning")
    bank.rounds(guest, 3)
    guest.finish("pinger", *[device.ident for device in bank.devices])
    for device in bank.devices:
        assert testpmd.stats(device.number)["ipackets"] >= 3 * ROUNDS
    bank.end(guest)
