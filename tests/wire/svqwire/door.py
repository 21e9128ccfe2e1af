"""How a back-end and its front-end come together: either may be the one that listens.

A door belongs to its back-end's thread. It is watched while nobody is served, and calls _accept()
when somebody may be there.
"""

import os
import socket

REDIAL = 0.005  # seconds between two attempts


class Listening:
    """The front-end connects; others wait while one is served."""

    def __init__(self, backend):
        self.backend, self.listener = backend, None

    def open(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.backend.path)
        self.listener.listen(8)
        self.admit()

    def admit(self):
        if self.listener and self.listener.fileno() not in self.backend.selector.get_map():
            self.backend.watch(self.listener.fileno(), self.backend._accept)

    def pause(self):
        self.backend.unwatch(self.listener.fileno())

    def take(self):
        return self.listener.accept()[0]

    def close(self):
        if self.listener:
            self.pause()
            self.listener.close()
            self.listener = None

    def shut(self):
        """Nobody listens any more, and there is no name left to call."""
        if self.listener:
            self.close()
            os.unlink(self.backend.path)


class Calling:
    """The back-end connects, again and again, and is served once the front-end speaks to it."""

    def __init__(self, backend):
        self.backend, self.socket, self.opened = backend, None, False
        self.calls = 0  # connections made

    def open(self):
        self.opened = True
        self.admit()

    def admit(self):
        if not self.opened or self.socket or self.backend.connection or not self.backend.running:
            return
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self.backend.path)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            self.backend.later(REDIAL, self.admit)
            return
        self.socket, self.calls = sock, self.calls + 1
        self.backend.watch(sock.fileno(), self.backend._accept)

    def pause(self):
        """Nobody else can come while one is served."""

    def take(self):
        sock = self.release()
        try:
            if sock.recv(1, socket.MSG_PEEK):
                return sock
        except ConnectionResetError:
            pass
        sock.close()
        self.backend.later(REDIAL, self.admit)
        return None

    def release(self):
        sock, self.socket = self.socket, None
        self.backend.unwatch(sock.fileno())
        return sock

    def close(self):
        self.opened = False
        if self.socket:
            self.release().close()

    shut = close
