"""A QEMU Machine Protocol client: QEMU and svqd speak it alike."""

import json
import socket
import time

from .wait import SCALE, Deadline, wait_for


class QmpError(Exception):
    """An {"error": ...} answer."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.error_class = error["class"]
        self.desc = error["desc"]


class Qmp:
    """One negotiated monitor connection. Events that arrive in between are kept in .events."""

    def __init__(self, path, timeout=30):
        self.events = []
        self._buffer = b""
        self._next_id = 0
        self._socket = wait_for(lambda: self._try_connect(path), f"{path} accepts", timeout)
        self.greeting = self._read(timeout)["QMP"]
        self.execute("qmp_capabilities")

    @staticmethod
    def _try_connect(path):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            return None
        return sock

    def close(self):
        self._socket.close()

    def _read(self, timeout):
        end = time.monotonic() + timeout * SCALE
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise Deadline(f"no QMP message within {timeout * SCALE:g} s")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise ConnectionError("QMP connection closed")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def execute(self, command, timeout=30, **arguments):
        """Run a command, return its result; raise QmpError if it is refused."""
        self._next_id += 1
        request = {"execute": command, "id": self._next_id}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._read(timeout)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(message["error"])
            else:
                assert message.get("id") == self._next_id, message
                return message["return"]

    def wait_event(self, name, timeout=30, **data):
        """The first not yet taken event called name whose data holds the given pairs."""
        end = time.monotonic() + timeout * SCALE
        while True:
            for event in self.events:
                got = event.get("data", {})
                if event["event"] == name and all(got.get(k) == v for k, v in data.items()):
                    self.events.remove(event)
                    return got
            left = end - time.monotonic()
            if left <= 0:
                raise Deadline(f"no event {name} {data}; seen since: {self.events}")
            try:
                self.events.append(self._read(left / SCALE))
            except Deadline:
                continue
