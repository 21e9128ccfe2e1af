"""A driver that keeps its queues busy while back-ends, or svqd itself, come and go."""

import os
import time

from .wait import Late

SEED = os.environ.get("SVQ_SEED", "1")
CALL_SECONDS = 3.0  # in which a completion must be called for, crashes included


class Pump:
    def __init__(self, guest, recorder, depth=4):
        self.guest, self.recorder, self.depth = guest, recorder, depth
        self.served = lambda: True  # is there somebody who could call?
        for queue in guest.queues:
            queue.recorder = recorder

    def turn(self, seconds=0.003):
        """Fills each queue and takes what is complete, waiting for a call for so long."""
        for queue in self.guest.queues:
            while len(queue.ring.outstanding) < self.depth and queue.ring.room(4):
                queue.submit_random()
            self.harvest(queue, seconds)

    def harvest(self, queue, seconds):
        try:
            queue.complete(1, seconds)
        except Late:
            # Published and not called for: the call may still come, late, but come it must.
            deadline = time.monotonic() + CALL_SECONDS
            while queue.ring.has_used() and self.served() and not queue.call.wait(0.05):
                if time.monotonic() > deadline:
                    raise

    def until(self, condition, what, seconds=10.0):
        deadline = time.monotonic() + seconds
        while not condition():
            self.turn()
            if time.monotonic() > deadline:
                raise Late(f"{seconds} s of I/O: {what() if callable(what) else what}")

    def rounds(self, count, seconds=10.0):
        """As many completions on each queue."""
        seen = [queue.serial + count for queue in self.guest.queues]
        self.until(lambda: all(q.serial >= n for q, n in zip(self.guest.queues, seen)),
                   "completions on every queue", seconds)

    def fill(self, count):
        """Requests that nobody waits for yet."""
        for queue in self.guest.queues:
            for _ in range(count):
                queue.submit_random()

    def finish(self, seconds=10.0):
        """No more requests; all complete, and the record has no fault."""
        for queue in self.guest.queues:
            queue.drain(seconds)
        self.recorder.judge([queue.serial for queue in self.guest.queues])

    def outstanding(self):
        return sum(len(queue.ring.outstanding) for queue in self.guest.queues)
