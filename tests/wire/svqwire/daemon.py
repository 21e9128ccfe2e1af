"""The real svqd: started with its own sockets, watched, and asserted to end well."""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from .qmp import Qmp, QmpError
from .wait import wait_until

PRCTL = ctypes.CDLL(None).prctl
REPOSITORY = Path(__file__).resolve().parents[3]
BAD_SIGNS = re.compile(r"Sanitizer|runtime error:|Assertion|assertion|SUMMARY:|stack smashing")


def binary():
    return Path(os.environ.get("SVQD", REPOSITORY / "build" / "svqd"))


def sanitized():
    """Sanitizers keep freed memory: resident size says nothing then."""
    return b"__asan_init" in binary().read_bytes() or b"__tsan_init" in binary().read_bytes()


def die_with_us():
    """No svqd outlives the tests, even when those are killed."""
    PRCTL(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Svqd:
    def __init__(self, folder, devices=(), arguments=(), qmp=True, level="info", prefix=(),
                 pass_fds=()):
        """devices: dicts of --device's keys. prefix: a command that becomes svqd."""
        self.folder = Path(folder)
        self.qmp_path = self.folder / "qmp.sock"
        self.checked, self.pass_fds = True, pass_fds
        self.command = [*prefix, str(binary()), "--log-level", level]
        for device in devices:
            keys = ",".join(f"{key}={value}" for key, value in device.items())
            self.command += ["--device", keys]
        if qmp:
            self.command += ["--qmp", str(self.qmp_path)]
        self.command += arguments
        self.start("w+b")

    def start(self, mode="ab"):
        """Also a successor of one that was killed."""
        self.stderr = open(self.folder / "svqd.log", mode)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            notify = self.folder / "notify.sock"
            ready.bind(str(notify))
            ready.settimeout(0.05)
            environment = dict(os.environ, NOTIFY_SOCKET=str(notify))
            self.process = subprocess.Popen(
                self.command, stderr=self.stderr, stdin=subprocess.DEVNULL,
                env=environment, preexec_fn=die_with_us, pass_fds=self.pass_fds,
            )
            self.wait_ready(ready)
            notify.unlink()
        self.qmp = Qmp(self.qmp_path) if "--qmp" in self.command else None

    def wait_ready(self, ready):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in ready.recv(4096):
                    return
            except TimeoutError:
                assert self.process.poll() is None, f"svqd ended at once:\n{self.log()}"
        self.process.kill()
        raise AssertionError(f"svqd never said READY=1:\n{self.log()}")

    # What it says.

    def log(self):
        return (self.folder / "svqd.log").read_text(errors="replace")

    def wait_log(self, pattern, seconds=5.0):
        return wait_until(
            lambda: re.search(pattern, self.log()), lambda: f"log {pattern!r}:\n{self.log()}",
            seconds,
        )

    def device(self, id):
        return next(d for d in self.qmp.command("query-devices") if d["id"] == id)

    def queue(self, id, index):
        queues = self.qmp.command("query-queues", id=id)
        return next(q for q in queues if q["index"] == index)

    def wait_mode(self, id, mode, seconds=5.0):
        wait_until(
            lambda: self.device(id)["mode"] == mode,
            lambda: f"mode {mode} of {id}: {self.device(id)}", seconds,
        )

    def shadow(self, id, enable):
        return self.qmp.command("x-vhost-enable-shadow-vq", name=id, enable=enable)

    def refused(self, id, enable):
        """The error of a switch that must not work."""
        try:
            self.shadow(id, enable)
        except QmpError as error:
            return error
        raise AssertionError(f"shadow {enable} of {id} was to be refused")

    # What it holds.

    @property
    def pid(self):
        return self.process.pid

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def fd_names(self):
        names = []
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                names.append(os.readlink(f"/proc/{self.pid}/fd/{name}"))
            except FileNotFoundError:
                pass
        return sorted(names)

    def maps(self):
        """Mappings of files: memory of guests, rings, regions, logs. What an allocator maps for
        itself, a sanitizer's above all, comes and goes."""
        lines = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return sum(line.split()[4] != "0" for line in lines)

    def memory(self, what):
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", text)[1])

    def rss(self):
        """Resident KiB."""
        return self.memory("VmRSS")

    def data(self):
        """KiB of heap and the like, also of what the kernel has reclaimed meanwhile."""
        return self.memory("VmData")

    def effort(self):
        """(CPU ticks, context switches) of all its threads so far."""
        ticks = switches = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
            status = (task / "status").read_text()
            switches += int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", status)[1])
        return ticks, switches

    def wait_fds(self, count, seconds=5.0):
        wait_until(
            lambda: self.fds() <= count,
            lambda: f"{count} fds instead of {self.fds()}: {self.fd_names()}", seconds,
        )

    # Its end.

    def stacks(self):
        """Where it hangs, when there is a debugger to ask."""
        if not shutil.which("gdb"):
            return ""
        command = ["gdb", "-p", str(self.pid), "-batch", "-ex", "thread apply all bt"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    def kill(self):
        """It has no time to tidy up."""
        if self.qmp:
            self.qmp.close()
        self.process.kill()
        self.process.wait()
        self.stderr.close()

    def stop(self, seconds=15.0):
        if self.qmp:
            self.qmp.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            stacks = self.stacks()
            self.process.kill()
            self.process.wait()
            code = f"none: killed after SIGTERM did not end it\n{stacks}"
        log = self.log()
        self.stderr.close()
        if self.checked:
            found = BAD_SIGNS.search(log)
            assert not found, f"svqd's log:\n{log}"
            assert code == 0, f"svqd's exit code {code}:\n{log}"
        return code
