"""The scripted back-end's in-flight region, judged by the scripted front-end, without svqd: what
the crash tests build on."""

import os
import random

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES
from svqwire.mortal import COMMON, PACKED_REGION, SPLIT_REGION, Mortal
from svqwire.recorder import Recorder
from svqwire.region import Contradiction, Region
from svqwire.qemu import Qemu
from svqwire.vmm import CloudHypervisor
from svqwire.wait import Late, wait_until

pytestmark = pytest.mark.direct

RINGS = {
    "plain": {}, "event_idx": dict(event_idx=True), "indirect": dict(indirect=True),
    "in_order": dict(in_order=True, event_idx=True),
}
ALL = FEATURES | wire.F_PACKED | wire.F_IN_ORDER


@pytest.mark.parametrize("rings", RINGS)
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_crashes(folder, guest, closing, packed, rings):
    """At every step; the region says what was taken and not published, in order, and the next
    back-end does just that again."""
    vm = guest(2, num=16, packed=packed, **RINGS[rings])
    recorder, pick = Recorder(), random.Random(f"{packed} {rings}")
    backend = closing(Mortal(folder / "back", recorder, features=ALL))
    kind = Qemu if packed else CloudHypervisor
    vmm = kind(backend.path, vm, seconds=2)
    vmm.connect()
    vmm.start()
    for queue in vm.queues:
        queue.recorder = recorder
    points = COMMON + (PACKED_REGION if packed else SPLIT_REGION)
    for turn in range(6 * len(points)):
        before = backend.deaths
        backend.doom(points[turn % len(points)], pick.randint(0, 12))
        while backend.deaths == before:
            for queue in vm.queues:
                while len(queue.ring.outstanding) < 4 and queue.ring.room(4):
                    queue.submit_random()
                try:
                    queue.complete(seconds=0.005)
                except Late:
                    pass
        wait_until(lambda: not backend.connection, "the end of the connection")
        for queue in vm.queues:
            queue.complete(0)
            found = vmm.region.serials(queue)
            taken = {s for q, s in recorder.takes if q == queue.index}
            used = {s for q, s in recorder.used if q == queue.index}
            assert taken - used <= set(found), "taken and forgotten"
            assert not used & set(found), "used and in flight"
            assert len(set(found) - taken) <= 1, "in flight and never taken"
        old, vmm = vmm, kind(backend.path, vm, seconds=2)
        vmm.inherit_region(old)
        vmm.reconnect(old.protocol)
        old.close()
    vm.drain()
    vmm.close()
    recorder.judge([queue.serial for queue in vm.queues])
    assert recorder.again() > turn / 4, "hardly anything was in flight"
    assert not backend.violations, backend.violations


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_the_judge_judges(guest, packed):
    """What no back-end can have written is told."""
    vm = guest(1, num=4, packed=packed)
    fd = os.memfd_create("region")
    os.ftruncate(fd, 256)
    region = Region(fd, 256, 0, 1, 4, packed)
    ring = vm.queues[0].ring
    assert region.report(0, ring).heads == []
    start = 32 if packed else 16
    step = 32 if packed else 16
    spoil = {
        "no version": {start: 1},
        "version": {8: 2},
        "desc_num": {8: 1, 10: 3},
        "inflight": {8: 1, 10: 4, start: 2},
        "counters": {8: 1, 10: 4, start: 1, start + step: 1},
    }
    if packed:
        spoil["loop"] = {8: 1, 10: 4}
        spoil.pop("no version"), spoil.pop("inflight"), spoil.pop("counters")
    for what, octets in spoil.items():
        region.clear()
        for offset, value in octets.items():
            region.map[offset] = value
        with pytest.raises(Contradiction):
            region.report(0, ring)
            raise AssertionError(what)
    region.close()
