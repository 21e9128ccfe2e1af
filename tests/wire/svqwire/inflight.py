"""What the tests of the in-flight region's messages share: devices whose front-ends keep a region
or none, and looks at what the back-end has got."""

import os

import pytest

from . import message as wire
from .backend import FEATURES, PROTOCOL
from .message import Id
from .mortal import TRACKING

FORMATS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
MODES = pytest.mark.parametrize("shadow", ["auto", "on"], ids=["pass-through", "shadow"])
KEEPERS = pytest.mark.parametrize("protocol", [PROTOCOL, TRACKING], ids=["none", "keeper"])


def part_size(packed, entries):
    """Written out once more: libvhost-user and DPDK round to 64 bytes."""
    return ((32 + 32 * entries if packed else 16 + 16 * entries) + 63) // 64 * 64


def devices(bench, packed=False, protocol=PROTOCOL, features=FEATURES, own=False, **options):
    """A bench whose front-ends keep a region as QEMU's blk does, or none at all (`own`)."""
    made = bench(start=False, packed=packed, backend_options=dict(
        features=features | (wire.F_PACKED if packed else 0), protocol=protocol), **options)
    for unit in made.units:
        unit.dial().keeps_region = not own
        unit.vmm.connect()
    return made


def begin(unit):
    unit.vmm.start()
    unit.vmm.sync()
    return unit.vmm


def negotiated(made):
    """A front-end that has acked its features and has no region yet."""
    vmm = made.unit.vmm
    vmm.set_features(vmm.acceptable())
    return vmm


def memfd(size):
    fd = os.memfd_create("case")
    os.ftruncate(fd, size)
    return fd


def set_region(vmm, fd, size, offset, queues, entries):
    vmm.tell(Id.SET_INFLIGHT_FD, wire.INFLIGHT.pack(size, offset, queues, entries, 0), [fd])


def kinds(backend):
    """The order in which the back-end was told of regions and started rings."""
    wanted = (Id.SET_INFLIGHT_FD, Id.SET_VRING_KICK)
    return [message.name for message in backend.log if message.id in wanted]


def backends_region(backend, size=None):
    """A copy of the region that the back-end has."""
    return backend.run(lambda: bytes(backend.inflight.view[:size]))


def shares(backend, region):
    """Does the back-end have the front-end's region? Two views of one memory show one change."""
    last = region.offset + region.size - 1
    before = region.map[last]
    region.map[last] = before ^ 0x80
    same = backend.run(lambda: len(backend.inflight.view) == region.size
                       and backend.inflight.view[-1] == before ^ 0x80)
    region.map[last] = before
    return same
