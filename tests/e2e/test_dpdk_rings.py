"""DPDK's ring options, all sixteen, before back-ends that have and that lack what they ask for.

Every packet is numbered and checked: in order, unchanged, none twice, none lost. The back-end is
testpmd's vhost port, which retries what a stopped ring does not take.
"""

import itertools
from pathlib import Path

import pytest

from peers import rings
from peers.mask import Mask
from peers.packets import WINDOW, PacketLoop
from peers.qmp import QmpError
from peers.testpmd import Testpmd, vhost_port, virtio_user_port
from peers.toggle import Renewal, toggle_under_load
from peers.wait import wait_for

SWITCHES = 100
SIZES = [60, 64, 333, 1024, 1514]
JUMBO_SIZES = [*SIZES, 2000, 4096, 9000]
# A packet that was sent after a switch has come back when more than a window's worth have.
ENOUGH = WINDOW + 1
OPTIONS = ("packed", "in_order", "mergeable", "vectorized")
VHOST_PORT = rings.ALL  # what DPDK's own back-end has of them

# name: what is taken from the back-end, svqd's options, which front-ends meet it
BACKENDS = {
    "all": (0, {}, lambda front: True),
    "split": (rings.PACKED, {"offer": "packed"}, lambda front: True),
    # The other way round; a front-end with packed rings would find what it finds in "all".
    # Vectorized code writes the same rings: it has met the back-ends above.
    "ring-packed": (
        0,
        {"ring": "packed"},
        lambda front: not front["packed"] and not front["vectorized"],
    ),
    # All that DPDK's front-end can want is added.
    "bare": (
        rings.ALL,
        {"offer": "packed+in_order+indirect"},
        lambda front: front["packed"] and not front["vectorized"],
    ),
    "bare-in_order": (rings.ALL, {"offer": "in_order"}, lambda front: front == IN_ORDER_ONLY),
}
IN_ORDER_ONLY = {"packed": 0, "in_order": 1, "mergeable": 1, "vectorized": 0}


def front_ends():
    for values in itertools.product((0, 1), repeat=len(OPTIONS)):
        yield dict(zip(OPTIONS, values))


def front_name(front):
    names = [name for name in OPTIONS[1:] if front[name]]
    return "-".join(["packed" if front["packed"] else "split", *names])


def ring_code(front, offered):
    """Which code DPDK chooses for its rings: it drops options that do not go together."""
    in_order = front["in_order"] and offered & rings.IN_ORDER
    vectorized, mergeable = front["vectorized"], front["mergeable"]
    if front["packed"] and offered & rings.PACKED:
        vectorized = vectorized and in_order and "avx512f" in Path("/proc/cpuinfo").read_text()
        sending = "vectorized" if vectorized else "standard"
    elif in_order:
        return {"Tx": "inorder", "Rx": "inorder"}
    else:
        sending = "standard"
    if mergeable:
        return {"Tx": sending, "Rx": "mergeable buffer"}
    return {"Tx": sending, "Rx": "vectorized" if vectorized else "standard"}


class Loop:
    """Packets from us through front-end, svqd (or nothing) and back-end, and back to us."""

    def __init__(self, bench, wire, direct, lacks, options):
        self.bench, self.direct, self.number = bench, direct, 0
        backend = bench.path("back.sock")
        self.back = Testpmd(
            bench, "back", [vhost_port(backend)], "io", args=["--port-topology=loop"], patient=True
        )
        if lacks:
            backend = Mask(bench, backend, "mask", lacks).socket
        self.has = VHOST_PORT & ~lacks
        self.wanted = options.get("ring", "auto")
        self.wiring = wire({"net0": backend}, **options)
        added = {
            "packed": rings.PACKED,
            "in_order": rings.IN_ORDER,
            "indirect": rings.INDIRECT_DESC,
        }
        self.offered = self.has
        if not direct:
            for name in filter(None, options.get("offer", "").split("+")):
                self.offered |= added[name]

    def connect(self, front, size=1024):
        """A front-end comes and gets its first packets back."""
        name = f"front{self.number}" if self.number else "front"
        self.number += 1
        self.packets = PacketLoop(
            self.bench, JUMBO_SIZES if front["mergeable"] else SIZES, name=name
        )
        port = virtio_user_port(self.wiring.sockets["net0"], size=size, **front)
        self.front = Testpmd(
            self.bench,
            name,
            [self.packets.port, port],
            "io",
            args=["--port-topology=paired"],
            cores=2,
            patient=True,
            size=size,
        )
        assert self.front.ring_code() == ring_code(front, self.offered)
        self.flow()

    def pump(self):
        return self.packets.pump(0.002)

    def flow(self, packets=1000):
        enough = self.packets.received + packets
        wait_for(lambda: self.pump() >= enough, f"{packets} packets come back", interval=0)

    def assert_well(self):
        self.back.process.assert_alive()
        self.front.process.assert_alive()

    def toggle(self, wiring):
        toggle_under_load(wiring, "net0", SWITCHES, self.pump, ENOUGH, self.assert_well)

    def expect(self):
        """Compare what svqd tells with what the front-end acked; returns the expectation."""
        device = self.wiring.device("net0")
        acked = int(device["features"]["acked"], 16)
        expectation = rings.Expectation(acked, self.has, self.wanted)
        expectation.check_device(device)
        return expectation

    def disconnect(self):
        """All that was sent has come back, and the front-end leaves."""
        self.packets.drain()
        assert self.packets.lost == 0, f"{self.packets.lost} of {self.packets.sent} packets lost"
        self.front.end()
        self.packets.close()
        self.wiring.assert_no_errors()
        self.wiring.assert_nothing_leaked()


def matrix():
    for backend, (_, _, meets) in BACKENDS.items():
        for front in front_ends():
            if meets(front):
                yield pytest.param(front, backend, id=f"{front_name(front)}-to-{backend}")


@pytest.mark.parametrize("front, backend", matrix())
def test_every_packet_returns(bench, wire, need, direct, front, backend):
    """100 switches where the device can pass through, else as many renewals of its policy."""
    need("dpdk-testpmd", "dpdk-dev")
    lacks, options, _ = BACKENDS[backend]
    loop = Loop(bench, wire, direct, lacks, options)
    loop.connect(front)
    if direct:
        loop.toggle(loop.wiring)
        loop.disconnect()
        return
    expectation = loop.expect()
    assert (rings.ring_format(expectation.guest) == "packed") == bool(front["packed"])
    assert bool(expectation.guest & rings.IN_ORDER) == bool(front["in_order"])
    if expectation.bound:
        loop.toggle(Renewal(loop.wiring))
        with pytest.raises(QmpError) as refusal:
            loop.wiring.shadow("net0", False)
        assert refusal.value.error_class == "GenericError"
        assert loop.wiring.device("net0").get("switches", 0) == 0
    else:
        assert loop.wiring.mode("net0") == "pass-through"
        loop.toggle(loop.wiring)
        loop.wiring.shadow("net0", True)
        loop.flow()
        assert loop.wiring.device("net0")["switches"] == SWITCHES + 1
    loop.expect()
    loop.flow()
    loop.disconnect()


@pytest.mark.parametrize(
    "lacks, options",
    [(0, {}), (rings.PACKED, {"offer": "packed"})],
    ids=["pass-through", "split-backend"],
)
@pytest.mark.timeout(600)
def test_front_ends_in_a_row(bench, wire, need, direct, lacks, options):
    """One svqd and one back-end serve all sixteen front-ends, one after the other."""
    need("dpdk-testpmd", "dpdk-dev")
    loop = Loop(bench, wire, direct, lacks, options)
    for front in front_ends():
        loop.connect(front)
        loop.flow(3000)
        if not direct:
            loop.expect()
        loop.disconnect()


@pytest.mark.parametrize("size", [1000, 96])
@pytest.mark.parametrize("lacks", [0, rings.PACKED], ids=["all", "split"])
def test_packed_sizes(bench, wire, need, direct, lacks, size):
    """Packed rings of sizes that no split ring can have."""
    need("dpdk-testpmd", "dpdk-dev")
    if direct and lacks:
        pytest.skip("split rings of these sizes do not exist")
    loop = Loop(bench, wire, direct, lacks, {"offer": "packed"} if lacks else {})
    front = {"packed": 1, "in_order": 0, "mergeable": 1, "vectorized": 0}
    loop.connect(front, size=size)
    if direct:
        loop.toggle(loop.wiring)
    else:
        queue = loop.wiring.device("net0")["queues"][0]
        assert queue["guest"]["size"] == size, queue
        loop.toggle(Renewal(loop.wiring) if loop.expect().bound else loop.wiring)
    loop.disconnect()
