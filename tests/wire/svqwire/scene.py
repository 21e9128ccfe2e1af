"""A device in a given state of its recovery, with a driver whose requests are all accounted for.

Two queues run, a third one is kept for later; `other` is a second back-end on the same data.
"""

import threading

from .bench import Bench
from .dirtylog import DirtyLog
from .message import F_LOG_ALL, Id, Message, u64
from .mortal import Mortal
from .pump import Pump
from .qmp import Qmp, QmpError
from .recorder import Recorder
from .wait import wait_until

SILENCE = 0.8  # message-timeout, in seconds
DRAIN = 0.8  # drain-timeout
HELD = 3  # requests in flight on each queue


class Command(threading.Thread):
    """A command that somebody else gives meanwhile."""

    def __init__(self, scene, name, /, **arguments):
        super().__init__(daemon=True)
        self.qmp = Qmp(scene.made.svqd.qmp_path, seconds=20)
        self.name_, self.arguments = name, arguments
        self.answer = self.error = None
        self.start()

    def run(self):
        try:
            self.answer = self.qmp.command(self.name_, **self.arguments)
        except (QmpError, EOFError, OSError) as error:
            self.error = error

    def done(self, seconds=10):
        self.join(seconds)
        assert not self.is_alive(), f"{self.name_} is never answered"
        self.qmp.close()
        return self


class Scene:
    def __init__(self, folder, closing, shadow="auto", pair=None, keys=None, theirs=True,
                 logged=False, backend_options=None, **options):
        """theirs: does the VMM have an in-flight region? logged: is it migrated all the time?"""
        self.recorder, self.closing = Recorder(), closing
        keys = {"reconnect": 0.02, "message-timeout": SILENCE, "drain-timeout": DRAIN,
                **(keys or {})}
        options = {"backend": Mortal, "queues": 3, "num": 16, "shadow": shadow, "start": False,
                   "backend_options": {"recorder": self.recorder, **(backend_options or {})},
                   "keys": keys, **options}
        self.made = closing(pair.bench(folder, **options) if pair else Bench(folder, **options))
        self.other = closing(Mortal(folder / "other", self.recorder,
                                    features=self.made.unit.backend.features,
                                    protocol=self.made.unit.backend.protocol))
        self.unit, self.svqd, self.qmp = self.made.unit, self.made.svqd, self.made.qmp
        self.backend, self.guest = self.unit.backend, self.unit.guest
        self.features, self.config = self.backend.features, bytes(self.backend.config)
        self.backend.portions = self.other.portions = False
        self.spare = self.guest.queues.pop()
        self.pump = Pump(self.guest, self.recorder)
        self.spare.recorder = self.recorder
        self.command, self.theirs, self.logged = None, theirs, logged
        self.count = 2  # back-ends
        self.log = None  # the one that was started last
        self.warm = 2  # requests that each queue has completed when those in flight come

    # Ways into a state.

    def start(self):
        self.unit.dial().keeps_region = self.theirs
        self.unit.vmm.connect()
        self.unit.vmm.start()
        self.unit.vmm.sync()
        if self.logged:
            self.start_log()
        return self.unit.vmm

    def serve(self, shadow=False):
        """Running, with requests in flight."""
        self.start()
        if shadow:
            self.svqd.shadow("dev0", True)
        self.pump.rounds(self.warm)
        self.hold()

    def hold(self):
        self.pump.finish()
        self.backend.run(lambda: setattr(self.backend, "hold", True))
        self.pump.fill(HELD)
        wait_until(lambda: self.backend.held() == HELD * len(self.guest.queues), "requests held")

    def in_switch(self, enable=True):
        """The old rings are stopped and not drained yet."""
        self.backend.drain = "asked"
        self.command = Command(self, "x-vhost-enable-shadow-vq", name="dev0", enable=enable)
        self.wait_stopped()

    def in_replacement(self):
        self.backend.drain = "asked"
        self.command = self.replace(self.other)
        self.wait_stopped()

    def wait_stopped(self):
        wait_until(lambda: self.backend.stopped, lambda: f"stopped rings: {self.backend.names()}")

    def lose(self):
        """The back-end dies, and nobody comes in its place."""
        self.backend.down = None
        self.backend.kill()
        self.wait_link("lost")

    def refuse(self):
        """The one in its place does not fit."""
        self.backend.down = 0
        self.backend.features &= ~(1 << 6)
        self.backend.kill()
        self.wait_link("refused")

    # What is asked.

    def state(self):
        return self.svqd.device("dev0")

    def link(self):
        return self.state()["backend"]["link"]

    def wait_link(self, link, seconds=5):
        wait_until(lambda: self.link() == link, lambda: f"{link}: {self.state()}", seconds)

    def third(self, **options):
        """One more back-end."""
        self.count += 1
        return self.closing(Mortal(f"{self.other.path}{self.count}", **options))

    def deletion(self):
        return Command(self, "device-del", id="dev0")

    def replace(self, backend):
        address = backend if isinstance(backend, str) else f"vhost-user:{backend.path}"
        return Command(self, "device-set-backend", id="dev0", backend=address)

    def garbage(self):
        """The back-end answers what nobody asked."""
        reply = Message(Id.GET_QUEUE_NUM, 5, u64(1))
        self.backend.run(lambda: reply.send(self.backend.connection))

    def start_log(self):
        self.log = log = DirtyLog.for_memory(self.guest.memory)
        vmm = self.unit.vmm
        vmm.set_log_base(log)
        vmm.set_features(vmm.acceptable() | F_LOG_ALL)
        for queue in self.guest.queues:
            vmm.vring_addr(queue, 1, queue.ring.used_gpa)
        return log

    def stop_log(self):
        vmm = self.unit.vmm
        vmm.set_features(vmm.acceptable())
        for queue in self.guest.queues:
            vmm.vring_addr(queue)

    # Ways out.

    def mend(self):
        """All back-ends are as they should be."""
        for backend in (self.backend, self.other):
            backend.run(lambda b=backend: self.mend_one(b))

    def mend_one(self, backend):
        backend.faults.clear()
        backend.features, backend.queue_num = self.features, 4
        backend.config[:] = self.config
        backend.plan, backend.down = None, 0
        backend.rise()
        backend.finish_stopped()
        backend.complete_held()

    def serves(self, queues=()):
        """Everything is completed as it has to be, and more is served."""
        self.mend()
        if self.command:
            self.command.done()
        self.guest.queues.extend(queues)
        self.pump.finish()
        self.pump.rounds(3)
        self.pump.finish()
        self.unit.vmm.sync()
        assert self.link() == "up", self.state()

    def ended(self):
        """The front-end was let go; the next one is served."""
        assert self.unit.vmm.closed_by_peer()
        self.anew()

    def anew(self):
        """A whole new session of a new driver."""
        self.mend()
        if self.command:
            self.command.done()
        self.unit.hang_up()
        self.backend.recorder = self.other.recorder = None
        for queue in self.guest.queues:
            queue.recorder = None
        self.made.fresh()

    def close(self):
        assert not self.other.violations, self.other.violations
