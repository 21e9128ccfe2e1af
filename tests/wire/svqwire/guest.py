"""A guest: memory, queues, and a driver whose every request is checked.

The driver sleeps on the call eventfd and kicks only when the ring asks for it, as a real one
does: a lost kick or call shows as a request that never completes.
"""

import random
import time

from .eventfd import EventFd
from .memory import GuestMemory
from .packedring import PackedRing
from .recorder import SERIAL
from .ring import GuestRing
from .wait import Late

TRANSFORM = bytes(value ^ 0x5A for value in range(256))


def answer(data, room):
    """What the scripted device writes into `room` bytes for `data`."""
    if not room:
        return b""
    source = data.translate(TRANSFORM) if data else b"\x5a"
    return (source * (room // len(source) + 1))[:room]


def make_ring(memory, packed=False, **options):
    return (PackedRing if packed else GuestRing)(memory, **options)


class Queue:
    def __init__(self, index, ring):
        self.index, self.ring = index, ring
        self.kick, self.call, self.err = EventFd(), EventFd(), EventFd()
        self.random = random.Random(index)
        self.serial = 0  # of the next random request
        self.recorder = None

    def submit(self, readable=(), writable=(), **options):
        chain = self.ring.add(readable, writable, **options)
        self.flush()
        return chain

    def flush(self, force=False):
        if self.ring.publish() or force:
            self.kick.signal()

    def submit_random(self):
        """A request of random shape, which begins with its number."""
        pick = self.random
        readable = [pick.randbytes(pick.randint(1, 300)) for _ in range(pick.randint(1, 2))]
        readable[0] = SERIAL.pack(self.serial) + readable[0]
        writable = [pick.randint(1, 600) for _ in range(pick.randint(0, 2))]
        self.serial += 1
        return self.submit(readable, writable)

    def check(self, chain):
        expected = answer(chain.data, chain.room)
        written = self.ring.written(chain)
        assert written == expected, (
            f"queue {self.index}, chain {chain.head}: the device's answer is not in memory: "
            f"{written[:16].hex()} instead of {expected[:16].hex()} ({chain.room} bytes)"
        )

    def complete(self, count=1, seconds=5.0, check=True):
        """Waits, by calls, for `count` completions; checks and releases them."""
        done, deadline = [], time.monotonic() + seconds
        while True:
            done += self.ring.harvest()
            if len(done) >= count:
                break
            if self.ring.want_calls(True):
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not self.call.wait(left):
                if self.ring.has_used():
                    raise Late(f"queue {self.index}: completions without a call")
                raise Late(
                    f"queue {self.index}: {len(done)} of {count} chains completed in {seconds} s"
                    f" (avail {self.ring.avail_idx}, used {self.ring.used_idx()})"
                )
        for chain in done:
            if self.recorder:
                self.recorder.completed(self.index, SERIAL.unpack_from(chain.data)[0])
            if check:
                self.check(chain)
            self.ring.release(chain)
        return done

    def io(self, count=16, depth=4, seconds=10.0):
        """`count` verified requests with at most `depth` in flight; then none is."""
        submitted = completed = 0
        while completed < count:
            while submitted < count and len(self.ring.outstanding) < depth and self.ring.room(4):
                self.submit_random()
                submitted += 1
            completed += len(self.complete(seconds=seconds))
        return completed

    def drain(self, seconds=5.0):
        """Completes whatever is outstanding."""
        if self.ring.outstanding:
            self.complete(len(self.ring.outstanding), seconds)

    def close(self):
        for event in (self.kick, self.call, self.err):
            event.close()


class Guest:
    """The VM. Its memory and rings outlive connections."""

    def __init__(self, queues=2, memory=None, **options):
        """options: the rings': packed, num, event_idx, indirect, in_order."""
        self.memory = memory or GuestMemory()
        self.options = options
        self.life = 0  # how often the driver has started over
        rings = [make_ring(self.memory, **self.options) for _ in range(queues)]
        self.queues = [Queue(index, ring) for index, ring in enumerate(rings)]
        self.own(self.queues)

    def own(self, queues):
        """All that there are, also while a test keeps some of them away from the VMM."""
        self.all, self.count = tuple(queues), len(queues)

    def moved(self, memory):
        """The same guest on another host, in `memory`."""
        guest = Guest(0, memory=memory, **self.options)
        guest.queues = [Queue(q.index, q.ring.moved(memory)) for q in self.queues]
        guest.own(guest.queues)
        guest.count = self.count
        return guest

    def io(self, count=16, depth=4):
        """Verified requests on every queue."""
        for queue in self.queues:
            queue.io(count, depth)

    def drain(self):
        for queue in self.queues:
            queue.drain()

    def restart(self, **options):
        """The driver starts over (device reset); eventfds stay."""
        self.options.update(options)
        self.life += 1
        for queue in self.queues:
            if options:
                queue.ring = make_ring(self.memory, **self.options)
            else:
                queue.ring.restart()
            queue.call.take()

    def close(self):
        for queue in self.all:
            queue.close()
        self.memory.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
