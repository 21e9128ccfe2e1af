"""Starting and ending svqd: sockets, options, readiness."""

import os
import socket
import subprocess

import pytest
from svqwire.backend import BackEnd
from svqwire.bench import Unit
from svqwire.daemon import Svqd, binary


def run(*arguments):
    return subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=10)


def test_version_and_help():
    assert run("--version").returncode == 0
    assert "svqd" in run("--version").stdout
    assert "--device" in run("--help").stdout


@pytest.mark.parametrize("arguments", [
    ["--no-such-option"],
    ["--device", "id=a"],
    ["--device", "id=a,frontend=/tmp/none,backend=tcp:1"],
    ["--device", "id=a,frontend=/tmp/none,backend=vhost-user:/tmp/x,shadow=perhaps"],
    ["--device", "id=a,frontend=/tmp/none,backend=vhost-user:/tmp/x,unknown=1"],
    ["--workers", "0"], ["--log-level", "loud"], ["--config", "/none"],
], ids=" ".join)
def test_bad_options(arguments):
    ended = run(*arguments)
    assert ended.returncode not in (0, -6, -11)
    assert ended.stderr.strip(), "no word about what is wrong"


def test_a_processor_that_is_not_there(folder):
    ended = run("--worker-cpus", "1023", "--qmp", str(folder / "qmp.sock"))
    assert ended.returncode == 1
    assert "worker-cpus" in ended.stderr and "not there" in ended.stderr


def test_the_same_id_twice(folder):
    device = f"id=a,frontend={folder}/a,backend=vhost-user:{folder}/b"
    ended = run("--device", device, "--device", device.replace("/a,", "/c,"))
    assert ended.returncode > 0 and "a" in ended.stderr


def test_stale_socket_is_replaced(folder, closing):
    unit = closing(Unit(folder, "dev0", queues=2))
    for path in (unit.address, folder / "qmp.sock"):
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(path))
        stale.close()
    svqd = Svqd(folder, [unit.device()])
    unit.start()
    unit.io()
    svqd.stop()
    assert not unit.address.exists() and not (folder / "qmp.sock").exists()


def test_one_device_s_trouble_is_its_own(folder, closing):
    """Many devices on one svqd, in one process with one QMP; some outlive their back-ends."""
    units = [closing(Unit(folder, f"dev{n}", queues=1)) for n in range(12)]
    svqd = Svqd(folder, [unit.device(shadow=("on", "auto")[n % 2], reconnect=n % 4) for n, unit in
                         enumerate(units)], ["--workers", "2"])
    for unit in units:
        unit.start()
        unit.io()
    for number, victim in list(enumerate(units))[::3]:
        victim.backend.disconnect()
        if number % 4 == 0:
            assert victim.vmm.closed_by_peer()
            victim.hang_up()
    for unit in units:
        if unit.vmm:
            unit.io()
    svqd.stop()


@pytest.mark.parametrize("workers, poll", [(1, 0), (2, 50), (4, 1000)])
def test_workers_and_polling(folder, closing, workers, poll):
    unit = closing(Unit(folder, "dev0", queues=4, event_idx=True))
    svqd = Svqd(folder, [unit.device(shadow="on")],
                ["--workers", str(workers), "--poll-us", str(poll)])
    unit.start()
    for _ in range(5):
        unit.io(20)
    svqd.shadow("dev0", False)
    unit.io(20)
    assert len({svqd.queue("dev0", n)["worker"] for n in range(4)}) <= workers
    svqd.stop()


def test_late_back_end(folder, closing):
    """The back-end appears while the front-end already waits for it."""
    unit = closing(Unit(folder, "dev0", queues=2))
    path = unit.backend.path
    unit.backend.close()
    os.unlink(path)
    svqd = Svqd(folder, [unit.device(message_timeout=10)])
    vmm = unit.dial()
    vmm.post(1)
    unit.backend = BackEnd(path)
    vmm.reply(1, 8)
    unit.start()
    unit.io()
    svqd.stop()
