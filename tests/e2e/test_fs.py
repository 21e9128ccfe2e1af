"""A guest's file system over virtiofsd: a third device type, for which svqd has no code."""

import hashlib
import os
import random
import shutil

import pytest

from peers.guest import Guest, vhost_fs
from peers.toggle import toggle_under_load
from peers.virtiofsd import Virtiofsd
from peers.wait import wait_for

SWITCHES = 30


def make_tree(folder, files=120):
    """Folders and files of 0 to 400 KB with random contents; returns {relative path: md5}."""
    rng = random.Random(20261123)
    sums = {}
    for number in range(files):
        name = f"dir{number % 7}/sub{number % 3}/file {number}"
        path = os.path.join(folder, "in", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        data = rng.randbytes(rng.choice([0, 1, 511, 4096, 60000, rng.randrange(400000)]))
        with open(path, "wb") as file:
            file.write(data)
        sums[name] = hashlib.md5(data).hexdigest()
    with open(os.path.join(folder, "sums"), "w", encoding="ascii") as file:
        file.writelines(f"{md5}  {name}\n" for name, md5 in sums.items())
    return sums


def read_tree(folder):
    sums = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                sums[os.path.relpath(path, folder)] = hashlib.md5(file.read()).hexdigest()
    return sums


def test_copy_tree(bench, wire, need, kernel, initramfs, direct):
    """The guest copies a file tree in and out under 30 switches; guest and host compare it."""
    program = need("virtiofsd", "qemu-system-common")
    if os.getuid() != 0:
        pytest.skip("QEMU's virtiofsd needs root to change its root folder")
    share = bench.path("share")
    os.makedirs(share)
    sums = make_tree(share)
    daemon = Virtiofsd(bench, program, share)
    wiring = wire({"fs0": daemon.socket})
    guest = Guest(bench, kernel, initramfs, vhost_fs(wiring.sockets["fs0"]), cpus=2)
    guest.wait_ready()
    guest.run("mount -t virtiofs share /mnt")
    guest.start("copy", "copy.sh")
    toggle_under_load(
        wiring, "fs0", SWITCHES, daemon.bytes_moved, 1 << 20, guest.assert_well
    )
    wait_for(lambda: "round 2" in guest.run("cat /tmp/copy"), "two rounds are copied", 120, 0.2)
    guest.finish("copy.sh", "copy")
    guest.run("umount /mnt")
    assert read_tree(os.path.join(share, "out")) == sums
    guest.assert_no_trouble()
    wiring.assert_no_errors()
    if not direct:
        assert wiring.device("fs0")["switches"] == SWITCHES
    guest.quit()
    wiring.assert_nothing_leaked()
    shutil.rmtree(share)
