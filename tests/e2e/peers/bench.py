"""The bench: the scratch folder and the processes of one test."""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile

from .wait import wait_for

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _die_with_parent(nice):
    def preexec():
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if nice:
            os.nice(nice)

    return preexec


class Process:
    """A child whose output goes to a log file and which cannot outlive us."""

    def __init__(self, bench, name, argv, nice=0, env=None):
        self.name = name
        self.argv = [str(arg) for arg in argv]
        self.log_path = bench.path(name + ".log")
        self.ended_by_us = False
        # Some peers (testpmd) leave at end of file on stdin, so they get a pipe we keep open.
        with open(self.log_path, "ab") as log:
            self.child = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=bench.folder,
                env={**os.environ, **(env or {})},
                preexec_fn=_die_with_parent(nice),
            )

    @property
    def pid(self):
        return self.child.pid

    @property
    def alive(self):
        return self.child.poll() is None

    def log(self):
        with open(self.log_path, "rb") as log:
            return log.read().decode(errors="replace")

    def assert_alive(self):
        assert self.alive, (
            f"{self.name} ended with {self.child.returncode}; its log ends:\n{self.log()[-3000:]}"
        )

    def wait_until(self, condition, what, timeout=30):
        """Wait for a condition this process brings about; its death ends the wait at once."""

        def check():
            value = condition()
            if not value:
                self.assert_alive()
            return value

        return wait_for(check, f"{self.name}: {what}", timeout)

    def wait_log(self, text, timeout=30):
        self.wait_until(lambda: text in self.log(), f"log says {text!r}", timeout)

    def wait_exit(self, timeout=30):
        wait_for(lambda: not self.alive, f"{self.name} (pid {self.pid}) exits", timeout)
        return self.child.returncode

    def stop(self, sig=signal.SIGTERM, timeout=15):
        """End the process by its own pid and return its exit status."""
        if self.alive:
            self.ended_by_us = True
            self.child.send_signal(sig)
            try:
                self.wait_exit(timeout)
            except AssertionError:
                self.child.kill()
                self.child.wait()
        self.child.stdin.close()
        return self.child.returncode

    def kill(self):
        return self.stop(signal.SIGKILL)


class Bench:
    """Owns a scratch folder, short-named as socket paths end at 107 bytes, and its processes."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="svq-e2e-")
        self.processes = []
        self.closers = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def spawn(self, name, argv, **options):
        process = Process(self, name, argv, **options)
        self.processes.append(process)
        return process

    def on_close(self, function):
        """Run function at the end, before the processes are stopped; last registered goes first."""
        self.closers.append(function)

    def close(self, keep=False):
        """End everything in reverse order of its start. The first error is raised at the end."""
        errors = []
        for action in [*reversed(self.closers), *(p.stop for p in reversed(self.processes))]:
            try:
                action()
            except Exception as error:  # every process must still be stopped
                errors.append(error)
        if not (keep or errors):
            shutil.rmtree(self.folder, ignore_errors=True)
        if errors:
            raise errors[0]

    def report(self, tail=4000):
        """The ends of all logs, for the report of a failed test."""
        parts = [f"scratch folder: {self.folder}"]
        for name in sorted(os.listdir(self.folder)):
            if not name.endswith(".log"):
                continue
            with open(self.path(name), "rb") as log:
                text = log.read().decode(errors="replace")
            parts.append(f"--- {name} (last {min(tail, len(text))} of {len(text)})\n{text[-tail:]}")
        return "\n".join(parts)
