"""Many sessions, and what svqd costs when it has nothing to do."""

import time

import pytest
from svqwire.daemon import binary, sanitized
from svqwire.wait import wait_until

quiet = pytest.mark.skipif(
    binary().exists() and sanitized(), reason="sanitizers wake up by themselves"
)
WINDOW = 1.0  # seconds of measurement, not of waiting
SLACK_KIB = 768  # the allocator's own, whatever the number of sessions


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_many_sessions(bench):
    """Connect, start, I/O, toggle, disconnect, 300 times: fds and memory stay what they are."""
    made = bench(start=False, num=16)
    unit, sizes = made.unit, []
    for number in range(300):
        unit.start()
        unit.io(2)
        made.svqd.shadow("dev0", True)
        unit.io(2)
        if number % 3:
            made.svqd.shadow("dev0", False)
            unit.io(2)
        if number % 2:
            unit.vmm.stop()
        made.no_leak()
        made.qmp.drain().clear()
        if number in (99, 199, 299):
            sizes.append((made.svqd.rss(), made.svqd.maps()))
    if not sanitized():
        assert sizes[2][0] - sizes[0][0] <= SLACK_KIB, f"(KiB, maps): {sizes}"
        assert sizes[2][1] <= sizes[0][1] + 2, f"(KiB, maps): {sizes}"


def test_toggles_leak_nothing(bench):
    made = bench()
    unit = made.unit
    made.svqd.shadow("dev0", True)
    made.svqd.shadow("dev0", False)
    fds, maps = made.svqd.fds(), made.svqd.maps()
    for _ in range(100):
        made.svqd.shadow("dev0", True)
        made.svqd.shadow("dev0", False)
    unit.io()
    made.svqd.wait_fds(fds)
    assert sanitized() or made.svqd.maps() <= maps + 2


def test_devices_come_and_go(bench):
    """device-add and device-del, 100 times: nothing stays behind."""
    made = bench(start=False)
    unit = made.unit
    made.qmp.command("device-del", id="dev0")
    fds, maps = made.svqd.fds(), made.svqd.maps()
    for number in range(100):
        made.qmp.command("device-add", **{k: str(v) for k, v in unit.device().items()})
        if number % 10 == 0:
            unit.start()
            unit.io(2)
            made.svqd.shadow("dev0", True)
        made.qmp.command("device-del", id="dev0")
        unit.hang_up()
        unit.backend.wait_disconnected()
        made.qmp.drain().clear()
    made.svqd.wait_fds(fds)
    assert sanitized() or made.svqd.maps() <= maps + 2
    made.idle_fds = fds


@quiet
def test_pass_through_costs_nothing(bench):
    """I/O in pass-through goes past svqd: no CPU and no wake-up of its own."""
    made = bench(devices=2)
    made.alive()
    wait_until(lambda: settled(made.svqd), "svqd to come to rest")
    start = made.svqd.effort()
    for _ in range(20):
        for unit in made.units:
            unit.io(50)
    ticks, switches = (now - then for now, then in zip(made.svqd.effort(), start))
    assert ticks <= 1, f"{ticks} CPU ticks for I/O in pass-through"
    assert switches == 0, f"{switches} wake-ups for I/O in pass-through"


@quiet
def test_pass_through_after_a_switch_costs_nothing(bench):
    made = bench()
    made.svqd.shadow("dev0", True)
    made.alive()
    made.svqd.shadow("dev0", False)
    made.alive()
    wait_until(lambda: settled(made.svqd), "svqd to come to rest")
    start = made.svqd.effort()
    for _ in range(20):
        made.unit.io(50)
    ticks, switches = (now - then for now, then in zip(made.svqd.effort(), start))
    assert ticks <= 1 and switches == 0, (ticks, switches)


def settled(svqd, seconds=0.05):
    before = svqd.effort()
    time.sleep(seconds)  # the span in which nothing may happen
    return svqd.effort() == before


@quiet
def test_idle_shadow_sleeps(bench):
    """With the shadow on and no work, workers sleep in epoll."""
    made = bench(devices=2, shadow="on", queues=4)
    made.alive()
    wait_until(lambda: settled(made.svqd), "svqd to come to rest")
    start = made.svqd.effort()
    time.sleep(WINDOW)
    ticks, switches = (now - then for now, then in zip(made.svqd.effort(), start))
    assert ticks <= 1, f"{ticks} CPU ticks in {WINDOW} s of idle shadow"
    assert switches <= 3, f"{switches} wake-ups in {WINDOW} s of idle shadow"
    made.alive()


@quiet
def test_idle_shadow_with_held_requests_sleeps(bench):
    """A slow back-end is not polled for."""
    made = bench(shadow="on")
    made.unit.backend.hold = True
    for queue in made.unit.guest.queues:
        queue.submit([b"held"], [16])
    wait_until(lambda: made.unit.backend.held() == 2, "the back-end to hold the requests")
    wait_until(lambda: settled(made.svqd), "svqd to come to rest")
    start = made.svqd.effort()
    time.sleep(WINDOW)
    ticks, _ = (now - then for now, then in zip(made.svqd.effort(), start))
    assert ticks <= 1, f"{ticks} CPU ticks while requests are held"
    made.unit.backend.release()
    made.unit.guest.drain()
