"""qemu-storage-daemon with vhost-user-blk exports of one raw image."""

import hashlib
import os

from .procfs import io_bytes
from .qmp import Qmp


class StorageDaemon:
    """All exports show the same image, one socket each: a migration needs one per QEMU."""

    def __init__(self, bench, mib=96, exports=1, queues=4, name="storage"):
        self.image = bench.path(name + ".img")
        with open(self.image, "wb") as image:
            image.truncate(mib << 20)
        self.sockets = [bench.path(f"{name}{i}.sock") for i in range(exports)]
        argv = [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=file0,filename={self.image}",
            "--blockdev", "driver=raw,node-name=disk0,file=file0",
            "--chardev", f"socket,id=qmp,path={bench.path(name)}.qmp,server=on,wait=off",
            "--monitor", "chardev=qmp",
        ]  # fmt: skip
        for i, path in enumerate(self.sockets):
            argv += [
                "--export",
                f"type=vhost-user-blk,id=export{i},node-name=disk0,addr.type=unix,"
                f"addr.path={path},writable=on,num-queues={queues}",
            ]
        self.process = bench.spawn(name, argv)
        for path in self.sockets:
            self.process.wait_until(lambda path=path: os.path.exists(path), f"{path} listens")
        self.qmp = Qmp(bench.path(name) + ".qmp")

    def bytes_moved(self):
        """Bytes read from and written to the image so far (the daemon uses plain system calls)."""
        return io_bytes(self.process.pid)

    def checksum(self):
        digest = hashlib.md5()
        with open(self.image, "rb") as image:
            while data := image.read(1 << 20):
                digest.update(data)
        return digest.hexdigest()
