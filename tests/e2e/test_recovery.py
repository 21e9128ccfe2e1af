"""Back-ends, svqd and VMMs die under a guest that writes all the time, and it does not notice.

Moments are random: a failure's report tells in which round it came.
"""

import random
import time

import pytest

from peers import figures
from peers.figures import times
from peers.guest import vhost_blk
from peers.procfs import open_files
from peers.qmp import QmpError
from peers.ramdisk import RamDisk
from peers.storage import Image, StorageDaemon
from peers.wait import SCALE, wait_for
from peers.writer import Writer

pytestmark = [pytest.mark.svqd_only, pytest.mark.timeout(900)]
DISK_MIB = 16
MIB = 1 << 20
# The storage daemon has no packed rings; a guest that uses them needs svqd to.
SHADOW = {False: {"shadow": "on"}, True: {"shadow": "on", "offer": "packed"}}


def a_moment(longest=0.3):
    """The random time that passes before something dies: nothing is waited for."""
    time.sleep(random.uniform(0, longest))


@pytest.fixture
def storage(bench, need):
    need("qemu-storage-daemon", "qemu-utils")
    return StorageDaemon(bench, mib=DISK_MIB)


@pytest.fixture
def write(bench, kernel, initramfs):
    """write(socket, option=value...): a guest that writes to the disk behind that socket."""

    def write(socket_path, name="qemu", **options):
        return Writer(bench, kernel, initramfs, vhost_blk(socket_path, **options), name).begin()

    return write


class Relay:
    """A second svqd as a back-end that keeps an in-flight region, before a storage daemon."""

    def __init__(self, wire, storage):
        self._storage = storage
        self._near = wire({"blk0": storage.sockets[0]}, name="svqd-near", shadow="on")
        self._replayed = 0
        self.image = storage.image
        self.sockets = [self._near.sockets["blk0"]]

    def crash(self):
        self._replayed = self.replayed()
        self._near.crash()

    def start(self):
        self._near.start()

    def revive(self):
        self._near.process.assert_alive()
        self._storage.revive()

    def replayed(self):
        """How many requests it has found in its region, in all its lives."""
        return self._replayed + self._near.device("blk0")["backend"]["resubmitted"]

    def assert_nothing_leaked(self):
        self._near.assert_nothing_leaked()


class Outages:
    """A device's outages, as svqd tells of them."""

    def __init__(self, daemon, meanwhile=None):
        self._daemon = daemon
        self._meanwhile = meanwhile
        self._seen = 0

    def wait_over(self):
        """There was one more and the device is served again."""

        def over():
            self._daemon.process.assert_alive()
            if self._meanwhile:
                self._meanwhile()
            peer = self._daemon.device("blk0")["backend"]
            return peer["link"] == "up" and peer["outages"] > self._seen and peer["outages"]

        self._seen = wait_for(over, f"outage {self._seen + 1} ends")

    def check(self, at_least, replayed=0):
        """Every one was recovered from, and between them they met requests in flight, `replayed` of
        which the back-end has found in its region."""
        daemon = self._daemon
        peer = daemon.device("blk0")["backend"]
        ended = daemon.events("DEVICE_BACKEND_RECOVERED", "blk0")
        begun = daemon.events("DEVICE_BACKEND_DISCONNECTED", "blk0")
        assert len(ended) >= at_least, ended
        assert peer["outages"] >= len(ended) and peer["link"] == "up", peer
        assert all(event["recovering"] and event["reason"] for event in begun), begun
        assert all(event["attempts"] >= 1 and event["microseconds"] > 0 for event in ended), ended
        again = [event["resubmitted"] for event in ended]
        assert sum(again) + replayed > 0, "nothing was ever in flight: this shows nothing"
        assert peer["resubmitted"] == sum(again), (peer, again)
        assert peer["last-outage-microseconds"] == ended[-1]["microseconds"], (peer, ended[-1])
        figures.say(
            f"{len(ended)} outages, {sum(again) + replayed} requests done again; "
            + figures.spread([event["microseconds"] for event in ended])
        )


def check_served(daemon, mode, packed=False):
    """All four queues are, and nothing was found wrong."""
    device = daemon.device("blk0")
    assert device["mode"] == mode and device["switches"] == 0, device
    formats = {queue["guest"]["format"] for queue in device["queues"][:4]}
    assert formats == {"packed" if packed else "split"}, device
    assert all(queue["started"] for queue in device["queues"][:4]), device
    assert not any("error" in queue for queue in device["queues"]), device
    if mode == "shadow":
        assert all(queue["chains"] > 0 for queue in device["queues"][:4]), device


def leave(writer, *daemons):
    writer.guest.quit()
    for daemon in daemons:
        daemon.assert_nothing_leaked()


@pytest.mark.quick
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_backend_dies(wire, storage, write, packed):
    """kill -9 at random moments, now and then again while svqd is recovering."""
    daemon = wire({"blk0": storage.sockets[0]}, **SHADOW[packed])
    writer = write(daemon.sockets["blk0"], packed=packed)
    check_served(daemon, "shadow", packed)
    assert daemon.device("blk0")["crash-safe"] == {"safe": True}
    assert "crash-safe yes" in daemon.status()
    outages, kills = Outages(daemon), times(15)
    for number in range(kills):
        a_moment()
        storage.crash()
        storage.start()
        if number % 5 == 4:
            a_moment(0.2)
            storage.crash()
            storage.start()
        outages.wait_over()
        writer.guest.assert_well()
    writer.wait_progress()
    check_served(daemon, "shadow", packed)
    outages.check(kills)
    writer.finish(storage.image)
    leave(writer, daemon)


@pytest.mark.parametrize(
    "kind, packed",
    [("svqd", False), ("ramdisk", False), ("ramdisk", True)],
    ids=["svqd", "ramdisk", "ramdisk-packed"],
)
def test_tracking_backend_dies(bench, wire, need, write, kind, packed):
    """In pass-through, before back-ends that keep the in-flight region that svqd gives them."""
    if kind == "svqd":
        need("qemu-storage-daemon", "qemu-utils")
        backend = Relay(wire, StorageDaemon(bench, mib=DISK_MIB))
    else:
        backend = RamDisk(bench, DISK_MIB)
    daemon = wire({"blk0": backend.sockets[0]}, name="svqd-far", shadow="off")
    writer = write(daemon.sockets["blk0"], packed=packed)
    assert daemon.device("blk0")["crash-safe"] == {"safe": True}
    outages, kills = Outages(daemon, backend.revive), times(10)
    for _ in range(kills):
        a_moment()
        backend.crash()
        backend.start()
        outages.wait_over()
        writer.guest.assert_well()
    writer.wait_progress(meanwhile=backend.revive)
    check_served(daemon, "pass-through", packed)
    outages.check(kills, backend.replayed())
    writer.finish(backend.image)
    leave(writer, daemon, backend)


def test_backend_dies_in_a_switch(bench, wire, write):
    """Killed about when its rings are switched from pass-through to shadow, or back."""
    backend = RamDisk(bench, DISK_MIB)
    daemon = wire({"blk0": backend.sockets[0]})
    writer = write(daemon.sockets["blk0"])
    outages, refusals = Outages(daemon, backend.revive), []
    for number in range(times(10)):
        enable = number % 2 == 0
        order = daemon.aside("x-vhost-enable-shadow-vq", name="blk0", enable=enable)
        a_moment(0.02)
        backend.crash()
        backend.start()
        refusal = order.result()
        outages.wait_over()
        if refusal:
            refusals.append(refusal.desc)
        else:
            assert daemon.mode("blk0") == ("shadow" if enable else "pass-through")
        writer.wait_progress(MIB // 4)
    assert all(text.startswith(("Can't enable", "Can't disable")) for text in refusals), refusals
    figures.say(f"{len(refusals)} switches failed for it")
    outages.check(times(10), backend.replayed())
    writer.finish(backend.image)
    leave(writer, daemon, backend)


def requests_wait(daemon):
    """Has the guest asked for what is not done? It stays so while nobody serves."""
    rings = [queue["guest"] for queue in daemon.qmp.execute("query-queues", id="blk0")]
    return any(ring["avail-idx"] != ring["used-idx"] for ring in rings if "avail-idx" in ring)


def test_backend_dies_unrecoverable(wire, storage, write):
    """Passing through to a back-end that keeps no region: the front-end is told, and decides.

    It reconnects by itself and starts from the used index, as it would without svqd. That this may
    lose requests is why the status says so.
    """
    daemon = wire({"blk0": storage.sockets[0]})
    writer = write(daemon.sockets["blk0"], reconnect=1)
    safe = daemon.device("blk0")["crash-safe"]
    assert not safe["safe"] and safe["reason"], safe
    assert f"crash-safe no ({safe['reason']})" in daemon.status()
    storage.freeze()
    wait_for(lambda: requests_wait(daemon), "requests are stuck")
    storage.crash()
    lost = daemon.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="blk0")
    assert not lost["recovering"], lost
    left = daemon.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="blk0")
    assert "cannot recover: " in left["reason"], left
    storage.start()
    before = storage.bytes_moved()
    wait_for(lambda: daemon.mode("blk0") == "pass-through", "QEMU is back")
    wait_for(lambda: storage.bytes_moved() > before, "I/O goes on")
    leave(writer, daemon)


def test_idle_backend_dies(wire, storage, write):
    """Nothing in flight: then any back-end is recovered from."""
    daemon = wire({"blk0": storage.sockets[0]})
    writer = write(daemon.sockets["blk0"])
    writer.finish(storage.image)
    for _ in range(3):
        storage.crash()
        storage.start()
        assert daemon.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="blk0")["recovering"]
        assert daemon.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="blk0")["resubmitted"] == 0
        assert writer.guest.disk_checksum() == storage.checksum()
    writer.guest.assert_no_trouble()
    check_served(daemon, "pass-through")
    leave(writer, daemon)


def test_backend_freezes(wire, storage, write):
    """SIGSTOP and SIGCONT while nobody asks it anything: nothing is lost or given up."""
    daemon = wire({"blk0": storage.sockets[0]}, shadow="on")
    writer = write(daemon.sockets["blk0"])
    for _ in range(times(7)):
        storage.freeze()
        a_moment(0.5)
        storage.thaw()
        a_moment()
        writer.guest.assert_well()
    writer.wait_progress()
    assert daemon.device("blk0")["backend"]["outages"] == 0
    assert daemon.events("DEVICE_BACKEND_DISCONNECTED", "blk0") == []
    check_served(daemon, "shadow")
    writer.finish(storage.image)
    daemon.assert_no_errors()
    leave(writer, daemon)


def test_backend_freezes_when_asked(wire, storage, write):
    """Stopped for longer than message-timeout while it owes an answer: it counts as gone, and what
    it still completes once it goes on harms nobody."""
    daemon = wire({"blk0": storage.sockets[0]}, shadow="on", message_timeout=1 * SCALE,
                  drain_timeout=1 * SCALE)  # fmt: skip
    writer = write(daemon.sockets["blk0"])
    outages, rounds = Outages(daemon), times(2, 20)
    for _ in range(rounds):
        storage.freeze()
        with pytest.raises(QmpError):
            daemon.shadow("blk0", False)  # asks for GET_VRING_BASE
        wait_for(lambda: daemon.device("blk0")["backend"]["link"] == "lost", "it counts as gone")
        with pytest.raises(QmpError, match="Back-end is not connected"):
            daemon.shadow("blk0", False)
        storage.thaw()
        outages.wait_over()
        wait_for(lambda: daemon.mode("blk0") == "shadow", "shadowed again")
        writer.wait_progress()
    outages.check(rounds)
    writer.finish(storage.image)
    leave(writer, daemon)


def test_backend_returns_smaller(bench, wire, storage, write):
    """Another disk in its place is refused and left alone until the right one is back."""
    daemon = wire({"blk0": storage.sockets[0]}, shadow="on", reconnect=0.5)
    writer = write(daemon.sockets["blk0"])
    outages = Outages(daemon)
    right, wrong = storage.image, Image(bench, DISK_MIB // 2, "smaller")
    for _ in range(2):
        storage.crash()
        storage.image = wrong
        storage.start()
        wait_for(lambda: daemon.device("blk0")["backend"]["link"] == "refused", "it is refused")
        refused = daemon.events("DEVICE_BACKEND_REFUSED", "blk0")[-1]
        device = daemon.device("blk0")
        assert device["backend"]["reason"] == refused["reason"]
        assert "config" in refused["reason"], refused
        assert refused["reason"] in device["last-error"], device
        assert refused["reason"] in "\n".join(daemon.status())
        # Tried again and again, and refused each time; the guest waits.
        tried = device["backend"]["attempts"]
        wait_for(lambda: daemon.device("blk0")["backend"]["attempts"] > tried, "tried again")
        assert daemon.device("blk0")["backend"]["link"] in ("lost", "refused")
        stuck = writer.guest.progress("disk")
        time.sleep(0.5 * SCALE)
        assert writer.guest.progress("disk") == stuck
        storage.crash()
        storage.image = right
        storage.start()
        outages.wait_over()
        writer.wait_progress()
    assert not wrong.contents().strip(b"\0"), "something was written to the wrong disk"
    assert not any("refused" in line for line in daemon.status())
    outages.check(2)
    writer.finish(storage.image)
    leave(writer, daemon)


def wait_front_end(daemon, storage):
    """A front-end has come back, for which QEMU takes a second, and some queue is served."""

    def served():
        daemon.process.assert_alive()
        storage.revive()
        device = daemon.device("blk0")
        return device["frontend"]["connected"] and device["mode"] != "stopped"

    wait_for(served, "the front-end is back")


class Absences:
    """How long the guest was without svqd, and that svqd found requests in flight afterwards."""

    def __init__(self, daemon, backend):
        self._daemon = daemon
        self._backend = backend
        self._lengths = []
        self._replayed = 0

    def begin(self):
        self._replayed += self._daemon.device("blk0")["backend"]["resubmitted"]
        self._begun = time.monotonic()

    def wait_over(self):
        wait_front_end(self._daemon, self._backend)
        self._lengths.append((time.monotonic() - self._begun) * 1e6)

    def check(self, replayed=0):
        self.begin()
        again = self._replayed + replayed
        assert again > 0, "nothing was ever in flight: this shows nothing"
        figures.say(
            f"svqd was away {len(self._lengths)} times, {again} requests done again; "
            + figures.spread(self._lengths)
        )


def kill_svqd(daemon, writer, absences):
    for _ in range(times(5)):
        a_moment()
        absences.begin()
        daemon.crash()
        daemon.start()
        absences.wait_over()
        writer.guest.assert_well()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_svqd_dies(wire, storage, write, packed):
    """kill -9 of svqd: QEMU hands the in-flight region to the next one.

    Of packed rings QEMU has no idea how far they have been used: only the region tells.
    """
    daemon = wire({"blk0": storage.sockets[0]}, **SHADOW[packed])
    writer = write(daemon.sockets["blk0"], reconnect=1, packed=packed)
    absences = Absences(daemon, storage)
    kill_svqd(daemon, writer, absences)
    writer.wait_progress(meanwhile=storage.revive)
    check_served(daemon, "shadow", packed)
    absences.check()
    writer.finish(storage.image)
    leave(writer, daemon)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_svqd_dies_passing_through(bench, wire, write, packed):
    """Then QEMU's region is the back-end's to write and to read."""
    backend = RamDisk(bench, DISK_MIB)
    daemon = wire({"blk0": backend.sockets[0]}, shadow="off")
    writer = write(daemon.sockets["blk0"], reconnect=1, packed=packed)
    absences = Absences(daemon, backend)
    kill_svqd(daemon, writer, absences)
    writer.wait_progress(meanwhile=backend.revive)
    check_served(daemon, "pass-through", packed)
    absences.check(backend.replayed())
    writer.finish(backend.image)
    leave(writer, daemon, backend)


def test_svqd_and_backend_die(wire, storage, write):
    """Both at once, or one a moment before the other; either may be back first."""
    daemon = wire({"blk0": storage.sockets[0]}, shadow="on")
    writer = write(daemon.sockets["blk0"], reconnect=1)
    absences = Absences(daemon, storage)
    for number in range(times(5)):
        a_moment()
        both = [daemon, storage] if number % 2 else [storage, daemon]
        absences.begin()
        both[0].crash()
        a_moment(0.1)
        both[1].crash()
        random.shuffle(both)
        both[0].start()
        a_moment(0.1)
        both[1].start()
        absences.wait_over()
        writer.guest.assert_well()
    writer.wait_progress(meanwhile=storage.revive)
    check_served(daemon, "shadow")
    absences.check()
    writer.finish(storage.image)
    leave(writer, daemon)


def test_guest_reboots(bench, kernel, initramfs, wire, storage):
    """The guest is reset while requests are in flight. What was in flight is never done again: it
    would overwrite what the guest writes next."""
    patience = 3 * SCALE
    daemon = wire({"blk0": storage.sockets[0]}, shadow="on", message_timeout=patience)
    devices = vhost_blk(daemon.sockets["blk0"])
    writer = Writer(bench, kernel, initramfs, devices, reboot=True).begin()
    # The back-end is there; or killed just before, and svqd does not wait so long; or it does.
    for number in range(times(2, 12)):
        away = [0, patience + 1, 0.3][number % 3]
        a_moment()
        if away:
            storage.crash()
        writer.guest.qmp.execute("system_reset")
        if away:
            time.sleep(away)
            storage.start()
        writer.begin()
    writer.wait_progress()
    check_served(daemon, "shadow")
    writer.finish(storage.image, fresh=False)
    writer.guest.quit()
    daemon.assert_nothing_leaked()


@pytest.mark.parametrize("keep, mode", [
    ("on", "shadow"), ("on", "pass-through"), ("off", "shadow")])
def test_vmm_dies(bench, kernel, initramfs, wire, storage, write, keep, mode):
    """kill -9 of QEMUs while they boot and while they write: the next one is served, and no file
    is left open."""
    shadow = "on" if mode == "shadow" else "off"
    daemon = wire({"blk0": storage.sockets[0]}, shadow=shadow, keep_backend=keep)
    devices = vhost_blk(daemon.sockets["blk0"])
    kills, files = times(2, 25), []
    for number in range(kills):
        name = f"qemu{number}"
        if number % 2:
            writer = Writer(bench, kernel, initramfs, devices, name).begin()
        else:
            writer = Writer(bench, kernel, initramfs, devices, name)
            a_moment(3)
        writer.guest.process.kill()
        wait_for(lambda: not daemon.device("blk0")["frontend"]["connected"], "its QEMU is gone")
        if keep == "off":
            daemon.assert_nothing_leaked()
        peer = daemon.device("blk0")["backend"]
        assert peer["connected"] == (keep == "on") and peer["outages"] == 0, peer
        files.append(len(open_files(daemon.process.pid)))
    assert len(set(files)) == 1, files
    connected = daemon.events("DEVICE_BACKEND_CONNECTED", "blk0")
    assert len(connected) == (1 if keep == "on" else kills), connected
    writer = write(daemon.sockets["blk0"])
    writer.finish(storage.image, fresh=False)
    check_served(daemon, mode)
    writer.guest.quit()
