"""Reconnects without end: descriptors, mappings and memory stay what they are.

A normal run makes six hundred; SVQ_LONG=1 makes ten thousand. The figures are in the output (-s).
"""

import os

import pytest
from svqwire.daemon import sanitized
from svqwire.mortal import TRACKING, Mortal
from svqwire.recorder import Recorder
from svqwire.wait import wait_until

COUNT = 10_000 if os.environ.get("SVQ_LONG") else 600
SLACK_KIB = 512
FAST = {"reconnect": 0.001}


@pytest.mark.slow
@pytest.mark.timeout(max(COUNT // 10, 120))
@pytest.mark.parametrize("mode", ["on", "auto"])
def test_reconnects(bench, mode):
    """Half of them in each mode, with a request in flight each time."""
    recorder = Recorder()
    made = bench(backend=Mortal, shadow=mode, keys=FAST, num=16, backend_options=dict(
        recorder=recorder, protocol=TRACKING))
    unit, sizes = made.unit, []
    for number in range(COUNT // 2):
        made.unit.backend.run(lambda: setattr(unit.backend, "hold", True))
        for queue in unit.guest.queues:
            queue.submit_random()
        wait_until(lambda: unit.backend.held() == 2, "the requests to be held", interval=0.0002)
        unit.backend.hold = False
        unit.backend.kill()
        unit.guest.drain()
        if number % 50 == 0:
            made.qmp.drain().clear()
            recorder.__init__()
            recorder.born(unit.backend)
        if number in (COUNT // 10, COUNT // 4, COUNT // 2 - 1):
            sizes.append((made.svqd.fds(), made.svqd.maps(), made.svqd.rss(), made.svqd.data()))
    print(f"{COUNT // 2} reconnects, shadow={mode}: (fds, maps, resident and data KiB) {sizes}")
    assert made.svqd.device("dev0")["backend"]["outages"] == COUNT // 2
    assert sizes[2][0] <= sizes[0][0] and sizes[1][0] <= sizes[0][0] + 1, sizes
    if not sanitized():
        assert sizes[2][1] <= sizes[0][1] + 2, f"maps: {sizes}"
        assert sizes[2][2] - sizes[0][2] <= SLACK_KIB, f"resident: {sizes}"
        assert sizes[2][3] - sizes[0][3] <= SLACK_KIB, f"data: {sizes}"


@pytest.mark.slow
def test_refused_ones(bench):
    """Back-ends that do not fit leave nothing behind either."""
    made = bench(backend=Mortal, shadow="on", keys=FAST, num=16)
    unit = made.unit
    unit.backend.features &= ~(1 << 6)
    unit.backend.kill()
    wait_until(lambda: made.svqd.device("dev0")["backend"]["link"] == "refused", "a refusal")
    sessions, sizes = unit.backend.sessions, []
    for goal in (100, 600):
        wait_until(lambda g=goal: unit.backend.sessions > sessions + g, "refusals", 20)
        sizes.append((made.svqd.fds(), made.svqd.maps()))
        made.qmp.drain().clear()
    assert sizes[1][0] <= sizes[0][0] + 2 and sizes[1][1] <= sizes[0][1] + 2, sizes
    unit.backend.features |= 1 << 6
    unit.guest.io()
