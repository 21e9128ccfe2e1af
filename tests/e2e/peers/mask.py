"""A man in the middle that takes features away from a vhost-user back-end.

No packaged back-end lacks VHOST_F_LOG_ALL; with its bit cleared in every GET_FEATURES reply any
one does. Messages and their file descriptors pass otherwise unchanged. As a program:

    mask.py LISTEN BACKEND FEATURES PROTOCOL-FEATURES      (both masks in hexadecimal)
"""

import os
import select
import socket
import struct
import sys
import threading

GET_FEATURES = 1
GET_PROTOCOL_FEATURES = 15
LOG_ALL = 1 << 26
HEADER = struct.Struct("<III")
MAX_FDS = 16


def receive(sock):
    """One message: (id, flags, payload, fds); None at end of file."""
    data, fds, size = b"", [], HEADER.size
    while len(data) < size:
        more, got, _, _ = socket.recv_fds(sock, size - len(data), MAX_FDS)
        if not more:
            return None
        data += more
        fds += got
        if size == HEADER.size and len(data) == size:
            size += HEADER.unpack(data)[2]
    ident, flags, _ = HEADER.unpack(data[: HEADER.size])
    return ident, flags, data[HEADER.size :], fds


def send(sock, message):
    ident, flags, payload, fds = message
    data = HEADER.pack(ident, flags, len(payload)) + payload
    if fds:
        sent = socket.send_fds(sock, [data], fds)
        data = data[sent:]
        for fd in fds:
            os.close(fd)
    sock.sendall(data)


def relay(front, path, features, protocol):
    """One session: from a front-end's connection until either side leaves."""
    cleared = {GET_FEATURES: features, GET_PROTOCOL_FEATURES: protocol}
    with front, socket.socket(socket.AF_UNIX) as back:
        try:
            back.connect(path)
            while True:
                for sock in select.select([front, back], [], [])[0]:
                    message = receive(sock)
                    if message is None:
                        return
                    ident, flags, payload, fds = message
                    if sock is back and ident in cleared:
                        (value,) = struct.unpack("<Q", payload)
                        payload = struct.pack("<Q", value & ~cleared[ident])
                    send(front if sock is back else back, (ident, flags, payload, fds))
        except OSError as error:
            print(f"mask: {error}", flush=True)


def main():
    listen, backend, features, protocol = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(listen)
    listener.listen()
    while True:
        front, _ = listener.accept()
        print("mask: session", flush=True)
        masks = (int(features, 16), int(protocol, 16))
        threading.Thread(target=relay, args=(front, backend, *masks), daemon=True).start()


class Mask:
    """The mask before one back-end socket, as a process of the bench."""

    def __init__(self, bench, backend, name, features=LOG_ALL, protocol=0):
        self.socket = bench.path(name + ".sock")
        argv = [sys.executable, __file__, self.socket, backend, f"{features:x}", f"{protocol:x}"]
        self.process = bench.spawn(name, argv)
        self.process.wait_until(lambda: os.path.exists(self.socket), "listens")


if __name__ == "__main__":
    main()
