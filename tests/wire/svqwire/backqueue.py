"""One virtqueue of the scripted back-end: what was set, and the device that serves it.

The device answers each chain with guest.answer(). How it does is set on the BackEnd:
    order   "fifo" | "lifo" (a batch is completed back to front)
    hold    True: chains wait for BackEnd.release() or for what `drain` says
    drain   "before" (GET_VRING_BASE completes what is held, then answers) | "after" (it answers
            first and completes a little later) | "asked" (likewise, at BackEnd.finish_stopped()) |
            "never"
    short   True: the used length says 1 byte although everything was written
    strict  False: what a sloppy guest writes in its own tables is let pass
    half_base  True: GET_VRING_BASE of a packed ring knows the lower 16 bits only, as DPDK
    from_first  True: with IN_ORDER a ring that starts at 0 begins with descriptor 0
    corrupt a function (queue, chain) that writes something of its own into the used ring
"""

import os

from .devicering import DeviceRing
from .guest import answer
from .message import F_IN_ORDER, F_INDIRECT
from .packeddevice import PackedDevice

LATE = 0.05  # seconds between an early GET_VRING_BASE answer and the completions


class BackQueue:
    def __init__(self, backend, index):
        self.backend, self.index = backend, index
        self.num, self.addr, self.flags, self.log_gpa, self.base = 0, None, 0, 0, 0
        self.kick = self.call = self.err = -1
        self.enabled = False
        self.ring = self.stopped = None  # stopped: the ring of the last GET_VRING_BASE
        self.held = []
        self.keeper = None  # of the in-flight region's part
        self.kicks = self.calls = self.chains = 0

    def set_fd(self, name, fd):
        old = getattr(self, name)
        if old >= 0:
            self.backend.unwatch(old)
            os.close(old)
        setattr(self, name, fd)

    def start(self):
        """KICK came: the ring can run."""
        backend = self.backend
        self.ring = (PackedDevice if backend.packed else DeviceRing)(
            backend.memory, self.num, self.addr, self.base, backend.event_idx,
            backend.dirty_log, self.log_gpa if self.flags & 1 else None,
        )
        self.ring.unlogged = lambda: backend.step("unlogged")
        self.ring.takes_indirect = bool(backend.acked & F_INDIRECT)
        self.ring.strict = backend.strict
        self.ring.in_order = self.in_order
        if backend.from_first and not self.base:
            self.ring.next_slot = 0
        self.stopped = None
        region = backend.inflight
        self.keeper = region.keeper(self.index, backend.packed) if region else None
        if self.keeper:
            self.held = self.keeper.begin(self.ring)
            self.taken(self.held)
        self.watch()
        if self.held:
            os.eventfd_write(self.kick, 1)  # they are served with the first kick

    def watch(self):
        """Kicks wait in the eventfd while the ring is disabled."""
        if self.kick < 0:
            return
        self.backend.unwatch(self.kick)
        if self.ring and self.enabled:
            self.backend.watch(self.kick, self.kicked)

    def kicked(self):
        try:
            os.eventfd_read(self.kick)
            self.kicks += 1
        except BlockingIOError:
            return
        self.process()

    def process(self):
        self.take()
        if not self.backend.hold:
            self.complete_held()

    def take(self):
        step = self.backend.step
        while chain := self.ring.pop():
            step("popped")
            if self.keeper:
                self.keeper.take(chain, step)
            self.taken([chain])
            self.held.append(chain)
            self.chains += 1
            step("taken")

    def taken(self, chains):
        if self.backend.recorder:
            for chain in chains:
                chain.serial = self.backend.recorder.took(self.backend, self.index, chain.read())

    def ordered(self, chains):
        fifo = self.backend.order == "fifo" or self.backend.acked & F_IN_ORDER
        return chains if fifo else chains[::-1]

    def complete(self, chains):
        if not chains:
            return
        ring = chains[0].ring
        for batch in self.batches(chains):
            self.give_back(ring, batch)
        self.signal(ring)
        self.backend.step("called")

    def batches(self, chains):
        """What is published at once: with IN_ORDER everything, for one entry stands for it."""
        return [chains] if self.in_order else [[chain] for chain in chains]

    @property
    def in_order(self):
        return bool(self.backend.acked & F_IN_ORDER and not self.backend.corrupt)

    def give_back(self, ring, chains):
        backend, done = self.backend, []
        for chain in chains:
            if backend.corrupt and backend.corrupt(self, chain):
                continue
            data = answer(chain.read(), chain.room)
            backend.step("executing")
            chain.write(data)
            done.append((chain, 1 if backend.short and data else len(data)))
        if not done:
            return
        chains = [chain for chain, _ in done]
        if backend.recorder:
            backend.recorder.executed(backend, self.index, chains)
        backend.step("executed")
        if self.keeper:
            self.keeper.finish(chains, backend.step)
            backend.step("finished")
        ring.give_back(done, self.in_order, backend.step)
        if backend.recorder:
            backend.recorder.published(backend, self.index, chains)
        backend.step("published")
        if self.keeper:
            self.keeper.commit(chains, ring, backend.step)
            backend.step("committed")

    def signal(self, ring):
        if self.call >= 0 and ring.wants_call():
            self.calls += 1
            os.eventfd_write(self.call, 1)

    def complete_held(self):
        held, self.held = self.held, []
        self.complete(self.ordered(held))

    def stop(self):
        """GET_VRING_BASE: the base, after which kick, call and addresses are forgotten."""
        ring, drain = self.ring, self.backend.drain
        if not ring:
            return self.told(self.stopped.base()) if self.stopped else self.base
        if drain == "before":
            self.complete_held()
        if drain in ("after", "asked") and self.held:
            held, self.held = self.held, []
            call = os.dup(self.call) if self.call >= 0 and self.backend.keeps_call else -1
            if drain == "after":
                self.backend.later(LATE, lambda: self.finish_late(held, call))
            else:
                self.backend.stopped.append((self, held, call))
        self.held = []
        self.forget()
        self.stopped, self.base = ring, self.told(ring.base())
        return self.base

    def told(self, base):
        return base & 0xFFFF if self.backend.half_base else base

    def finish_late(self, chains, call):
        if self.ring:
            if call >= 0:
                os.close(call)
            self.complete([self.ring.adopt(chain) for chain in chains])
            return
        mine, self.call = self.call, call
        try:
            self.complete(chains)
        finally:
            self.call = mine
            if call >= 0:
                os.close(call)

    def forget(self):
        self.set_fd("kick", -1)
        self.set_fd("call", -1)
        self.ring, self.addr = None, None

    def close(self):
        for name in ("kick", "call", "err"):
            self.set_fd(name, -1)
        self.ring, self.stopped, self.held = None, None, []
