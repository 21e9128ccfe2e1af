"""A guest's disk: vhost-user-blk with four queues, qemu-storage-daemon behind it."""

import pytest

from peers.guest import Guest, vhost_blk
from peers.storage import StorageDaemon
from peers.toggle import toggle_under_load
from peers.wait import wait_for

MIB = 1 << 20


@pytest.mark.quick
def test_toggle_under_verified_io(bench, wire, need, kernel, initramfs, direct):
    """60 switches under verified random I/O on 4 queues lose, change or delay no request."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = StorageDaemon(bench)
    wiring = wire({"blk0": storage.sockets[0]})
    guest = Guest(bench, kernel, initramfs, vhost_blk(wiring.sockets["blk0"]), cpus=4)
    guest.wait_ready()
    assert guest.run("ls /sys/block/vda/mq | wc -l") == "4"
    guest.start("disk", "churn disk /dev/vda 0 96 8")
    wait_for(lambda: storage.bytes_moved() > MIB, "the guest does I/O")

    moved = toggle_under_load(
        wiring, "blk0", 60, storage.bytes_moved, MIB, guest.assert_well
    )
    assert len(moved) == 60
    wait_for(lambda: min(guest.progress("disk")) >= 64 * MIB, "64 MiB go both ways", 120, 0.5)
    guest.finish("churn", "disk")
    guest.assert_no_trouble()
    assert guest.disk_checksum() == storage.checksum()
    wiring.assert_no_errors()
    if not direct:
        device = wiring.device("blk0")
        assert device["mode"] == "pass-through" and device["switches"] == 60, device
        assert len(device["queues"]) >= 4, device
        for queue in device["queues"][:4]:
            assert queue["chains"] > 0 and queue["in-flight"] == 0, queue
    guest.quit()
    wiring.assert_nothing_leaked()


def test_reset_death_and_return(bench, wire, need, kernel, initramfs, direct):
    """Shadowed, the guest is reset, its QEMU killed, and a new one takes its place."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = StorageDaemon(bench)
    wiring = wire({"blk0": storage.sockets[0]})
    devices = vhost_blk(wiring.sockets["blk0"])
    guest = Guest(bench, kernel, initramfs, devices, cpus=4, reboot=True)
    guest.wait_ready()

    def churn_a_while():
        guest.start("disk", "churn disk /dev/vda 0 96 8")
        wiring.shadow("blk0", True)
        wait_for(lambda: min(guest.progress("disk")) >= 8 * MIB, "I/O is shadowed", 60, 0.2)

    for _ in range(2):
        churn_a_while()
        guest.qmp.execute("system_reset")
        guest.wait_ready()
    churn_a_while()
    guest.process.kill()
    wiring.assert_nothing_leaked()

    guest = Guest(bench, kernel, initramfs, devices, name="qemu-again", cpus=4)
    guest.wait_ready()
    churn_a_while()
    guest.finish("churn", "disk")
    guest.assert_no_trouble()
    assert guest.disk_checksum() == storage.checksum()
    guest.quit()
    wiring.assert_no_errors()
    wiring.assert_nothing_leaked()
