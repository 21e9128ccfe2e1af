"""Open files: svqd takes as many as it may, and says so when they are not enough."""

import resource

import pytest
from svqwire.bench import Unit
from svqwire.daemon import Svqd
from svqwire.frontend import Refused
from svqwire.message import Closed


def limited(soft, hard):
    return ["prlimit", f"--nofile={soft}:{hard}"]


def limit_of(svqd):
    with open(f"/proc/{svqd.pid}/limits", encoding="ascii") as file:
        return next(line.split()[3:5] for line in file if line.startswith("Max open files"))


@pytest.fixture
def unit(folder, closing):
    return closing(Unit(folder, "dev0", queues=4))


def test_soft_limit_is_raised(folder):
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    svqd = Svqd(folder, arguments=[], prefix=limited(64, hard))
    assert limit_of(svqd) == [str(hard), str(hard)]
    svqd.stop()


@pytest.mark.parametrize("spare", range(1, 28))
def test_too_few(folder, unit, spare):
    """Wherever they run out, svqd says why, and goes on when there are more."""
    svqd = Svqd(folder, [unit.device(shadow="on")], prefix=limited(1024, 1024))
    limit = svqd.fds() + spare
    resource.prlimit(svqd.pid, resource.RLIMIT_NOFILE, (limit, 1024))
    try:
        unit.start()
        unit.io()
        assert spare > 20, "a device of four queues with so few descriptors"
    except (Closed, Refused, OSError, AssertionError):
        svqd.wait_log("(?i)too many open files")
        unit.hang_up()
    resource.prlimit(svqd.pid, resource.RLIMIT_NOFILE, (1024, 1024))
    unit.start()
    unit.io()
    svqd.stop()
