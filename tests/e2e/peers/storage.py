"""qemu-storage-daemon with vhost-user-blk exports of a raw image."""

import hashlib
import os
import signal

from . import figures
from .procfs import io_bytes


class Image:
    """A raw disk image, all zeros at first."""

    def __init__(self, bench, mib, name):
        self.path = bench.path(name + ".img")
        with open(self.path, "wb") as image:
            image.truncate(mib << 20)

    def contents(self):
        with open(self.path, "rb") as image:
            return image.read()

    def checksum(self):
        return hashlib.md5(self.contents()).hexdigest()


class StorageDaemon:
    """All exports show the same image, one socket each: a migration needs one per QEMU.

    image: what is shown, if not an image of its own. Several daemons may show one.
    """

    def __init__(self, bench, mib=96, exports=1, queues=4, name="storage", image=None):
        self.image = image or Image(bench, mib, name)
        self.sockets = [bench.path(f"{name}{i}.sock") for i in range(exports)]
        self._bench = bench
        self._name = name
        self._queues = queues
        self._moved_before = 0
        self.start()

    def start(self):
        argv = [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=file0,filename={self.image.path}",
            "--blockdev", "driver=raw,node-name=disk0,file=file0",
        ]  # fmt: skip
        for i, path in enumerate(self.sockets):
            if os.path.exists(path):  # of one that was killed
                os.unlink(path)
            argv += [
                "--export",
                f"type=vhost-user-blk,id=export{i},node-name=disk0,addr.type=unix,"
                f"addr.path={path},writable=on,num-queues={self._queues}",
            ]
        self.process = self._bench.spawn(self._name, argv)
        for path in self.sockets:
            self.process.wait_until(lambda path=path: os.path.exists(path), f"{path} listens")

    def crash(self):
        """kill -9: it completes nothing more; what it has written to the image stays."""
        if self.process.alive:
            self._moved_before = self.bytes_moved()
        self.process.kill()

    def revive(self):
        """Start it again if it has died of its own mistake: version 7.2 does, now and then, when
        its front-end leaves while requests are in flight and more have been announced."""
        if not self.process.alive:
            assert "Assertion `!server->wait_idle' failed" in self.process.log(), self.process.log()
            figures.say(f"{self._name} died of its own assertion and was started again")
            self.start()

    def freeze(self):
        self.process.child.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.child.send_signal(signal.SIGCONT)

    def bytes_moved(self):
        """Bytes read from and written to the image so far (the daemon uses plain system calls)."""
        return self._moved_before + (io_bytes(self.process.pid) if self.process.alive else 0)

    def checksum(self):
        return self.image.checksum()
