"""Shared memory that somebody truncates: a SIGBUS that nobody may die of."""

import os

import pytest
from svqwire import message as wire
from svqwire.dirtylog import DirtyLog
from svqwire.wait import wait_until


def cut(fd):
    """Whether the file could be shortened: a sealed one cannot."""
    try:
        os.ftruncate(fd, 0)
        return True
    except PermissionError:
        return False


def test_guest_memory_is_cut(bench):
    """The VMM shortens the guest's memory under a shadowed device."""
    made = bench(devices=2, shadow="on")
    unit = made.unit
    unit.io()
    made.judged = False
    for region in unit.guest.memory.regions:
        assert cut(region.fd)
    # This process maps the same file: nothing here may touch the rings now.
    for queue in unit.guest.queues:
        queue.kick.signal()
    unit.vmm.post(wire.Id.GET_VRING_BASE, wire.vring_state(0, 0))
    made.units[1].io()
    assert made.qmp.command("query-devices")
    unit.hang_up()
    made.units[1].io()
    unit.backend.disconnect()
    assert made.svqd.process.poll() is None


def test_log_is_cut(bench):
    made = bench(devices=2, shadow="on")
    unit = made.unit
    log = DirtyLog.for_memory(unit.guest.memory)
    unit.vmm.set_log_base(log)
    unit.vmm.set_features(unit.vmm.acked | wire.F_LOG_ALL)
    assert cut(log.fd)
    queue = unit.guest.queues[0]
    queue.submit([b"request"], [64])
    wait_until(
        lambda: queue.ring.all_used()
        or made.svqd.queue("dev0", 0).get("error") or not made.svqd.device("dev0")["started"],
        "the request to be completed or given up",
    )
    made.units[1].io()
    made.fresh()


@pytest.mark.parametrize("shadow", ["on", "auto"])
def test_back_end_cuts_the_shadow_rings(bench, shadow):
    """The back-end has the fd of svqd's own region."""
    made = bench(devices=2, shadow=shadow, start=False)
    unit = made.unit
    unit.backend.keep_memory = True
    for one in made.units:
        one.start()
    ours = {region.gpa for region in unit.guest.memory.regions}
    rings = [fd for gpa, fd in unit.backend.memory_fds if gpa not in ours]
    assert rings, "no region for the shadow rings"
    assert not cut(rings[0]), "the back-end can shorten svqd's own memory"
    unit.io()
    made.svqd.shadow("dev0", shadow != "on")
    made.alive()
