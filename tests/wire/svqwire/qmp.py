"""A client of QEMU's machine protocol."""

import json
import socket
import time

from .wait import Late, wait_until


class QmpError(Exception):
    def __init__(self, error):
        super().__init__(f"{error.get('class')}: {error.get('desc')}")
        self.error_class, self.desc = error.get("class"), error.get("desc")


class Qmp:
    def __init__(self, path, negotiate=True, seconds=10.0):
        self.seconds = seconds
        self.sock = wait_until(lambda: self._dial(path), f"QMP at {path}", seconds)
        self.sock.settimeout(seconds)
        self.buffer = b""
        self.events = []
        self.greeting = self.read()
        if negotiate:
            self.command("qmp_capabilities")

    @staticmethod
    def _dial(path):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None

    def write(self, line):
        self.sock.sendall(line if isinstance(line, bytes) else line.encode())

    def read(self, seconds=None):
        """The next object, of whatever kind."""
        self.sock.settimeout(self.seconds if seconds is None else max(seconds, 0.001))
        while b"\n" not in self.buffer:
            part = self.sock.recv(65536)
            if not part:
                raise EOFError("QMP was closed")
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def answer(self):
        """The next answer; events are set aside."""
        while True:
            item = self.read()
            if "event" not in item:
                return item
            self.events.append(item)

    def raw(self, command):
        self.write(json.dumps(command) + "\r\n")
        return self.answer()

    def command(self, name, /, **arguments):
        request = {"execute": name}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        answer = self.raw(request)
        if "error" in answer:
            raise QmpError(answer["error"])
        return answer["return"]

    def wait_event(self, name, seconds=5.0, **data):
        """The first event of that name whose data holds these values; it is used up."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self.events:
                fits = all(event["data"].get(key) == value for key, value in data.items())
                if event["event"] == name and fits:
                    self.events.remove(event)
                    return event
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                item = self.read(left)
            except TimeoutError:
                raise Late(f"no event {name} {data} in {seconds} s; seen: {self.events}") from None
            assert "event" in item, f"an answer nobody asked for: {item}"
            self.events.append(item)

    def drain(self):
        """Sets aside every event that has come by now; the query is the fence."""
        self.command("query-version")
        return self.events

    def close(self):
        self.sock.close()
