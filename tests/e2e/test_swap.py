"""device-set-backend: from one back-end to another and back while the front-end is at work."""

import random
import time

import pytest

from peers import figures
from peers.figures import times
from peers.guest import vhost_blk
from peers.packets import BURST, WINDOW, PacketLoop
from peers.qmp import QmpError
from peers.storage import Image, StorageDaemon
from peers.testpmd import Testpmd, vhost_port, virtio_user_port
from peers.wait import SCALE, wait_for
from peers.writer import Writer

pytestmark = [pytest.mark.svqd_only, pytest.mark.timeout(900)]
MIB = 1 << 20
DISK_MIB = 16


class Swaps:
    """A device going back and forth, and how long its queues paused each time."""

    def __init__(self, daemon, ident):
        self._daemon = daemon
        self._ident = ident
        self._pauses = []

    def to(self, socket_path):
        address = f"vhost-user:{socket_path}"
        answer = self._daemon.qmp.execute("device-set-backend", id=self._ident, backend=address)
        self._pauses.append(answer["pause-microseconds"])
        peer = self._daemon.device(self._ident)["backend"]
        assert peer["address"] == address and peer["link"] == "up", peer

    def refuse(self, socket_path, cause=""):
        """Nothing changes when the new one will not do."""
        before = self._daemon.device(self._ident)["backend"]["address"]
        with pytest.raises(QmpError) as refusal:
            self.to(socket_path)
        wanted = f"Can't change the back-end of {self._ident}: "
        assert refusal.value.desc.startswith(wanted) and cause in refusal.value.desc
        assert self._daemon.device(self._ident)["backend"]["address"] == before

    def check(self):
        device = self._daemon.device(self._ident)
        assert device["backend"]["outages"] == 0, device
        changed = self._daemon.events("DEVICE_BACKEND_CHANGED", self._ident)
        assert [event["microseconds"] for event in changed] == self._pauses
        assert self._daemon.events("DEVICE_BACKEND_DISCONNECTED", self._ident) == []
        figures.say(f"{len(changed)} swaps; pause " + figures.spread(self._pauses))


@pytest.mark.quick
@pytest.mark.parametrize("mode", ["shadow", "pass-through"])
def test_disk(bench, wire, need, kernel, initramfs, mode):
    """Two live storage daemons show one image to a guest that writes all the time."""
    need("qemu-storage-daemon", "qemu-utils")
    image = Image(bench, DISK_MIB, "disk")
    ends = [StorageDaemon(bench, name=name, image=image) for name in ("one", "two")]
    other = StorageDaemon(bench, mib=DISK_MIB // 2, name="other")
    options = {"shadow": {"shadow": "on", "pass-through": "off"}[mode]}
    # Nobody at the new address is waited for that long.
    daemon = wire({"blk0": ends[0].sockets[0]}, message_timeout=5 * SCALE, **options)
    writer = Writer(bench, kernel, initramfs, vhost_blk(daemon.sockets["blk0"])).begin()
    swaps, count = Swaps(daemon, "blk0"), times(15)
    for number in range(count):
        end = ends[(number + 1) % 2]
        before = end.bytes_moved()
        swaps.to(end.sockets[0])
        wait_for(
            lambda end=end, before=before: end.bytes_moved() > before + MIB // 4,
            f"I/O goes on after swap {number + 1}",
        )
        writer.guest.assert_well()
        if number == count // 2:
            swaps.refuse(bench.path("nobody.sock"))
            swaps.refuse(other.sockets[0], "config")
    assert daemon.mode("blk0") == mode
    swaps.check()
    writer.wait_progress()
    writer.finish(image)
    assert not other.image.contents().strip(b"\0"), "something was written to the wrong disk"
    writer.guest.quit()
    daemon.assert_nothing_leaked()


def test_disk_dies(bench, wire, need, kernel, initramfs):
    """One of the two storage daemons is killed about when the device changes from one to the other:
    it ends up with whom the answer says."""
    need("qemu-storage-daemon", "qemu-utils")
    image = Image(bench, DISK_MIB, "disk")
    ends = [StorageDaemon(bench, name=name, image=image) for name in ("one", "two")]
    daemon = wire({"blk0": ends[0].sockets[0]}, shadow="on")
    writer = Writer(bench, kernel, initramfs, vhost_blk(daemon.sockets["blk0"])).begin()
    served, refusals = 0, 0
    for _ in range(times(8)):
        wanted = f"vhost-user:{ends[1 - served].sockets[0]}"
        order = daemon.aside("device-set-backend", id="blk0", backend=wanted)
        time.sleep(random.uniform(0, 0.02))
        victim = random.choice(ends)
        victim.crash()
        victim.start()
        refusal = order.result()
        if refusal:
            assert refusal.desc.startswith("Can't change the back-end of blk0: "), refusal
            refusals += 1
        else:
            served = 1 - served

        def up():
            ends[served].revive()
            return daemon.device("blk0")["backend"]["link"] == "up"

        wait_for(up, "it has its back-end")
        address = daemon.device("blk0")["backend"]["address"]
        assert address == f"vhost-user:{ends[served].sockets[0]}", (address, refusal)
        writer.wait_progress(MIB // 4, meanwhile=ends[served].revive)
    figures.say(f"{times(8)} kills about a change, {refusals} changes failed for it")
    assert daemon.mode("blk0") == "shadow"
    writer.finish(image)
    writer.guest.quit()
    daemon.assert_nothing_leaked()


@pytest.mark.parametrize("shadow", ["on", "off"], ids=["shadow", "pass-through"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_network(bench, wire, need, packed, shadow):
    """Two DPDK ports: packets return from each in turn, in order, unchanged and none twice.

    A port drops what is in its hands when its rings stop: at most a burst for each swap.
    """
    need("dpdk-testpmd", "dpdk-dev")
    sockets = [bench.path(f"{name}.sock") for name in ("one", "two")]
    ends = [
        Testpmd(bench, name, [vhost_port(path)], "io", args=["--port-topology=loop"])
        for name, path in zip(("one", "two"), sockets)
    ]
    daemon = wire({"net0": sockets[0]}, shadow=shadow)
    packets = PacketLoop(bench, [60, 64, 333, 1024, 1514])
    front = Testpmd(
        bench,
        "front",
        [packets.port, virtio_user_port(daemon.sockets["net0"], packed=packed)],
        "io",
        args=["--port-topology=paired"],
        cores=2,
        patient=True,
    )

    def flow(count):
        enough = packets.received + count
        wait_for(lambda: packets.pump(0.002) >= enough, f"{count} packets come back", interval=0)

    flow(1000)
    swaps, count = Swaps(daemon, "net0"), times(12)
    for number in range(count):
        swaps.to(sockets[(number + 1) % 2])
        flow(WINDOW + 1)
        for process in (front.process, *(end.process for end in ends)):
            process.assert_alive()
    flow(1000)
    device = daemon.device("net0")
    assert device["mode"] == {"on": "shadow", "off": "pass-through"}[shadow], device
    formats = {queue["guest"]["format"] for queue in device["queues"][:2]}
    assert formats == {"packed" if packed else "split"}, device
    swaps.check()
    packets.drain()
    assert packets.lost <= count * BURST, f"{packets.lost} of {packets.sent} packets lost"
    figures.say(f"{packets.lost} of {packets.sent} packets were under way and dropped")
    front.end()
    packets.close()
    daemon.assert_no_errors()
    daemon.assert_nothing_leaked()
