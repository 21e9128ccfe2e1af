"""Which worker serves a queue (queue-set-worker), how long it polls, and a log for measurements."""

import os
import random
from pathlib import Path

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES
from svqwire.load import Load
from svqwire.qmp import QmpError
from svqwire.wait import wait_until

PAIRS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


def worker_of(made, queue):
    return made.svqd.queue("dev0", queue)["worker"]


def failure(made, command, **arguments):
    with pytest.raises(QmpError) as raised:
        made.qmp.command(command, **arguments)
    return raised.value


def test_moved_under_load(bench):
    made = bench(queues=4, shadow="on", arguments=["--workers", "3", "--poll-us", "0"])
    load = Load(made.unit.guest, depth=8)
    pick = random.Random(3)
    for _ in range(60):
        queue, worker = pick.randrange(4), pick.randrange(3)
        made.qmp.command("queue-set-worker", id="dev0", queue=queue, worker=worker)
        shown = made.svqd.queue("dev0", queue)
        assert shown["worker"] == worker and shown["worker-pinned"] is True
        load.wait_rounds(1)
    for queue in range(4):
        made.qmp.command("queue-set-worker", id="dev0", queue=queue)
        assert made.svqd.queue("dev0", queue)["worker-pinned"] is False
    load.wait_rounds(1)
    load.close()


def test_choice_waits_for_the_shadow(bench):
    """Said in pass-through, done when it is shadowed, each time."""
    made = bench(queues=2, arguments=["--workers", "4"])
    made.qmp.command("queue-set-worker", id="dev0", queue=1, worker=3)
    for _ in range(3):
        made.svqd.shadow("dev0", True)
        assert worker_of(made, 1) == 3
        made.unit.io()
        made.svqd.shadow("dev0", False)
        made.unit.io()
    assert made.svqd.queue("dev0", 1)["worker-pinned"] is True


def test_refused(bench):
    made = bench(queues=2, shadow="on", arguments=["--workers", "2"])
    error = failure(made, "queue-set-worker", id="nobody", queue=0, worker=0)
    assert error.error_class == "DeviceNotFound"
    for queue, worker, why in ((77, 0, "no such queue"), (-1, 0, "no such queue"),
                               (0, 2, "no such worker"), (0, -1, "no such worker"),
                               (0, 1 << 40, "no such worker")):
        error = failure(made, "queue-set-worker", id="dev0", queue=queue, worker=worker)
        assert why in error.desc and error.desc.startswith(f"Can't move queue {queue} of dev0")
    for wrong, name in (({"queue": "0"}, "queue"), ({"queue": 0.5}, "queue"), ({}, "queue"),
                        ({"queue": 0, "worker": "1"}, "worker")):
        assert f"'{name}'" in failure(made, "queue-set-worker", id="dev0", **wrong).desc
    made.unit.io()


def threads(svqd):
    return {task.name: os.sched_getaffinity(int(task.name))
            for task in Path(f"/proc/{svqd.process.pid}/task").iterdir()}


def test_processors(bench):
    """One thread for each worker, on the processors that were named, one after the other."""
    mine = sorted(os.sched_getaffinity(0))
    cpus = [mine[0], mine[-1]]
    made = bench(shadow="on", arguments=["--workers", "3", "--worker-cpus",
                                         ",".join(map(str, cpus))])
    pinned = sorted(sum((sorted(cpus) for cpus in threads(made.svqd).values() if len(cpus) == 1),
                        []))
    if len(mine) == 1:
        pytest.skip("one processor: all threads are on it in any case")
    assert pinned == sorted([cpus[0], cpus[1], cpus[0]])
    made.unit.io()


def polls(made):
    """Does svqd take processor time although nothing happens?"""
    ticks = os.sysconf("SC_CLK_TCK")

    def used():
        fields = Path(f"/proc/{made.svqd.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    before = used()
    try:
        wait_until(lambda: used() > before + 0.05, "processor time", 1.0)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("option, key, expected", [
    ("always", None, True), ("0", None, False), ("50", None, False),
    ("0", "always", True), ("always", "0", False)])
def test_polling(bench, option, key, expected):
    keys = {"poll-us": key} if key else {}
    made = bench(shadow="on", arguments=["--poll-us", option], keys=keys)
    made.unit.io()
    assert polls(made) is expected
    assert str(made.svqd.device("dev0").get("poll-us")) == str(key)
    made.unit.io()
    made.svqd.shadow("dev0", False)
    assert not polls(made), "in pass-through nobody polls"


@PAIRS
def test_trial_log(bench, packed):
    """It may come and go, in either mode."""
    features = FEATURES | (wire.F_PACKED if packed else 0)
    made = bench(queues=2, packed=packed, backend_options={"features": features})
    for mode in (False, True, False):
        made.svqd.shadow("dev0", mode)
        for enable in (True, True, False, True):
            made.qmp.command("x-device-log", id="dev0", enable=enable)
            made.unit.io()
    assert made.svqd.device("dev0")["logging"] == "off"
    maps = Path(f"/proc/{made.svqd.process.pid}/maps").read_text()
    assert "svq-trial-log" in maps
    made.qmp.command("x-device-log", id="dev0", enable=False)
    maps = Path(f"/proc/{made.svqd.process.pid}/maps").read_text()
    assert "svq-trial-log" not in maps


def test_trial_log_without_memory(bench):
    made = bench(start=False)
    assert "not started" in failure(made, "x-device-log", id="dev0", enable=True).desc
    assert failure(made, "x-device-log", id="x", enable=True).error_class == "DeviceNotFound"


def test_trial_log_needs_no_address(bench):
    """A front-end that wants no log may give any address for the ring's part of it."""
    made = bench(shadow="on")
    for queue in made.unit.guest.queues:
        made.unit.vmm.vring_addr(queue, 0, 1 << 60)
    made.unit.vmm.sync()
    made.qmp.command("x-device-log", id="dev0", enable=True)
    made.unit.io()
