"""Which in-flight region the back-end gets, and where rings start by it. What happens when somebody
dies is tested elsewhere."""

import os

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES, PROTOCOL
from svqwire.daemon import Svqd
from svqwire.inflight import (
    FORMATS, KEEPERS, MODES, TRACKING, backends_region, begin, devices, kinds, memfd, negotiated,
    part_size, set_region, shares,
)
from svqwire.message import Id
from svqwire.route import Route
from svqwire.vmm import CloudHypervisor, Crosvm
from svqwire.wait import wait_until

PART = part_size(False, 64)


# Which region the back-end gets.


@FORMATS
def test_the_front_ends_in_pass_through(bench, packed):
    made = devices(bench, packed, TRACKING)
    vmm, backend = begin(made.unit), made.unit.backend
    assert kinds(backend) == ["SET_INFLIGHT_FD", "SET_VRING_KICK", "SET_VRING_KICK"]
    assert shares(backend, vmm.region)
    made.unit.io(8)
    backend.hold = True
    chains = [made.unit.guest.queues[1].submit([b"held"], [16]) for _ in range(3)]
    wait_until(lambda: backend.held() == 3, "the requests")
    ring = made.unit.guest.queues[1].ring
    report = vmm.region.report(1, ring)
    assert report.tracked and len(report.heads) == len(chains)
    assert vmm.region.report(0, made.unit.guest.queues[0].ring).heads == []
    backend.release()
    made.unit.guest.drain()


@FORMATS
@pytest.mark.parametrize("num", [64, 4096])
def test_our_own_while_the_front_end_has_none(bench, packed, num):
    made = devices(bench, packed, TRACKING, own=True, num=num)
    begin(made.unit)
    backend = made.unit.backend
    assert kinds(backend) == ["SET_INFLIGHT_FD", "SET_VRING_KICK", "SET_VRING_KICK"]
    region = backend.run(lambda: backend.inflight)
    assert region.queues == backend.queue_num, "libvhost-user believes the number of queues"
    assert region.entries == max(num, 1024)
    assert len(region.view) == region.queues * part_size(packed, region.entries)
    made.unit.io(8)
    assert any(backends_region(backend))


@pytest.mark.parametrize("own", [False, True], ids=["theirs", "ours"])
def test_none_for_a_back_end_that_keeps_none(bench, own):
    made = devices(bench, own=own)
    begin(made.unit)
    made.unit.io(4)
    made.svqd.shadow("dev0", True)
    made.unit.io(4)
    made.svqd.shadow("dev0", False)
    made.unit.io(4)
    assert not made.unit.backend.count(Id.SET_INFLIGHT_FD)


@FORMATS
@pytest.mark.parametrize("own", [False, True], ids=["theirs", "ours"])
def test_another_one_for_shadow_rings(bench, packed, own):
    """The back-end's notes about shadow rings never come into the front-end's region, which the
    relays keep meanwhile; afterwards the back-end has that one again."""
    made = devices(bench, packed, TRACKING, own=own)
    vmm, unit, backend = begin(made.unit), made.unit, made.unit.backend
    unit.io(8)
    for number in range(3):
        made.svqd.shadow("dev0", True)
        assert backend.count(Id.SET_INFLIGHT_FD) == 2 + 2 * number
        unit.io(8)
        backend.hold = True
        for _ in range(5):
            unit.guest.queues[0].submit([b"held"], [16])
        wait_until(lambda: backend.held() == 5, "the requests")
        if not own:
            assert not shares(backend, vmm.region)
            assert len(vmm.region.report(0, unit.guest.queues[0].ring).heads) == 5
        backend.release()
        unit.guest.drain()
        made.svqd.shadow("dev0", False)
        assert backend.count(Id.SET_INFLIGHT_FD) == 3 + 2 * number
        assert own or shares(backend, vmm.region)
        unit.io(8)
        if not own:
            for queue in unit.guest.queues:
                report = vmm.region.report(queue.index, queue.ring)
                assert report.tracked and report.heads == []


@FORMATS
def test_shadow_from_the_start(bench, packed):
    made = devices(bench, packed, TRACKING, shadow="on")
    vmm, unit, backend = begin(made.unit), made.unit, made.unit.backend
    assert kinds(backend)[0] == "SET_INFLIGHT_FD", "libvhost-user has to have one"
    assert not shares(backend, vmm.region)
    unit.io(8)
    assert vmm.region.report(0, unit.guest.queues[0].ring).tracked


def test_a_region_that_is_too_small_is_not_for_the_back_end(bench):
    """Nothing bounds a back-end that writes by the ring's size: it gets one of ours."""
    made = devices(bench, protocol=TRACKING, own=True, num=256)
    vmm = negotiated(made)
    fd = memfd(2 * PART)
    set_region(vmm, fd, 2 * PART, 0, 2, 64)
    begin(made.unit)
    made.unit.io(16)
    assert made.unit.backend.run(lambda: made.unit.backend.inflight.entries) == 1024
    assert not any(os.pread(fd, 2 * PART, 0))
    os.close(fd)


@MODES
def test_a_region_with_too_few_queues(bench, shadow):
    made = devices(bench, protocol=TRACKING, own=True, shadow=shadow, num=64)
    vmm = negotiated(made)
    fd = memfd(PART)
    set_region(vmm, fd, PART, 0, 1, 64)
    begin(made.unit)
    made.unit.io(8)
    assert made.unit.backend.run(lambda: made.unit.backend.inflight.queues) == 4
    assert any(os.pread(fd, PART, 0)) == (shadow == "on"), "a relay keeps its queue's part"
    os.close(fd)


def test_a_refusal_does_not_stop_the_device(bench):
    """A back-end that offers to keep a region and then refuses it serves without."""
    made = devices(bench, protocol=TRACKING)
    for _ in range(8):
        made.unit.backend.fault("nack", Id.SET_INFLIGHT_FD)
    begin(made.unit)
    made.unit.io(8)
    assert made.svqd.wait_log("refused the in-flight region")


def test_queues_that_come_later(bench):
    """A ring that is described after others have started; the back-end does not count queues."""
    made = devices(bench, protocol=TRACKING & ~wire.P_MQ, own=True, queues=3)
    vmm, unit, backend = made.unit.vmm, made.unit, made.unit.backend
    first, *rest = unit.guest.queues
    for queue in rest:
        vmm.tell(Id.SET_VRING_CALL, wire.u64(queue.index | wire.NO_FD))
    vmm.set_features(vmm.acceptable())
    vmm.update_memory()
    for count, queue in enumerate((first, *rest), 1):
        vmm.start_queue(queue, 0)
        vmm.vring_enable(queue)
        vmm.vring_call(queue)
        for runs in unit.guest.queues[:count]:
            runs.io(8)
        region = backend.run(lambda: backend.inflight)
        assert region.queues > queue.index


# Where rings start.


@FORMATS
@pytest.mark.parametrize("own", [False, True], ids=["theirs", "ours"])
def test_a_used_ring_has_no_part_of_zeros(bench, packed, own):
    """After a stop and a start the part says how far the ring is used, before anything is taken:
    or the next crash would clear what it should not."""
    made = devices(bench, packed, TRACKING, own=own)
    vmm, unit, backend = begin(made.unit), made.unit, made.unit.backend
    unit.io(9)
    bases = vmm.stop()
    vmm.start(bases)
    vmm.sync()
    region = backend.run(lambda: backend.inflight)
    for queue in unit.guest.queues:
        size = part_size(packed, region.entries)
        words = memoryview(backends_region(backend))[queue.index * size :][:size].cast("H")
        assert words[4] == 1, "version"
        if packed:
            used, wrap = bases[queue.index] >> 16 & 0x7FFF, bases[queue.index] >> 31
            assert (words[8], words[9]) == (used, used)
            assert bytes(words[10:11]) == bytes((wrap, wrap))
        else:
            assert words[7] == queue.ring.used_idx()
    unit.io(9)


@FORMATS
@MODES
def test_a_driver_that_starts_over_on_the_same_region(bench, packed, shadow):
    """Nothing was in flight: the front-end's base counts, not what the region says of the old
    ring."""
    made = devices(bench, packed, TRACKING, shadow=shadow)
    unit = made.unit
    begin(unit)
    for number in range(1, 4):
        unit.io(7 * number)
        unit.vmm.stop()
        unit.guest.restart()
        unit.guest.life -= 1  # this VMM does not fetch another region
        begin(unit)
        unit.io(5)
        for queue in unit.guest.queues:
            report = unit.vmm.region.report(queue.index, queue.ring)
            assert report.tracked and report.heads == []


@FORMATS
@pytest.mark.parametrize("first, second", [
    ("on", "on"), ("on", "off"), ("off", "on"), ("off", "off"),
])
def test_the_front_end_comes_again(bench, packed, first, second):
    """It leaves with requests in flight and hands its region over: they are done again, by
    whatever serves the rings then."""
    made = devices(bench, packed, TRACKING, shadow="auto")
    unit, backend = made.unit, made.unit.backend
    made.qmp.command("device-set-shadow", id="dev0", shadow=first)
    vmm = begin(unit)
    unit.io(9)
    backend.hold = True
    for queue in unit.guest.queues:
        for number in range(4):
            queue.submit([bytes([number]) * 30], [40])
    wait_until(lambda: backend.held() == 8, "the requests")
    region, vmm.region = vmm.region, None
    unit.hang_up()
    backend.wait_disconnected()
    backend.hold = False
    for queue in unit.guest.queues:
        report = region.report(queue.index, queue.ring)
        assert report.tracked
        assert first == "on" or len(report.heads) == 4, "a relay gives back what it can"
    made.qmp.command("device-set-shadow", id="dev0", shadow=second)
    unit.dial().region = region
    unit.vmm.reconnect()
    unit.guest.drain()
    unit.io(16)
    for queue in unit.guest.queues:
        assert region.report(queue.index, queue.ring).heads == []


def test_requests_that_the_back_end_cannot_be_told_of(bench, folder):
    """They were in flight through a relay when svqd was killed, and the back-end keeps no region: a
    relay does them again, though the device would be in pass-through."""
    made = devices(bench)
    unit, backend = made.unit, made.unit.backend
    vmm = begin(unit)
    made.svqd.shadow("dev0", True)
    unit.io(9)
    backend.hold = True
    for queue in unit.guest.queues:
        for _ in range(3):
            queue.submit([b"in flight"], [40])
    wait_until(lambda: backend.held() == 6, "the requests")
    for queue in backend.queues[:2]:  # the newest first: the used index alone tells nothing
        backend.run(lambda q=queue: q.complete([q.held.pop()]))
    for queue in unit.guest.queues:
        queue.complete()
    made.svqd.kill()
    backend.wait_disconnected()
    backend.hold = False
    made.svqd = Svqd(folder, [unit.device(shadow="auto")])
    region, vmm.region = vmm.region, None
    unit.dial().region = region
    unit.vmm.reconnect()
    unit.guest.drain()
    unit.io(16)
    made.svqd.shadow("dev0", False)
    unit.io(16)


# Cloud Hypervisor's ways.


def cloud(folder, closing, guest, protocol, features=FEATURES, **options):
    way = closing(Route("pass-through", folder, protocol=protocol, features=features))
    vm = guest(2, event_idx=True, indirect=True, **options)
    vmm = closing(CloudHypervisor(way.address(), vm))
    vmm.connect()
    vmm.start()
    return way, vm, vmm


@KEEPERS
def test_cloud_hypervisor_asks_once_and_hands_it_back(folder, closing, guest, protocol):
    way, vm, vmm = cloud(folder, closing, guest, protocol)
    vm.io(8)
    for _ in range(3):
        vmm.pause()
        vmm.resume()
        vm.io(8)
    if protocol & wire.P_INFLIGHT:
        assert shares(way.backend, vmm.region)
        assert way.backend.count(Id.SET_INFLIGHT_FD) == 1
    vmm.quiet()


def bases_told(backend, start):
    """The last SET_VRING_BASE of each queue since then."""
    states = [wire.VRING_STATE.unpack(message.payload) for message in backend.log[start:]
              if message.id == Id.SET_VRING_BASE]
    return dict(states)


@pytest.mark.parametrize("protocol, features", [
    (TRACKING, FEATURES), (PROTOCOL, FEATURES | wire.F_IN_ORDER),
], ids=["keeper", "in order"])
def test_cloud_hypervisor_reconnects_at_the_available_index(folder, closing, guest, protocol,
                                                            features):
    """It counts on the region to know what was in flight: rings go on behind what is used."""
    in_order = bool(features & wire.F_IN_ORDER)
    way, vm, vmm = cloud(folder, closing, guest, protocol, features, in_order=in_order)
    backend = way.backend
    vm.io(9)
    backend.hold = True
    for queue in vm.queues:
        for _ in range(3):
            queue.submit([b"in flight"], [40])
    wait_until(lambda: backend.held() == 6, "the requests")
    used = {queue.index: queue.ring.used_idx() for queue in vm.queues}
    vmm.sock.close()
    backend.wait_disconnected()
    backend.hold, start = False, len(backend.log)
    again = closing(CloudHypervisor(way.address(), vm))
    again.inherit_region(vmm)
    again.region.life = vm.life
    again.reconnect(vmm.protocol)
    again.quiet()
    assert bases_told(backend, start) == used
    vm.drain()
    vm.io(16)


def test_crosvm_knows_nothing_of_it(folder, closing, guest):
    """svqd's own region serves it."""
    way = closing(Route("pass-through", folder, protocol=TRACKING))
    vm = guest(2, event_idx=True)
    vmm = closing(Crosvm(way.address(), vm))
    vmm.connect()
    for _ in range(2):
        vmm.start([queue.ring.base() for queue in vm.queues])
        vm.io(8)
        vmm.stop()
    assert kinds(way.backend)[0] == "SET_INFLIGHT_FD"
    vmm.quiet()


# What status says.


SAFETY = {
    "shadow": (dict(shadow="on"), True),
    "region": (dict(protocol=TRACKING), True),
    "in order": (dict(features=FEATURES | wire.F_IN_ORDER, in_order=True), True),
    "neither": ({}, False),
    "packed": (dict(packed=True), False),
    "packed in order": (dict(packed=True, in_order=True, features=FEATURES | wire.F_IN_ORDER),
                        False),
    "packed region": (dict(packed=True, protocol=TRACKING), True),
}


@pytest.mark.parametrize("case", SAFETY)
def test_crash_safe(bench, case):
    options, safe = SAFETY[case]
    made = devices(bench, **options)
    begin(made.unit)
    told = made.svqd.device("dev0")["crash-safe"]
    assert told["safe"] == safe
    assert ("reason" in told) == (not safe)
    if not safe:
        assert "no in-flight region" in told["reason"]
        assert ("packed" in told["reason"]) == bool(options.get("packed"))
    made.unit.io(4)
