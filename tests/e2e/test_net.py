"""A guest's network: two queue pairs, DPDK's vhost port answers every echo request."""

import re
from collections import Counter

import pytest

from peers import svqd
from peers.guest import Guest, vhost_net
from peers.testpmd import Testpmd, vhost_port
from peers.toggle import toggle_under_load
from peers.wait import wait_for

PEER = "10.77.0.1"
SWITCHES = 24
REPLIES_PER_MODE = 5


def replies(guest, tag):
    return int(guest.run(f"grep -c 'bytes from' /tmp/{tag} || true"))


def lost(text):
    """Between the first and the last answered sequence number: those not answered, those twice."""
    seen = Counter(int(n) for n in re.findall(r"bytes from .* seq=(\d+)", text))
    assert seen, text[-2000:]
    wanted = range(min(seen), max(seen))
    return [n for n in wanted if n not in seen], [n for n, times in seen.items() if times > 1]


def start_pings(guest):
    """One ping per CPU, hence per queue pair, of different sizes."""
    guest.run(f"ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up && "
              f"arp -s {PEER} 56:48:4f:53:54:00")  # fmt: skip
    for cpu, size in [(0, 56), (1, 1400)]:
        guest.start(f"ping{cpu}", f"taskset {1 << cpu:x} "
                    f"ping -i 0.05 -s {size} {PEER}")  # fmt: skip
    for cpu in (0, 1):
        wait_for(lambda cpu=cpu: replies(guest, f"ping{cpu}") > 0, f"ping {cpu} is answered")


@pytest.mark.parametrize("path", ["direct", "svqd"])
def test_no_reply_lost(bench, need, kernel, initramfs, direct, path):
    """24 switches lose no echo reply, just as a direct connection loses none over the same time."""
    need("dpdk-testpmd", "dpdk-dev")
    backend = bench.path("net.sock")
    testpmd = Testpmd(bench, "testpmd", [vhost_port(backend, 2)], "icmpecho", queues=2, patient=True)
    wiring = svqd.wire(bench, {"net0": backend}, direct=direct or path == "direct")
    guest = Guest(bench, kernel, initramfs, vhost_net(wiring.sockets["net0"]), cpus=2)
    guest.wait_ready()
    assert len(guest.run("ls -d /sys/class/net/eth0/queues/rx-*").split()) == 2
    start_pings(guest)
    toggle_under_load(
        wiring,
        "net0",
        SWITCHES,
        lambda: min(replies(guest, "ping0"), replies(guest, "ping1")),
        REPLIES_PER_MODE,
        guest.assert_well,
    )
    guest.run("killall -INT ping")
    for cpu in (0, 1):
        wait_for(lambda cpu=cpu: "exit 0" in guest.tail(f"ping{cpu}"), "ping ends", 30, 0.2)
        missing, twice = lost(guest.run(f"cat /tmp/ping{cpu}"))
        assert not missing and not twice, f"ping {cpu}: lost {missing}, twice {twice}"
    guest.assert_no_trouble()
    wiring.assert_no_errors()
    assert testpmd.stats()["ipackets"] >= 2 * SWITCHES * REPLIES_PER_MODE
    guest.quit()
    wiring.assert_nothing_leaked()
