"""The guest's initramfs: busybox, a few kernel modules, our init and programs."""

import lzma
import os
import shlex
import stat
import subprocess
from pathlib import Path

from .kernel import Unavailable

GUEST = Path(__file__).resolve().parent.parent / "guest"
PROGRAMS = ["churn", "pinger"]
MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtiofs"]


class Cpio:
    """A writer of the newc format, the one the kernel unpacks."""

    def __init__(self):
        self._parts = []
        self._inode = 0

    def _entry(self, name, mode, data=b""):
        self._inode += 1
        name = name.encode() + b"\0"
        fields = [self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def folder(self, name):
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o755):
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def bytes(self):
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)


def compile_program(name, folder):
    """One of our guest programs. The guest has no C library: link statically."""
    out = os.path.join(folder, name)
    argv = [*shlex.split(os.environ.get("CC", "cc")), "-O2", "-Wall", "-static", "-pthread"]
    done = subprocess.run(
        [*argv, "-o", out, str(GUEST / f"{name}.c")], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"{name}.c does not compile:\n{done.stderr}")
    return Path(out).read_bytes()


def build(kernel, folder):
    """Write the initramfs into folder and return its path."""
    busybox = "/bin/busybox"
    if not os.path.exists(busybox):
        raise Unavailable("no /bin/busybox (package busybox-static)")
    cpio = Cpio()
    for name in ["bin", "dev", "proc", "sys", "tmp", "mnt", "modules", "root"]:
        cpio.folder(name)
    cpio.file("bin/busybox", Path(busybox).read_bytes())
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            cpio.link("bin/" + applet, "busybox")
    names = []
    for file in kernel.module_files(MODULES):
        data = file.read_bytes()
        if file.suffix == ".xz":
            data = lzma.decompress(data)
        names.append(file.name.removesuffix(".xz"))
        cpio.file("modules/" + names[-1], data, 0o644)
    cpio.file("modules/order", "".join(name + "\n" for name in names).encode(), 0o644)
    for name in PROGRAMS:
        cpio.file("bin/" + name, compile_program(name, folder))
    cpio.file("bin/copy.sh", (GUEST / "copy.sh").read_bytes())
    cpio.file("init", (GUEST / "init.sh").read_bytes())
    out = os.path.join(folder, "initramfs.cpio")
    Path(out).write_bytes(cpio.bytes())
    return out
