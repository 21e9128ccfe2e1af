"""DPDK on both sides under full load; test_dpdk_rings.py looks at every packet."""

import pytest

from peers.testpmd import Testpmd, vhost_port, virtio_user_port
from peers.toggle import toggle_under_load
from peers.wait import wait_for

SWITCHES = 20


class Pair:
    """Back-end, svqd (or nothing) and front-end, connected and forwarding."""

    def __init__(self, bench, wire, forward, options=None, **virtio_user):
        backend = bench.path("back.sock")
        loop = ["--port-topology=loop"]
        self.back = Testpmd(bench, "back", [vhost_port(backend)], "io", args=loop)
        self.wiring = wire({"net0": backend}, **(options or {}))
        front_port = virtio_user_port(self.wiring.sockets["net0"], **virtio_user)
        self.front = Testpmd(bench, "front", [front_port], forward, args=loop)
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


@pytest.mark.parametrize("mergeable", [True, False], ids=["mrg_rxbuf", "no-mrg_rxbuf"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_load(bench, wire, need, direct, mergeable, packed):
    """As fast as both ends can, both directions, under 20 switches; load flows in every mode."""
    need("dpdk-testpmd", "dpdk-dev")
    pair = Pair(bench, wire, "flowgen", mergeable=mergeable, packed=packed)
    wait_for(lambda: pair.both_ways() > 10000, "packets cross both ways")
    toggle_under_load(pair.wiring, "net0", SWITCHES, pair.both_ways, 20000, pair.assert_well)
    if not direct:
        device = pair.wiring.device("net0")
        assert device["switches"] == SWITCHES, device
        assert all(queue["chains"] > 20000 for queue in device["queues"][:2]), device
    pair.end()


@pytest.mark.svqd_only
@pytest.mark.parametrize("ring", ["auto", "split"])
def test_shadow_from_the_start(bench, wire, need, ring):
    """shadow=on: shadowed at once; ring=split: packed rings are not even offered."""
    need("dpdk-testpmd", "dpdk-dev")
    options = {"shadow": "on", "ring": ring}
    pair = Pair(bench, wire, "flowgen", options=options, packed=True)
    wait_for(lambda: pair.both_ways() > 50000, "packets cross both ways")
    device = pair.wiring.device("net0")
    assert device["mode"] == "shadow", device
    assert device["pass-through"]["possible"], device
    wanted = "packed" if ring == "auto" else "split"
    for queue in device["queues"][:2]:
        assert queue["guest"]["format"] == queue["backend"]["format"] == wanted, queue
    pair.end()
