"""svqctl, the person's face of svqd: what it shows, does and says when it cannot."""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES
from svqwire.daemon import binary
from svqwire.wait import wait_until


def svqctl_binary():
    return Path(os.environ.get("SVQCTL", binary().with_name("svqctl")))


pytestmark = pytest.mark.skipif(not svqctl_binary().exists(), reason=f"no {svqctl_binary()}")


def run(*arguments, env=None):
    return subprocess.run(
        [svqctl_binary(), *arguments], capture_output=True, text=True, timeout=20,
        stdin=subprocess.DEVNULL, env=dict(os.environ, **(env or {})),
    )


@pytest.fixture
def idle(bench):
    return bench(start=False)


@pytest.fixture
def ctl(idle):
    """svqctl on that svqd: returns what it printed, after checking its exit status."""

    def call(*arguments, status=0):
        ended = run("-s", idle.svqd.qmp_path, *arguments)
        assert ended.returncode == status, ended
        return ended.stderr if status else ended.stdout

    return call


def test_help_and_version():
    assert "Usage: svqctl" in run("--help").stdout
    assert re.match(r"svqctl \(shadowvq\) \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("arguments", [
    [], ["nonsense"], ["--nonsense"], ["shadow"], ["shadow", "dev0"], ["status", "a", "b"],
    ["quit", "now"], ["shadow", "dev0", "on", "--json"], ["top", "--interval", "0"],
    ["top", "--count", "x"], ["-s"],
], ids=" ".join)
def test_wrong_usage(arguments):
    ended = run(*arguments)
    assert ended.returncode == 2 and ended.stderr and not ended.stdout


def test_no_svqd(folder):
    ended = run("-s", folder / "none", "status")
    assert ended.returncode == 3
    assert f"is svqd running with --qmp {folder / 'none'}?" in ended.stderr
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "stale"))
    ended = run("status", env={"SVQD_QMP": str(folder / "stale")})
    assert ended.returncode == 3 and "is svqd running" in ended.stderr


def test_status(idle, ctl):
    unit = idle.unit
    text = ctl("status")
    assert text.startswith("dev0: stopped") and text.count("not connected") == 2
    unit.start()
    idle.svqd.shadow("dev0", True)
    unit.io(30)
    text = ctl("status", "dev0")
    assert text.startswith("dev0: shadow") and "version_1" in text and "not connected" not in text
    assert re.search(r"switches +1, last to shadow in \d+ us", text)
    assert re.search(r"pass-through +possible\n", text)
    row = next(line for line in text.splitlines() if re.match(r" +1  running", line)).split()
    assert row[:3] == ["1", "running", "shadow"] and row[8] == "30"
    ring = "split 64 event_idx indirect"
    assert text.count(f"  {ring} -> {ring}\n") == 2
    shown = json.loads(ctl("status", "--json"))
    asked = idle.qmp.command("query-devices")
    assert [device["features"] for device in shown] == [device["features"] for device in asked]
    assert "not found" in ctl("status", "nobody", status=1)


def test_status_of_added_features(bench):
    """Both formats and features, why it cannot pass through, and what is withheld."""
    features = FEATURES & ~wire.F_EVENT_IDX | wire.F_NOTIFICATION_DATA
    made = bench(keys=dict(offer="event_idx+packed"), backend_options=dict(features=features),
                 packed=True, num=100)
    made.unit.io(30)

    def ctl(*arguments):
        return run("-s", made.svqd.qmp_path, *arguments)

    text = ctl("status", "dev0").stdout
    assert re.search(r"\n  rings +ring=auto offer=packed\+event_idx\n", text), text
    lacks = "the guest uses ring features that the back-end lacks: event_idx, packed"
    assert re.search(rf"\n  pass-through +not possible: {lacks}\n", text), text
    assert re.search(r"\n  masked +notification_data: .*eventfds", text), text
    row = next(line for line in text.splitlines() if re.match(r" +1  running", line))
    assert row.endswith("  packed 100 event_idx indirect -> split 128 indirect")
    # Offset and wrap counter of a packed ring, which has as many places as are free again.
    assert re.search(r"shadow +\d+:[01]/\d+:[01] +30/30 ", row), row
    top = ctl("top", "--interval", "0.1", "--count", "1").stdout
    assert re.search(r"dev0 +0  running  shadow  packed -> split ", top)
    ended = ctl("shadow", "dev0", "off")
    assert ended.returncode == 1 and "Can't set shadow=off on dev0" in ended.stderr


def test_status_in_pass_through(idle, ctl):
    """One ring, which the back-end has as the guest made it."""
    idle.unit.start()
    lines = ctl("status", "dev0").splitlines()
    assert sum(line.endswith("  split 64 event_idx indirect") for line in lines) == 2
    assert not any("->" in line for line in lines if "running" in line)
    assert not any(line.startswith(("  rings", "  masked")) for line in lines)


def test_shadow(idle, ctl):
    idle.unit.start()
    assert ctl("shadow", "dev0", "on").startswith("dev0: policy on, now shadow, last switch took")
    idle.unit.io()
    assert ctl("shadow", "dev0", "auto").startswith("dev0: policy auto, now pass-through")
    idle.unit.io()
    assert "Device 'nobody' not found" in ctl("shadow", "nobody", "on", status=1)
    assert "does not accept value 'maybe'" in ctl("shadow", "dev0", "maybe", status=1)


def test_qmp(idle, ctl):
    assert json.loads(ctl("qmp", "query-version")) == idle.qmp.command("query-version")
    assert json.loads(ctl("qmp", "query-queues", '{"id": "dev0"}')) == []
    assert "has not been found" in ctl("qmp", "nonsense", status=1)
    assert "JSON object" in ctl("qmp", "query-queues", "[1]", status=2)


def test_events(idle, folder):
    """Events come one per line from the moment it listens: make some until two have arrived."""
    idle.unit.start()
    with open(folder / "events", "w+b") as out:
        watcher = subprocess.Popen(
            [svqctl_binary(), "-s", idle.svqd.qmp_path, "events", "--json"], stdout=out,
            stderr=subprocess.DEVNULL,
        )

        def two_events():
            for enable in (True, False):
                idle.svqd.shadow("dev0", enable)
            text = (folder / "events").read_text()
            return text if text.count("\n") >= 2 else None

        try:
            text = wait_until(two_events, "two events")
        finally:
            watcher.terminate()
            watcher.wait(10)
    events = [json.loads(line) for line in text.splitlines()]
    assert {event["event"] for event in events} == {"DEVICE_SHADOW_CHANGED"}
    assert {event["data"]["id"] for event in events} == {"dev0"}


def test_top(idle, ctl):
    idle.unit.start()
    idle.svqd.shadow("dev0", True)
    lines = ctl("top", "--interval", "0.1", "--count", "2").splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:5] == ["device", "queue", "state", "mode", "rings"]
    assert lines[1].split()[:7] == ["dev0", "0", "running", "shadow", "split", "->", "split"]


def test_quit(idle, ctl):
    ctl("quit")
    assert idle.svqd.process.wait(10) == 0
    assert "is svqd running" in ctl("status", status=3)
