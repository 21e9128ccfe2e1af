"""Live migration of a busy guest from one QEMU to the next, and what must be true after it."""

import functools

from .guest import Guest, vhost_blk
from .qmp import QmpError
from .wait import wait_for

# The guest's work: every disk byte is checked when read and at the end; "hold" is memory only the
# device writes, so one dirty page missing from the log shows; "memory" only the CPU writes.
WORK = {
    "disk": "churn disk /dev/vda 0 32 4",
    "hold": "churn hold /dev/vda 32 16 1",
    "memory": "churn memory 24 2",
}
DISK_MIB = 48
MIB = 1 << 20
FAST = 128 * MIB  # QEMU's own default


class Migrator:
    """A guest that moves through QEMUs: each gets the next of the given sockets.

    device: makes QEMU's arguments for a socket; properties: the device's.
    """

    def __init__(self, bench, kernel, initramfs, sockets, storage=None, cpus=2,
                 device=vhost_blk, **properties):  # fmt: skip
        self._make = (bench, kernel, initramfs)
        self._device = functools.partial(device, **properties)
        self._bench = bench
        self._sockets = sockets
        self._storage = storage
        self._cpus = cpus
        self._started = 0
        self.work = WORK if sockets else {"memory": WORK["memory"]}
        self.guest = self._start(incoming=False).wait_ready()

    def _start(self, incoming):
        devices = []
        if self._sockets:
            devices = self._device(self._sockets[self._started % len(self._sockets)])
        name = f"qemu{self._started}"
        self._started += 1
        return Guest(*self._make, devices, name=name, cpus=self._cpus, incoming=incoming)

    def start_work(self):
        """All churns run and have each moved something."""
        for tag, command in self.work.items():
            self.guest.start(tag, command)
        for tag in self.work:
            wait_for(lambda tag=tag: self.guest.progress(tag)[0] > MIB, f"{tag} churns", 60, 0.1)

    def check_work(self):
        """End the churns: each has found all it expected; guest and host agree on the disk."""
        self.guest.finish("churn", *self.work)
        self.guest.assert_no_trouble()
        if self._storage:
            assert self.guest.disk_checksum() == self._storage.checksum()

    def _status(self):
        return self.guest.qmp.execute("query-migrate").get("status")

    def prepare(self):
        """A new QEMU that waits for the guest."""
        target = self._start(incoming=True)
        target.qmp.execute("migrate-incoming", uri=self._uri(target))
        return target

    def _uri(self, target):
        return f"unix:{self._bench.path(target.name)}.incoming"

    def limit(self, bandwidth):
        """Bytes per second from now on."""
        self.guest.qmp.execute("migrate-set-parameters", max_bandwidth=bandwidth)

    def try_start(self, bandwidth=FAST, target=None):
        """Ask QEMU to migrate to a new one; returns that one. Raises QmpError if it refuses."""
        target = target or self.prepare()
        try:
            self.guest.qmp.execute("migrate-set-parameters", downtime_limit=300)
            self.limit(bandwidth)
            self.guest.qmp.execute("migrate", uri=self._uri(target))
        except QmpError:
            target.quit()
            raise
        return target

    def complete(self, target, timeout=90):
        """Let a migration end; on return the guest runs in the new QEMU and the old one is gone."""

        def completed():
            status = self._status()
            assert status not in ("failed", "cancelled"), self.guest.qmp.execute("query-migrate")
            self.guest.process.assert_alive()
            target.process.assert_alive()
            return status == "completed"

        wait_for(completed, "migration completes", timeout, 0.05)
        wait_for(
            lambda: target.qmp.execute("query-status")["status"] == "running",
            "the guest runs in its new QEMU",
            30,
        )
        self.guest.quit()
        self.guest = target

    def migrate(self, timeout=90):
        self.complete(self.try_start(), timeout)

    def copied(self):
        """Bytes of memory sent so far."""
        return self.guest.qmp.execute("query-migrate").get("ram", {}).get("transferred", 0)

    def cancel(self, target):
        """Call a running migration off; the guest stays where it is."""
        self.guest.qmp.execute("migrate_cancel")
        wait_for(lambda: self._status() == "cancelled", "migration is cancelled", 30)
        # A target whose source goes away exits by itself, with an error status.
        target.process.wait_exit()
