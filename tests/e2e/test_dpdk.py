"""DPDK on both sides: testpmd's virtio-user before svqd, its vhost port behind."""

import pytest

from peers.packets import PacketLoop
from peers.qmp import QmpError
from peers.testpmd import Testpmd, vhost_port, virtio_user_port
from peers.toggle import toggle_under_load
from peers.wait import wait_for

SWITCHES = 20
MERGEABLE = pytest.mark.parametrize("mergeable", [True, False], ids=["mrg_rxbuf", "no-mrg_rxbuf"])


class Pair:
    """Back-end, svqd (or nothing) and front-end, connected and forwarding."""

    def __init__(self, bench, wire, forward, ports=(), cores=1, options=None, **virtio_user):
        backend = bench.path("back.sock")
        loop = ["--port-topology=loop"]
        self.back = Testpmd(bench, "back", [vhost_port(backend)], "io", args=loop)
        self.wiring = wire({"net0": backend}, **(options or {}))
        front_port = virtio_user_port(self.wiring.sockets["net0"], **virtio_user)
        topology = ["--port-topology=paired"] if ports else loop
        self.front = Testpmd(
            bench, "front", [*ports, front_port], forward, args=topology, cores=cores
        )
        self.back.wait_linked()

    def assert_well(self):
        self.back.process.assert_alive()
        self.front.process.assert_alive()

    def both_ways(self):
        """Packets the front-end received: each crossed the device twice."""
        return self.front.stats()["ipackets"]

    def end(self):
        self.front.end()
        self.wiring.assert_no_errors()
        self.wiring.assert_nothing_leaked()


@MERGEABLE
def test_load(bench, wire, need, direct, mergeable):
    """As fast as both ends can, both directions, under 20 switches; load flows in every mode."""
    need("dpdk-testpmd", "dpdk-dev")
    pair = Pair(bench, wire, "flowgen", mergeable=mergeable)
    wait_for(lambda: pair.both_ways() > 10000, "packets cross both ways")
    toggle_under_load(pair.wiring, "net0", SWITCHES, pair.both_ways, 20000, pair.assert_well)
    if not direct:
        device = pair.wiring.device("net0")
        assert device["switches"] == SWITCHES, device
        assert all(queue["chains"] > 20000 for queue in device["queues"][:2]), device
    pair.end()


@MERGEABLE
def test_contents(bench, wire, need, mergeable):
    """Numbered packets come back in order and unchanged; with mergeable buffers up to 9000 bytes,
    spread over several. A switch may cost those DPDK's back-end holds when its ring stops."""
    need("dpdk-testpmd", "dpdk-dev")
    sizes = [60, 64, 333, 1024, 1514] + ([2000, 4096, 9000] if mergeable else [])
    loop = PacketLoop(bench, sizes)
    pair = Pair(bench, wire, "io", ports=[loop.port], cores=2, mergeable=mergeable)
    wait_for(lambda: loop.pump() > 1000, "packets come back", interval=0)
    assert loop.lost == 0
    toggle_under_load(pair.wiring, "net0", SWITCHES, loop.pump, 2000, pair.assert_well)
    loop.drain()
    print(f"sent {loop.sent}, lost {loop.lost}")
    assert loop.lost <= 32 * SWITCHES
    pair.end()


@pytest.mark.svqd_only
def test_packed_is_refused(bench, wire, need):
    """A packed ring passes through where the back-end can log; shadowing it is refused."""
    need("dpdk-testpmd", "dpdk-dev")
    pair = Pair(bench, wire, "flowgen", packed=True)
    wait_for(lambda: pair.both_ways() > 10000, "packets cross both ways")
    assert pair.wiring.device("net0")["queues"][0]["format"] == "packed"
    with pytest.raises(QmpError) as refusal:
        pair.wiring.shadow("net0", True)
    assert refusal.value.error_class == "GenericError"
    assert refusal.value.desc == "Can't enable shadow vq on net0: Use packed vq"
    assert pair.wiring.mode("net0") == "pass-through"
    before = pair.both_ways()
    wait_for(lambda: pair.both_ways() > before + 10000, "packets still cross")
    pair.front.end()
    pair.wiring.assert_nothing_leaked()


@pytest.mark.svqd_only
def test_shadow_from_the_start(bench, wire, need):
    """shadow=on: a front-end that would like packed rings gets split ones, shadowed at once."""
    need("dpdk-testpmd", "dpdk-dev")
    pair = Pair(bench, wire, "flowgen", options={"shadow": "on"}, packed=True)
    wait_for(lambda: pair.both_ways() > 50000, "packets cross both ways")
    device = pair.wiring.device("net0")
    assert device["mode"] == "shadow" and device["queues"][0]["format"] == "split", device
    pair.end()
