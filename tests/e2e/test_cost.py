"""What svqd costs when it has nothing to do: nothing."""

import time

import pytest

from peers.guest import Guest, vhost_blk
from peers.procfs import io_calls
from peers.storage import StorageDaemon
from peers.testpmd import Testpmd, vhost_port, virtio_user_port
from peers.wait import wait_for

pytestmark = pytest.mark.svqd_only
MIB = 1 << 20
SECONDS = 5


def spent(daemon, during):
    """What every thread of svqd spent while during() ran: CPU ticks, voluntary context switches."""
    calls, before = io_calls(daemon.process.pid), daemon.activity()
    during()
    after, more_calls = daemon.activity(), io_calls(daemon.process.pid)
    used = after.since(before)
    assert set(after.threads) == set(before.threads), "svqd started or ended threads"
    return used, more_calls - calls


def settle(daemon):
    """
    The answer to our last command has left; its thread may still be on the way to sleep, and on a
    loaded machine wait for a processor on that way: unchanged counts alone do not say it is there.
    """
    last = daemon.activity()

    def quiet():
        nonlocal last
        before, last = last, daemon.activity()
        asleep = all(thread["asleep"] for thread in last.threads.values())
        return asleep and before.threads == last.threads

    wait_for(quiet, "svqd goes to sleep after a command", 10, 0.1)


def assert_free(daemon, during):
    settle(daemon)
    used, calls = spent(daemon, during)
    for thread in used.values():
        assert thread["voluntary"] == 0 and thread["ticks"] == 0, used
    assert calls == 0, f"{calls} read or write calls"


def assert_asleep(used, allowance=10):
    """A timer may tick now and then; a poll would show as thousands."""
    assert sum(thread["ticks"] for thread in used.values()) <= 1, used
    assert sum(thread["voluntary"] for thread in used.values()) <= allowance, used


def idle():
    """The measured time itself: there is no condition to wait for but that it passes."""
    time.sleep(SECONDS)


def test_pass_through_and_idle_shadow(bench, wire, need, kernel, initramfs):
    """Pass-through under I/O: no context switch, no CPU. An idle shadowed disk: asleep."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = StorageDaemon(bench)
    daemon = wire({"blk0": storage.sockets[0]})
    guest = Guest(bench, kernel, initramfs, vhost_blk(daemon.sockets["blk0"]), cpus=2)
    guest.wait_ready()

    def busy():
        """64 MiB and at least five seconds of I/O."""
        end, enough = time.monotonic() + SECONDS, storage.bytes_moved() + 64 * MIB
        wait_for(
            lambda: storage.bytes_moved() > enough and time.monotonic() > end, "64 MiB moved", 90
        )

    guest.start("disk", "churn disk /dev/vda 0 64 4")
    wait_for(lambda: storage.bytes_moved() > MIB, "the guest does I/O")
    assert daemon.mode("blk0") == "pass-through"
    assert_free(daemon, busy)

    # Back from shadow it must be as free as before.
    daemon.shadow("blk0", True)
    moved = storage.bytes_moved()
    wait_for(lambda: storage.bytes_moved() > moved + 8 * MIB, "I/O is shadowed")
    daemon.shadow("blk0", False)
    assert_free(daemon, busy)

    daemon.shadow("blk0", True)
    moved = storage.bytes_moved()
    wait_for(lambda: storage.bytes_moved() > moved + 8 * MIB, "I/O is shadowed")
    guest.finish("churn", "disk")
    used, _ = spent(daemon, idle)
    assert_asleep(used)
    assert daemon.mode("blk0") == "shadow"
    guest.quit()


def test_dpdk(bench, wire, need):
    """Two pollers that suppress every notification: free in pass-through, asleep when idle."""
    need("dpdk-testpmd", "dpdk-dev")
    backend = bench.path("back.sock")
    loop = ["--port-topology=loop"]
    back = Testpmd(bench, "back", [vhost_port(backend)], "io", args=loop)
    daemon = wire({"net0": backend})
    busy = Testpmd(
        bench, "busy", [virtio_user_port(daemon.sockets["net0"])], "flowgen", args=loop
    )
    wait_for(lambda: busy.stats()["ipackets"] > 10000, "packets cross both ways")
    assert_free(daemon, idle)
    busy.end()
    daemon.assert_nothing_leaked()

    before = back.stats()["ipackets"]
    quiet = Testpmd(
        bench, "quiet", [virtio_user_port(daemon.sockets["net0"])], "rxonly", args=loop
    )
    daemon.shadow("net0", True)
    used, _ = spent(daemon, idle)
    assert_asleep(used)
    assert daemon.mode("net0") == "shadow" and back.stats()["ipackets"] == before
    quiet.end()
