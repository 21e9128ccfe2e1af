"""An svqd with devices that run: each has a guest, a front-end and a scripted back-end.

The front-end speaks as QEMU does (it hands err eventfds over), with an ack on every message, so
that a refusal shows at the message that is refused.
"""

from . import message as wire
from .backend import BackEnd
from .daemon import Svqd
from .guest import Guest
from .qemu import Qemu

TIMEOUT = 0.6  # message-timeout of a device whose back-end is to fall silent


class AckingQemu(Qemu):
    acks_all = True
    early_calls = True  # not every back-end can change the call of a running queue

    def ask(self, id, payload=b"", fds=(), size=8, fds_back=0):
        """QEMU itself asks for no ack on messages that have a typed reply."""
        self.post(id, payload, fds)
        return self.reply(id, size, fds_back)


class Unit:
    """One device and both of its ends."""

    def __init__(self, folder, name, backend=BackEnd, backend_options=None, **guest):
        self.name, self.folder = name, folder
        self.backend = backend(folder / f"{name}.back", **(backend_options or {}))
        self.guest = Guest(**guest)
        self.vmm = None

    @property
    def address(self):
        return self.folder / f"{self.name}.front"

    def device(self, **keys):
        return {
            "id": self.name, "frontend": self.address, "backend": f"vhost-user:{self.backend.path}",
            **{key.replace("_", "-"): value for key, value in keys.items()},
        }

    def dial(self, seconds=10.0):
        self.hang_up()
        self.vmm = AckingQemu(self.address, self.guest, seconds=seconds)
        return self.vmm

    def connect(self, seconds=10.0):
        self.dial(seconds).connect()
        return self.vmm

    def start(self):
        """A whole new session of a fresh driver."""
        self.connect()
        self.guest.restart()
        self.vmm.start()
        self.vmm.sync()
        return self.vmm

    def hang_up(self):
        if self.vmm:
            self.vmm.close()
            self.vmm = None

    def io(self, count=8):
        self.guest.io(count)

    def close(self):
        self.hang_up()
        self.backend.close()
        self.guest.close()


class Bench:
    def __init__(self, folder, devices=1, shadow="auto", start=True, arguments=(), keys=None,
                 every=None, **options):
        """keys: further keys of --device for the first device; its neighbours are spared the
        short timeouts of tests about it. every: for all of them. options: of Unit."""
        options = {"queues": 2, "event_idx": True, "indirect": True, **options}
        names = [f"dev{number}" for number in range(devices)]
        self.units = [Unit(folder, name, **options) for name in names]
        every = {"shadow": shadow, **(every or {})}
        first = self.unit.device(**every, **(keys or {}))
        others = [unit.device(**every) for unit in self.units[1:]]
        self.svqd = Svqd(folder, [first, *others], arguments)
        self.idle_fds = self.svqd.fds()
        self.qmp = self.svqd.qmp
        self.judged = True
        if start:
            for unit in self.units:
                unit.start()

    @property
    def unit(self):
        return self.units[0]

    def alive(self):
        """Every device with a front-end does I/O and svqd answers."""
        assert self.qmp.command("query-version")
        for unit in self.units:
            if unit.vmm:
                unit.io()

    def fresh(self, unit=None):
        """A new session of the unit works."""
        unit = unit or self.unit
        unit.start()
        unit.io()

    def no_leak(self):
        """After every front-end has left, svqd holds what it held at first."""
        for unit in self.units:
            unit.hang_up()
        for unit in self.units:
            unit.backend.wait_disconnected()
        self.svqd.wait_fds(self.idle_fds)

    def close(self):
        try:
            if self.svqd.process.poll() is None:
                self.no_leak()
        finally:
            try:
                self.svqd.stop()
            finally:
                for unit in self.units:
                    unit.close()
        if self.judged:
            errors = [text for unit in self.units for text in unit.backend.violations]
            assert not errors, errors[:5]


def reads_ack(vmm, id):
    """The ack's value."""
    return wire.U64.unpack(vmm.reply(id, 8))[0]
