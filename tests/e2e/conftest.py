"""Fixtures of the end-to-end tests: see README.md."""

import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from peers import figures, svqd  # noqa: E402
from peers import initramfs as initramfs_builder  # noqa: E402
from peers.bench import Bench  # noqa: E402
from peers.kernel import Kernel, Unavailable  # noqa: E402

# Validates the tests themselves: the same scenarios, front-end straight to back-end.
DIRECT = os.environ.get("SVQ_DIRECT", "") not in ("", "0")


def pytest_collection_modifyitems(items):
    for item in items:
        if DIRECT and item.get_closest_marker("svqd_only"):
            item.add_marker(pytest.mark.skip(reason="SVQ_DIRECT is set: nothing to test here"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    bench = item.funcargs.get("bench") if hasattr(item, "funcargs") else None
    if report.failed and bench and os.path.isdir(bench.folder):
        bench.failed = True
        report.sections.append(("peers' logs", bench.report()))


def pytest_terminal_summary(terminalreporter):
    if figures.said():
        terminalreporter.section("figures")
    for line in figures.said():
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _figures_are_named(request):
    figures.begin(request.node.name)


@pytest.fixture(autouse=True)
def _svqd_is_built(request):
    if not DIRECT and not request.node.get_closest_marker("direct_only"):
        assert svqd.binary().exists(), f"no {svqd.binary()}: build it or set SVQD"


@pytest.fixture
def bench():
    """The scratch folder and processes of this test; kept when it fails or SVQ_KEEP is set."""
    bench = Bench()
    bench.failed = False
    yield bench
    bench.close(keep=bench.failed or bool(os.environ.get("SVQ_KEEP")))


@pytest.fixture
def wire(bench):
    """wire({id: back-end socket}, option=value...): an Svqd, or a Direct when SVQ_DIRECT is set."""

    def wire(devices, **options):
        return svqd.wire(bench, devices, direct=DIRECT, **options)

    return wire


@pytest.fixture
def direct():
    return DIRECT


@pytest.fixture
def need():
    """need("program", "package"): skip the test, loudly, where a peer is not installed."""

    def need(program, package):
        path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin:/usr/lib/qemu")
        if not path:
            pytest.skip(f"{program} is not installed (Debian package {package})")
        return path

    return need


@pytest.fixture(scope="session")
def kernel():
    try:
        return Kernel()
    except Unavailable as reason:
        pytest.skip(f"no guest kernel: {reason}")


@pytest.fixture(scope="session")
def initramfs(kernel, tmp_path_factory):
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("qemu-system-x86_64 is not installed (Debian package qemu-system-x86)")
    try:
        return initramfs_builder.build(kernel, str(tmp_path_factory.mktemp("guest")))
    except Unavailable as reason:
        pytest.skip(f"no guest initramfs: {reason}")
