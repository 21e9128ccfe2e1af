"""A guest's network: two queue pairs, DPDK's vhost port answers every echo request."""

import pytest

from peers import svqd
from peers.guest import Guest, vhost_net
from peers.testpmd import Testpmd, vhost_port
from peers.toggle import toggle_under_load
from peers.wait import wait_for

PEER = "10.77.0.1"
SWITCHES = 24
REPLIES_PER_MODE = 5


def start_pings(guest):
    """One pinger per CPU, hence per queue pair; the larger requests nearly fill a frame."""
    guest.run(
        "ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up && "
        f"arp -s {PEER} 56:48:4f:53:54:00"
    )
    for cpu, size in [(0, 56), (1, 1400)]:
        guest.start(f"ping{cpu}", f"taskset {1 << cpu:x} pinger {PEER} {size} 50")
    wait_for(lambda: fewest_replies(guest) > 0, "both pingers are answered")


def fewest_replies(guest):
    return min(guest.progress(f"ping{cpu}")[1] for cpu in (0, 1))


@pytest.mark.parametrize("path", ["direct", "svqd"])
def test_no_reply_lost(bench, need, kernel, initramfs, direct, path):
    """24 switches lose no echo reply, just as a direct connection loses none over the same time."""
    need("dpdk-testpmd", "dpdk-dev")
    backend = bench.path("net.sock")
    port = vhost_port(backend, 2)
    testpmd = Testpmd(bench, "testpmd", [port], "icmpecho", queues=2, patient=True)
    wiring = svqd.wire(bench, {"net0": backend}, direct=direct or path == "direct")
    guest = Guest(bench, kernel, initramfs, vhost_net(wiring.sockets["net0"]), cpus=2)
    guest.wait_ready()
    assert len(guest.run("ls -d /sys/class/net/eth0/queues/rx-*").split()) == 2
    start_pings(guest)
    toggle_under_load(
        wiring,
        "net0",
        SWITCHES,
        lambda: fewest_replies(guest),
        REPLIES_PER_MODE,
        guest.assert_well,
    )
    guest.finish("pinger", "ping0", "ping1")
    guest.assert_no_trouble()
    wiring.assert_no_errors()
    assert testpmd.stats()["ipackets"] >= 2 * SWITCHES * REPLIES_PER_MODE
    guest.quit()
    wiring.assert_nothing_leaked()
