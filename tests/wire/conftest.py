"""Fixtures of the wire tests: temporary sockets, routes, guests."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from svqwire.bench import Bench  # noqa: E402
from svqwire.daemon import binary  # noqa: E402
from svqwire.guest import Guest  # noqa: E402
from svqwire.route import KINDS, Route  # noqa: E402
from svqwire.scene import Scene  # noqa: E402

SECONDS = 60  # no single test may take longer
MARKERS = (
    "direct: needs no svqd; checks the scripted peers against each other",
    "slow: takes more than a few seconds",
)


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config, items):
    have_svqd = binary().exists()
    skip = pytest.mark.skip(reason=f"no {binary()}")
    for item in items:
        kind = getattr(item, "callspec", None) and item.callspec.params.get("kind")
        if kind == "direct":
            item.add_marker(pytest.mark.direct)
        elif not have_svqd and "direct" not in item.keywords:
            item.add_marker(skip)
        if config.pluginmanager.hasplugin("timeout") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture
def folder():
    """A short path: UNIX socket addresses have 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="svqw"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=KINDS)
def kind(request):
    """A test that takes `kind` runs once for every way to the back-end."""
    return request.param


@pytest.fixture
def closing():
    """A function that registers something for close() at the end, last one first."""
    things = []

    def register(thing):
        things.append(thing)
        return thing

    yield register
    errors = []
    for thing in reversed(things):
        try:
            thing.close()
        except BaseException as error:  # every thing is closed, then the first error counts
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def route(kind, folder, closing):
    """A function that makes the route of this kind."""

    def make(**options):
        return closing(Route(kind, folder, **options))

    return make


@pytest.fixture
def guest(closing):
    """A function that makes a guest."""

    def make(*arguments, **options):
        return closing(Guest(*arguments, **options))

    return make


@pytest.fixture
def bench(folder, closing):
    """A function that makes a bench: svqd with running devices."""

    def make(**options):
        return closing(Bench(folder, **options))

    return make


@pytest.fixture
def scene(folder, closing):
    """A function that makes a device with requests in flight."""

    def make(mode="direct", start=True, **options):
        scene = closing(Scene(folder, closing, **options))
        if start:
            scene.serve(shadow=mode == "shadow")
        return scene

    return make
