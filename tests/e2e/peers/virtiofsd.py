"""virtiofsd, the C one that comes with QEMU 7.2 (Debian: qemu-system-common)."""

import os

from .procfs import children, io_bytes


class Virtiofsd:
    """Shares a folder. It serves one connection and then exits by itself. Needs root."""

    def __init__(self, bench, program, folder, name="virtiofsd"):
        self.socket = bench.path(name + ".sock")
        # No thread pool: its idle threads ask for their CPUs, which the program's own seccomp
        # filter answers by killing them.
        argv = [program, f"--socket-path={self.socket}", "-o", f"source={folder}"]
        argv += ["-o", "cache=none", "-o", "sandbox=chroot"]
        self.process = bench.spawn(name, argv)
        self.process.wait_until(lambda: os.path.exists(self.socket), "listens")

    def bytes_moved(self):
        pids = [self.process.pid, *children(self.process.pid)]
        return sum(io_bytes(pid) for pid in pids)
