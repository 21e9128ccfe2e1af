"""The daemon under test, and the wiring that can leave it out."""

import concurrent.futures
import functools
import os
import subprocess
from pathlib import Path

from .procfs import Activity, open_files
from .qmp import Qmp, QmpError
from .wait import SCALE, wait_for

REPOSITORY = Path(__file__).resolve().parents[3]


def binary():
    return Path(os.environ.get("SVQD") or REPOSITORY / "build" / "svqd").absolute()


class Svqd:
    """One svqd process. devices: {id: back-end socket}; options apply to every device."""

    def __init__(self, bench, devices, name="svqd", args=(), **options):
        self.sockets = {ident: bench.path(f"{name}-{ident}.sock") for ident in devices}
        # A peer that a busy machine starves is no failure: the tests' own deadlines come first.
        options = {"message_timeout": 60 * SCALE, **options}
        self.monitor = bench.path(name + ".qmp")
        argv = [binary(), "--qmp", self.monitor, "--log-level", "debug", *args]
        for ident, backend in devices.items():
            device = f"id={ident},frontend={self.sockets[ident]},backend=vhost-user:{backend}"
            for key, value in options.items():
                device += f",{key.replace('_', '-')}={value}"
            argv += ["--device", device]
        self._spawn = functools.partial(bench.spawn, name, argv)
        self.start()
        self.idle_files = open_files(self.process.pid)
        bench.on_close(self.end)

    def start(self):
        self.process = self._spawn()
        for path in [*self.sockets.values(), self.monitor]:
            self.process.wait_until(lambda path=path: os.path.exists(path), f"{path} listens")
        self.qmp = Qmp(self.monitor)

    def crash(self):
        """kill -9. start() makes one that knows nothing of this one, whose sockets still lie
        about."""
        self.process.kill()
        self.qmp.close()

    def shadow(self, ident, enable):
        self.qmp.execute("x-vhost-enable-shadow-vq", name=ident, enable=enable)

    def aside(self, command, **arguments):
        """A command that runs while we do other things: a future, of None or of the QmpError that
        refused it."""

        def run():
            qmp = Qmp(self.monitor)
            try:
                qmp.execute(command, timeout=90, **arguments)
            except QmpError as refusal:
                return refusal
            finally:
                qmp.close()
            return None

        pool = concurrent.futures.ThreadPoolExecutor(1)
        future = pool.submit(run)
        pool.shutdown(wait=False)
        return future

    def device(self, ident):
        (found,) = [d for d in self.qmp.execute("query-devices") if d["id"] == ident]
        return found

    def mode(self, ident):
        return self.device(ident)["mode"]

    def events(self, name, ident):
        """The data of all events of that name about a device so far."""
        self.qmp.execute("query-version")  # reads every event sent before its answer
        events = [event["data"] for event in self.qmp.events if event["event"] == name]
        return [data for data in events if data["id"] == ident]

    def status(self):
        """What svqctl status tells people, line by line, with single blanks."""
        argv = [binary().parent / "svqctl", "--socket", self.monitor, "status"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    def activity(self):
        return Activity(self.process.pid)

    def assert_no_errors(self):
        """No error was logged and every device and queue is free of one."""
        errors = [line for line in self.process.log().splitlines() if ": error:" in line]
        assert not errors, errors
        for device in self.qmp.execute("query-devices"):
            assert "last-error" not in device, device
            assert not any("error" in queue for queue in device["queues"]), device

    def assert_nothing_leaked(self):
        """All front-ends are gone: the daemon holds the files it held before the first came."""
        wait_for(
            lambda: not any(d["frontend"]["connected"] for d in self.qmp.execute("query-devices")),
            "all front-ends are gone",
        )
        wait_for(
            lambda: len(open_files(self.process.pid)) <= len(self.idle_files),
            f"svqd closes its session's files; before {self.idle_files}, "
            f"now {open_files(self.process.pid)}",
        )

    def end(self):
        """SIGTERM ends it cleanly: status 0, no socket left. Holds for sanitizer builds as well."""
        if self.process.alive and not self.process.ended_by_us:
            self.qmp.close()
            status = self.process.stop()
            assert status == 0, f"svqd exit status {status}:\n{self.process.log()[-3000:]}"
            left = [path for path in self.sockets.values() if os.path.exists(path)]
            assert not left, f"svqd left its sockets: {left}"
        else:
            assert self.process.ended_by_us, (
                f"svqd died with status {self.process.child.returncode}:\n"
                f"{self.process.log()[-3000:]}"
            )


class Direct:
    """The same face with no svqd: front-ends connect straight to the back-ends."""

    def __init__(self, devices):
        self.sockets = dict(devices)

    def shadow(self, ident, enable):
        pass

    def mode(self, ident):
        return "direct"

    def assert_no_errors(self):
        pass

    def assert_nothing_leaked(self):
        pass


def wire(bench, devices, direct=False, name="svqd", **options):
    """Put svqd, or nothing, before the given back-ends."""
    return Direct(devices) if direct else Svqd(bench, devices, name=name, **options)
