"""Whoever starts svqd with listening sockets and keeps them: a supervisor, or systemd."""

import os
import socket
import sys

# Becomes the command in its arguments, with the given descriptors from 3 on, as systemd does.
ACTIVATE = """
import fcntl, os, sys
fds, names, pid = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in fds]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=pid or str(os.getpid()))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.closerange(3 + len(fds), 200)
os.execv(sys.argv[4], sys.argv[4:])
"""


class Holder:
    def __init__(self, *paths):
        self.paths = paths
        self.sockets = []
        for path in paths:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(8)
            self.sockets.append(listener)

    @property
    def fds(self):
        return [listener.fileno() for listener in self.sockets]

    def numbers(self):
        """How svqd is started so that it has them under the numbers in `fds`."""
        return dict(pass_fds=self.fds)

    def activation(self, names="", pid=""):
        """Likewise, from 3 on and with systemd's environment."""
        fds = ",".join(str(fd) for fd in self.fds)
        return dict(prefix=(sys.executable, "-c", ACTIVATE, fds, names, pid), pass_fds=self.fds)

    def close(self):
        for listener, path in zip(self.sockets, self.paths):
            listener.close()
            if os.path.exists(path):
                os.unlink(path)
