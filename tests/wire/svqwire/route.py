"""The way from a front-end to its back-end: without svqd, or through it in one of its modes.

    direct        the front-end speaks to the scripted back-end: what the others must equal
    pass-through  svqd between, as it starts
    shadow        svqd between, shadow=on
    flip          svqd between; the scenario calls turn() between its steps, which switches
    storm         svqd between; a thread switches all the time
"""

import threading

from .backend import BackEnd
from .daemon import Svqd
from .qmp import Qmp, QmpError
from .wait import wait_until

KINDS = ("direct", "pass-through", "shadow", "flip", "storm")
BY_SVQD = KINDS[1:]
NOT_STARTED = "Device is not started"
REFUSED = "Error enabling (see monitor)"


class Route:
    def __init__(self, kind, folder, names=("dev0",), backend=BackEnd, device=None, **options):
        """options: the BackEnd's. device: further keys of --device."""
        self.kind, self.folder, self.names = kind, folder, names
        self.backends = {
            name: backend(folder / f"{name}.back", **options) for name in names
        }
        self.svqd = self.storm = None
        self.shadowed = kind == "shadow"
        self.tolerated = [NOT_STARTED]
        if kind != "direct":
            devices = [self.device(name, device or {}) for name in names]
            self.svqd = Svqd(folder, devices)
            self.fds = self.svqd.fds()
        if kind == "storm":
            self.storm = Storm(self.svqd, names, self.tolerated)

    def device(self, name, more):
        keys = dict(
            id=name, frontend=self.folder / f"{name}.front",
            backend=f"vhost-user:{self.folder}/{name}.back",
        )
        keys["shadow"] = "on" if self.kind == "shadow" else "auto"
        return {**keys, **more}

    @property
    def backend(self):
        return self.backends[self.names[0]]

    def address(self, name=None):
        name = name or self.names[0]
        return self.folder / (f"{name}.back" if self.kind == "direct" else f"{name}.front")

    @property
    def logs(self):
        """Whether the back-end itself has to log: only without svqd."""
        return self.kind == "direct"

    def tolerate(self, text):
        """From now on a switch may be refused with that cause."""
        self.tolerated.append(text)

    def turn(self):
        """A point where a `flip` scenario may switch. A stopped device refuses."""
        if self.kind != "flip":
            return
        self.shadowed = not self.shadowed
        for name in self.names:
            try:
                self.svqd.shadow(name, self.shadowed)
            except QmpError as error:
                assert any(text in error.desc for text in self.tolerated), error

    def close(self):
        """Ends everything; a breach of the protocol towards the back-end fails the test."""
        errors = []
        try:
            if self.storm:
                errors += self.storm.close()
            if self.svqd:
                for backend in self.backends.values():
                    backend.wait_disconnected()
                self.svqd.wait_fds(self.fds)
        finally:
            try:
                if self.svqd:
                    self.svqd.stop()
            finally:
                for backend in self.backends.values():
                    backend.close()
                    errors += backend.violations
        assert not errors, errors


class Storm:
    """Switches every device on and off for as long as it lives."""

    PAUSE = 0.002  # between two switches, so that there is work in each mode

    def __init__(self, svqd, names, tolerated):
        self.svqd, self.names = svqd, names
        self.qmp = Qmp(svqd.qmp_path)
        self.ending = threading.Event()
        self.switches, self.errors = 0, []
        self.tolerated = tolerated
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        enable = True
        while not self.ending.wait(self.PAUSE):
            for name in self.names:
                try:
                    self.qmp.command("x-vhost-enable-shadow-vq", name=name, enable=enable)
                    self.switches += 1
                except QmpError as error:
                    if not any(text in error.desc for text in self.tolerated):
                        self.errors.append(str(error))
                        return
                except (EOFError, OSError) as error:
                    self.errors.append(f"QMP died: {error}")
                    return
            enable = not enable
            self.qmp.events.clear()

    def wait_switches(self, count, seconds=10.0):
        target = self.switches + count
        wait_until(lambda: self.switches >= target, f"{count} switches: {self.errors}", seconds)

    def close(self):
        self.ending.set()
        self.thread.join(30)
        assert not self.thread.is_alive(), "the switching thread hangs in QMP"
        self.qmp.close()
        return self.errors
