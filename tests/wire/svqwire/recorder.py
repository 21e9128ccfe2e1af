"""What became of each request, written down outside of the back-ends that come and go.

A request's identity is the serial number at the start of its readable data, which grows by one for
each request of a queue. Rules, judged while it is written:

  - one life of a back-end takes a queue's requests in the order of their numbers: so what is
    submitted again comes in its old order, and before anything new;
  - a request that a back-end has published as used is not taken again, unless the ring in which it
    was published is gone (`rings_die`: svqd was killed, and its shadow rings with it);
  - a request that the guest has seen completed is never taken again;
  - the guest sees a request completed once, and after it was executed.
"""

import struct
import threading
from collections import Counter

SERIAL = struct.Struct("<Q")


class Recorder:
    def __init__(self, rings_die=False):
        self.rings_die = rings_die
        self.lock = threading.Lock()  # back-ends' threads and the driver's
        self.life = 0
        self.newest = {}  # (life, queue) -> serial
        self.lives = {}  # back-end -> life
        self.takes, self.executions = Counter(), Counter()  # by (queue, serial)
        self.used, self.seen = set(), set()
        self.messages, self.crashes, self.violations = [], Counter(), []

    # A back-end's life.

    def born(self, backend):
        with self.lock:
            self.life += 1
            self.lives[backend] = self.life

    def died(self, point):
        with self.lock:
            self.crashes[point] += 1

    def message(self, backend, message):
        with self.lock:
            self.messages.append((self.lives.get(backend), message.name))

    # A request's.

    def took(self, backend, queue, data):
        serial = SERIAL.unpack_from(data)[0]
        name, life = (queue, serial), self.lives[backend]
        with self.lock:
            if serial <= self.newest.get((life, queue), -1):
                self.wrong(f"{name} after {self.newest[life, queue]} in life {life}")
            if name in self.seen:
                self.wrong(f"{name} again in life {life}, and the guest has seen it completed")
            elif name in self.used and not self.rings_die:
                self.wrong(f"{name} again in life {life}, and it was published as used")
            self.newest[life, queue] = serial
            self.takes[name] += 1
        return serial

    def executed(self, backend, queue, chains):
        with self.lock:
            for chain in chains:
                self.executions[queue, chain.serial] += 1

    def published(self, backend, queue, chains):
        with self.lock:
            self.used.update((queue, chain.serial) for chain in chains)

    def completed(self, queue, serial):
        """The guest's driver found it in its ring."""
        name = (queue, serial)
        with self.lock:
            if name in self.seen:
                self.wrong(f"{name} was completed twice towards the guest")
            if not self.executions[name]:
                self.wrong(f"{name} was completed and never executed")
            self.seen.add(name)

    # The judgement.

    def wrong(self, text):
        self.violations.append(text)

    def again(self):
        """How often requests were taken again."""
        return sum(self.takes.values()) - len(self.takes)

    def twice(self):
        """Requests that were executed more than once."""
        return [name for name, count in self.executions.items() if count > 1]

    def judge(self, submitted):
        """Everything was submitted, is completed, and nothing went wrong. submitted: by queue."""
        assert not self.violations, self.violations[:5]
        for queue, count in enumerate(submitted):
            seen = {serial for index, serial in self.seen if index == queue}
            missing = sorted(set(range(count)) - seen)
            assert not missing, f"queue {queue}: {missing[:10]} never completed"
            assert len(seen) == count, f"queue {queue}: completed what was not submitted"
