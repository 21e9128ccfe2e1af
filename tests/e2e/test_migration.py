"""Live migration between QEMUs, svqd writing the dirty log."""

import random
import time

import pytest

from peers import rings
from peers.figures import times
from peers.guest import vhost_net
from peers.mask import Mask
from peers.migration import DISK_MIB, FAST, WORK, Migrator
from peers.qmp import QmpError
from peers.storage import StorageDaemon
from peers.testpmd import Testpmd
from peers.wait import wait_for

NO_LOG = "Migration disabled: vhost lacks VHOST_F_LOG_ALL feature."


def storage_for_migration(bench, masked=False):
    """A disk with two sockets, one for each of two QEMUs; masked: the back-end cannot log."""
    storage = StorageDaemon(bench, mib=DISK_MIB, exports=2)
    if masked:
        storage.sockets = [
            Mask(bench, path, f"mask{i}").socket for i, path in enumerate(storage.sockets)
        ]
    return storage


class Path:
    """The two sockets QEMUs connect to, and the daemons behind them."""

    def __init__(self, wire, sockets, one_daemon=False, **options):
        first, second = sockets
        if one_daemon:
            both = wire({"a": first, "b": second}, **options)
            self.daemons = [both, both]
        else:
            self.daemons = [
                wire({"a": first}, name="svqd-a", **options),
                wire({"b": second}, name="svqd-b", **options),
            ]
        self.ids = ["a", "b"]
        self.sockets = [d.sockets[i] for d, i in zip(self.daemons, self.ids)]

    def device(self, number):
        return self.daemons[number % 2].device(self.ids[number % 2])

    def check(self):
        for daemon in set(self.daemons):
            daemon.assert_no_errors()
            daemon.assert_nothing_leaked()


def migrate_in_a_row(migrator, times):
    for _ in range(times):
        migrator.start_work()
        migrator.migrate()
        migrator.check_work()


@pytest.mark.parametrize("one_daemon", [False, True], ids=["own-svqd-each", "one-svqd"])
@pytest.mark.timeout(600)
def test_many_in_a_row(bench, wire, need, kernel, initramfs, direct, one_daemon):
    """Migrations, svqd logging; memory, device-written memory and disk are right after each."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = storage_for_migration(bench)
    path = Path(wire, storage.sockets, one_daemon, dirty_log="shadow")
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage)
    count = times(4, 10)
    migrate_in_a_row(migrator, count)
    if not direct:
        # An even number of migrations: the path's first socket serves the last QEMU.
        wait_for(lambda: path.device(count)["mode"] == "pass-through", "the device passes through")
        for daemon, ident in zip(path.daemons, path.ids):
            # Each was the source every other time.
            events = daemon.events("DEVICE_SHADOW_CHANGED", ident)
            changes = [(event["shadow"], event["reason"]) for event in events]
            assert changes.count((True, "migration")) == count // 2, (ident, changes)
            assert {reason for _, reason in changes} == {"migration"}, (ident, changes)
    migrator.guest.quit()
    path.check()


@pytest.mark.quick
@pytest.mark.timeout(600)
def test_backend_cannot_log(bench, wire, need, kernel, initramfs, direct):
    """dirty-log=auto, the back-end has no VHOST_F_LOG_ALL: QEMU refuses, through us it goes."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = storage_for_migration(bench, masked=True)
    refused = Migrator(bench, kernel, initramfs, storage.sockets, storage)
    with pytest.raises(QmpError) as refusal:
        refused.try_start()
    assert refusal.value.desc == NO_LOG
    refused.guest.quit()
    if direct:
        return
    path = Path(wire, storage.sockets)
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage)
    migrate_in_a_row(migrator, 2)
    migrator.guest.quit()
    path.check()


@pytest.mark.svqd_only
def test_backend_logs(bench, wire, need, kernel, initramfs):
    """dirty-log=auto and a back-end that logs: pass-through all the way."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = storage_for_migration(bench)
    path = Path(wire, storage.sockets)
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage)
    migrate_in_a_row(migrator, 2)
    assert [path.device(number)["switches"] for number in (0, 1)] == [0, 0]
    migrator.guest.quit()
    path.check()


@pytest.mark.svqd_only
def test_always_shadowed(bench, wire, need, kernel, initramfs):
    """shadow=on: shadowed from the firmware's first request and through two migrations."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = storage_for_migration(bench)
    path = Path(wire, storage.sockets, shadow="on", dirty_log="shadow")
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage)
    for number in range(2):
        assert path.device(number)["mode"] == "shadow"
        migrate_in_a_row(migrator, 1)
    assert path.device(2)["mode"] == "shadow"
    migrator.guest.quit()
    path.check()


def test_cancelled(bench, wire, need, kernel, initramfs, direct):
    """A migration called off goes back to pass-through, I/O goes on, and the next one works."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = storage_for_migration(bench)
    path = Path(wire, storage.sockets, dirty_log="shadow")
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage)
    for _ in range(3):
        migrator.start_work()
        target = migrator.try_start(bandwidth=4 << 20)
        if not direct:
            wait_for(lambda: path.device(0)["mode"] == "shadow", "the device is shadowed")
            assert path.device(0)["logging"] == "shadow"
        before = storage.bytes_moved()
        wait_for(lambda: storage.bytes_moved() > before + (4 << 20), "I/O goes on while logged")
        migrator.cancel(target)
        if not direct:
            wait_for(lambda: path.device(0)["mode"] == "pass-through", "the device passes through")
            assert path.device(0)["logging"] == "off"
        before = storage.bytes_moved()
        wait_for(lambda: storage.bytes_moved() > before + (4 << 20), "I/O goes on afterwards")
        migrator.check_work()
        migrator._started -= 1  # the same socket for the next attempt's target
    migrate_in_a_row(migrator, 1)
    migrator.guest.quit()
    path.check()


def wait_logging(path, number):
    wait_for(lambda: path.device(number)["logging"] == "shadow", "svqd writes the dirty log")


def wait_links(path):
    """The back-end serves both ends again."""
    for number in (0, 1):

        def up(number=number):
            return path.device(number)["backend"]["link"] == "up"

        wait_for(up, "svqd has its back-end")


@pytest.mark.svqd_only
def test_backend_dies_meanwhile(bench, wire, need, kernel, initramfs):
    """The back-end of both ends is killed again and again while memory is copied, and once more
    while the guest is on its way."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = storage_for_migration(bench)
    path = Path(wire, storage.sockets, shadow="on", dirty_log="shadow")
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage)
    for number in range(2):  # there and back
        migrator.start_work()
        target = migrator.try_start(bandwidth=4 << 20)
        wait_logging(path, number)
        for _ in range(4):
            time.sleep(random.uniform(0, 0.5))
            storage.crash()
            time.sleep(random.uniform(0, 0.5))
            storage.start()
        wait_links(path)
        migrator.limit(FAST)
        time.sleep(random.uniform(0, 1))
        storage.crash()
        storage.start()
        migrator.complete(target)
        migrator.check_work()
    migrator.guest.quit()
    for daemon, ident in zip(path.daemons, path.ids):
        recovered = daemon.events("DEVICE_BACKEND_RECOVERED", ident)
        assert len(recovered) >= 4, recovered
        daemon.assert_nothing_leaked()


@pytest.mark.svqd_only
def test_started_without_backend(bench, wire, need, kernel, initramfs):
    """A migration may begin, though not end, while the back-end is away."""
    need("qemu-storage-daemon", "qemu-utils")
    storage = storage_for_migration(bench)
    path = Path(wire, storage.sockets, shadow="on", dirty_log="shadow")
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage)
    migrator.start_work()
    target = migrator.prepare()  # which has to see its disk
    storage.crash()
    wait_for(lambda: path.device(0)["backend"]["link"] == "lost", "the back-end is gone")
    migrator.try_start(target=target)
    wait_logging(path, 0)
    assert path.device(0)["backend"]["link"] == "lost"
    wait_for(lambda: migrator.copied() > 16 << 20, "memory is copied")
    storage.start()
    migrator.complete(target)
    migrator.check_work()
    migrator.guest.quit()
    for daemon in path.daemons:
        daemon.assert_nothing_leaked()


@pytest.mark.parametrize("masked", [False, True], ids=["logs", "cannot-log"])
@pytest.mark.timeout(600)
def test_packed_disk(bench, wire, need, kernel, initramfs, direct, masked):
    """The guest's rings are packed, which its back-end does not know: shadowed all the way."""
    need("qemu-storage-daemon", "qemu-utils")
    if direct and masked:
        pytest.skip("QEMU does not migrate a device that cannot log")
    storage = storage_for_migration(bench, masked)
    path = Path(wire, storage.sockets, offer="packed")
    migrator = Migrator(bench, kernel, initramfs, path.sockets, storage, packed=True, addr="0x10")
    for number in range(2):  # there and back
        if not direct:
            assert migrator.guest.acked_features(0x10) & rings.PACKED
            check_added_packed(path.device(number))
        migrate_in_a_row(migrator, 1)
    migrator.guest.quit()
    path.check()


def check_added_packed(device):
    """A device whose guest has packed rings and whose back-end has not."""
    assert device["mode"] == "shadow" and device["switches"] == 0, device
    assert not device["pass-through"]["possible"], device
    started = [queue for queue in device["queues"] if queue["started"]]
    formats = {(q["guest"]["format"], q["backend"]["format"]) for q in started}
    assert formats == {("packed", "split")}, device


class NetMigrator(Migrator):
    """A guest that pings while it moves. What the back-end holds at that moment may be lost."""

    LOSSES = 8

    def start_work(self):
        self.guest.run(
            "ip addr replace 10.77.0.2/24 dev eth0 && ip link set eth0 up && "
            "arp -s 10.77.0.1 56:48:4f:53:54:00"
        )
        self.guest.start("pings", f"pinger 10.77.0.1 1400 5 {self.LOSSES}")
        self.guest.start("memory", WORK["memory"])
        wait_for(lambda: self.guest.progress("pings")[1] > 20, "replies arrive", 60, 0.1)

    def check_work(self):
        before = self.guest.progress("pings")[1]
        wait_for(lambda: self.guest.progress("pings")[1] > before + 20, "replies still arrive")
        self.guest.finish("pinger", "pings")
        self.guest.finish("churn", "memory")
        self.guest.assert_no_trouble()


@pytest.mark.parametrize("backend", ["all", "split"])
@pytest.mark.timeout(600)
def test_packed_network(bench, wire, need, kernel, initramfs, direct, backend):
    """Packed rings before a back-end that has them, shadowed while the guest moves; and before one
    that has not, always shadowed."""
    need("dpdk-testpmd", "dpdk-dev")
    sockets = [bench.path(f"net{number}.sock") for number in (0, 1)]
    ports = [f"eth_vhost{number},iface={path}" for number, path in enumerate(sockets)]
    Testpmd(bench, "testpmd", ports, "icmpecho", patient=True)
    options = {"dirty_log": "shadow"}
    if backend == "split":
        masks = [Mask(bench, s, f"mask{n}", rings.PACKED) for n, s in enumerate(sockets)]
        sockets = [mask.socket for mask in masks]
        options["offer"] = "packed"
    path = Path(wire, sockets, **options)
    migrator = NetMigrator(
        bench, kernel, initramfs, path.sockets, device=vhost_net, pairs=1, packed=True, addr="0x10"
    )
    bound = backend == "split"
    for number in range(2):  # there and back
        if not direct:
            assert migrator.guest.acked_features(0x10) & rings.PACKED
            migrator.start_work()
            migrator.check_work()
            assert path.device(number)["mode"] == ("shadow" if bound else "pass-through")
        migrate_in_a_row(migrator, 1)
    migrator.guest.quit()
    path.check()


@pytest.mark.direct_only
def test_control_without_vhost(bench, kernel, initramfs):
    """The control: the same guest without any vhost device. Fails when QEMU itself loses memory."""
    migrator = Migrator(bench, kernel, initramfs, sockets=[])
    migrate_in_a_row(migrator, 3)
    migrator.guest.quit()
