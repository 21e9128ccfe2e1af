"""Verified I/O in a thread, for as long as it lives."""

import threading

from .wait import wait_until


class Load:
    def __init__(self, guest, count=8, depth=4):
        self.guest, self.count, self.depth = guest, count, depth
        self.error, self.rounds = None, 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.ending.is_set():
                self.guest.io(self.count, self.depth)
                self.rounds += 1
        except BaseException as error:  # raised again where the test looks
            self.error = error

    def wait_rounds(self, count, seconds=20):
        target = self.rounds + count
        wait_until(lambda: self.error or self.rounds >= target, "I/O under load", seconds)
        if self.error:
            raise self.error

    def close(self):
        self.ending.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error
