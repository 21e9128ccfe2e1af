"""svq-ramdisk: unlike every packaged storage daemon it keeps an in-flight region, and it has packed
rings."""

import os
import re

from .procfs import open_files
from .storage import Image
from .svqd import binary
from .wait import wait_for


class RamDisk:
    """The disk's contents are a file's, in shared memory: they outlive a kill -9.

    Requests take half a millisecond and complete in any order: some are always in flight.
    """

    def __init__(self, bench, mib, queues=4, name="ramdisk"):
        self.image = Image(bench, mib, name)
        self.sockets = [bench.path(name + ".sock")]
        self._bench = bench
        self._name = name
        self._argv = [
            binary().parent / "svq-ramdisk",
            "--socket", self.sockets[0], "--file", self.image.path, "--size", mib,
            "--queues", queues, "--delay-us", 500,
        ]  # fmt: skip
        self.start()

    def start(self):
        (path,) = self.sockets
        if os.path.exists(path):  # of one that was killed
            os.unlink(path)
        self.process = self._bench.spawn(self._name, self._argv)
        self.process.wait_until(lambda: os.path.exists(path), f"{path} listens")
        self._idle_files = open_files(self.process.pid)

    def crash(self):
        self.process.kill()

    def revive(self):
        """Nothing to do but to see that it runs: it never dies by itself."""
        self.process.assert_alive()

    def replayed(self):
        """How many requests it has found in its region, in all its lives."""
        found = re.findall(r"(\d+) requests to do again", self.process.log())
        return sum(int(count) for count in found)

    def assert_nothing_leaked(self):
        """Its front-end is gone, and so are all files that came from it."""
        wait_for(
            lambda: len(open_files(self.process.pid)) <= len(self._idle_files),
            f"{self._name} closes its session's files",
        )
