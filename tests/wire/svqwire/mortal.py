"""A back-end that dies where it is told to, and lives again.

A crash point is the name of a step (see BackQueue: popped, counted, noting, taken, executing,
executed, linked, put, published, cleared, called, ...) or of a message, "before GET_VRING_BASE" or
"after" it, and how many of them pass first. Dead, it knows nothing any more: its memory is unmapped
and its descriptors are closed. `down` seconds later another one listens.

It completes a little at a time, out of order where that is allowed, in batches, so that at any
moment something is taken, executed, or published and not yet told.
"""

import random
import time

from . import message as wire
from .backend import FEATURES, PROTOCOL, BackEnd
from .backqueue import BackQueue
from .fault import Crash

# The steps of ring work, by where they may occur.
COMMON = ("popped", "taken", "executing", "executed", "put", "published", "called")
SPLIT_REGION = ("counted", "linked", "finished", "cleared", "committed")
PACKED_REGION = ("noting", "noted", "linked", "finished", "cleared", "committing", "committed")
MESSAGES = (
    "GET_FEATURES", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES", "SET_OWNER", "SET_FEATURES",
    "SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_CALL", "SET_VRING_KICK",
    "SET_VRING_ENABLE",
)
PAUSE = 0.0002  # seconds between two portions of work
TRACKING = PROTOCOL | wire.P_INFLIGHT


class Mortal(BackEnd):
    def __init__(self, path, recorder=None, seed=0, down=0, protocol=TRACKING, features=FEATURES,
                 **options):
        self.pick = random.Random(seed)
        self.plan, self.point, self.deaths = None, None, 0
        self.down, self.alive = down, True  # down: None for ever
        self.begun = []  # when each session did
        self.portions = True  # False: it completes all it has at once
        super().__init__(path, features=features, protocol=protocol, **options)
        self.recorder = recorder

    def _reset_session(self):
        super()._reset_session()
        self.queues = [MortalQueue(self, i) for i in range(self.queue_num)]

    # Where it dies.

    def doom(self, point, passes=0):
        """It will die at the passes + 1st such point."""
        self.plan = [point, passes]

    def doomed(self):
        return self.plan is not None

    def step(self, name):
        if self.plan and self.plan[0] == name:
            if self.plan[1] == 0:
                self.point, self.plan = name, None
                raise Crash
            self.plan[1] -= 1

    def _handle(self, message, refuse=False):
        if self.recorder:
            self.recorder.message(self, message)
        try:
            self.step(f"before {message.name}")
        except Crash:
            self._close_fds(message)
            raise
        reply = super()._handle(message, refuse)
        try:
            self.step(f"after {message.name}")
        except Crash:
            if reply:
                self._close_fds(reply)
            raise
        return reply

    # Death and life.

    def _accept(self):
        before = self.sessions
        super()._accept()
        if self.sessions > before:
            self.begun.append(time.monotonic())
            if self.recorder:
                self.recorder.born(self)

    def kill(self):
        self.run(self.crash)

    def crash(self):
        point, self.point = self.point or "kill", None
        self.deaths += 1
        if self.recorder:
            self.recorder.died(point)
        super().crash()
        down = self.down  # the test may change it meanwhile
        if down != 0:
            self.leave()
            if down:
                self.later(down, self.rise)

    def leave(self):
        """Nobody is there."""
        if self.alive:
            self.alive = False
            self.door.shut()

    def rise(self):
        if not self.alive and self.running:
            self.alive = True
            self.door.open()


class MortalQueue(BackQueue):
    def process(self):
        self.take()
        self.work(self.ring)

    def work(self, ring):
        """A portion of what is held, then the next one a little later."""
        backend = self.backend
        if backend.hold or not self.held or self.ring is not ring:
            return
        count = backend.pick.randint(1, len(self.held)) if backend.portions else len(self.held)
        portion = self.held[:count]
        if not self.in_order and backend.pick.random() < 0.5:
            portion = backend.pick.sample(self.held, count)
        self.held = [chain for chain in self.held if chain not in portion]
        self.complete(portion)
        if self.held:
            backend.later(PAUSE, lambda: self.work(ring))

    def batches(self, chains):
        """One by one in a packed ring with a region: of a batch that is torn by the crash, used
        descriptors behind the first would stay, and come to light with the next first."""
        if self.in_order or self.backend.corrupt or self.keeper and self.backend.packed:
            return super().batches(chains)
        size = self.backend.pick.randint(1, len(chains))
        return [chains[i : i + size] for i in range(0, len(chains), size)]
