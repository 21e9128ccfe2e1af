"""svqctl, the person's face of svqd: what it shows, does and says when it cannot."""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES, BackEnd
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
    usage = run("--help").stdout
    assert "Usage: svqctl" in usage
    for command in ("status", "shadow", "backend", "events", "top", "qmp", "quit"):
        assert re.search(rf"\n  {command} ", usage), command
    assert re.match(r"svqctl \(shadowvq\) \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("arguments", [
    [], ["nonsense"], ["--nonsense"], ["shadow"], ["shadow", "dev0"], ["status", "a", "b"],
    ["quit", "now"], ["shadow", "dev0", "on", "--json"], ["top", "--interval", "0"],
    ["top", "--count", "x"], ["-s"], ["backend"], ["backend", "dev0"],
    ["backend", "dev0", "vhost-user:/x", "now"],
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


def test_status_of_descriptors(bench):
    """Only where the key says something else than it does by default."""
    made = bench(devices=2, shadow="on", keys=dict(descriptors="copied"))
    for name, shown in (("dev0", 1), ("dev1", 0)):
        text = run("-s", made.svqd.qmp_path, "status", name).stdout
        assert len(re.findall(r"\n  descriptors +copied\n", text)) == shown, text
        assert "shared" not in text


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


@pytest.fixture
def away(folder):
    """A function that makes a back-end leave and hides its socket, and one that undoes it."""
    hidden = folder / "hidden"

    def hide(backend):
        os.rename(backend.path, hidden)
        backend.disconnect()

    return hide, lambda backend: os.rename(hidden, backend.path)


def line_of(text, label):
    """The line of svqctl's status that begins with that word, without it."""
    found = re.search(rf"^  {label} +(.*)$", text, re.M)
    return found and found[1]


TIME = r"\d[\d.]* (us|ms|s)"


def test_status_of_an_outage(bench, away):
    """Lost: since when nobody says, but why and how often it was tried; then how long it took."""
    made = bench(shadow="on", keys=dict(reconnect=0.05))
    hide, show = away

    def ctl(*arguments):
        ended = run("-s", made.svqd.qmp_path, *arguments)
        assert ended.returncode == 0, ended
        return ended.stdout

    text = ctl("status", "dev0")
    assert line_of(text, "crash-safe") == "yes"
    assert line_of(text, "recovery") == "reconnect=0.05"
    assert not line_of(text, "link") and not line_of(text, "outages")
    hide(made.unit.backend)
    try:
        data = made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")["data"]
        wait_until(lambda: made.svqd.device("dev0")["backend"]["attempts"] > 2, "three attempts")
        text = ctl("status", "dev0")
        top = ctl("top", "--interval", "0.1", "--count", "1")
    finally:
        show(made.unit.backend)
    reason = re.escape(data["reason"])
    assert re.fullmatch(rf"lost: {reason}; \d+ attempts to reach it", line_of(text, "link")), text
    assert line_of(text, "outages") == "1"
    assert line_of(text, "back-end").endswith(" not connected")
    assert line_of(text, "front-end").endswith(" connected")
    assert sum(bool(re.match(r" +[01]  paused ", line)) for line in text.splitlines()) == 2, text
    assert top.count("  paused  ") == 2
    assert re.fullmatch(rf"dev0: back-end lost: {reason}; \d+ attempts to reach it",
                        top.splitlines()[-1]), top
    made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    text = ctl("status", "dev0")
    assert not line_of(text, "link")
    assert re.fullmatch(rf"1, the last took {TIME}", line_of(text, "outages")), text
    assert text.count("  running  ") == 2
    assert "paused" not in ctl("top", "--interval", "0.1", "--count", "1")
    made.unit.io()


def test_status_of_one_refused(bench):
    made = bench(shadow="on", keys={"reconnect": 600, "keep-backend": "on"})
    made.unit.backend.features &= ~wire.bit(6)
    made.unit.backend.disconnect()
    reason = made.qmp.wait_event("DEVICE_BACKEND_REFUSED", id="dev0")["data"]["reason"]
    text = run("-s", made.svqd.qmp_path, "status").stdout
    link = line_of(text, "link")
    assert re.fullmatch(rf"refused: {re.escape(reason)}; \d+ attempts? to reach it", link), text
    assert line_of(text, "recovery") == "reconnect=600 keep-backend=on"
    made.qmp.command("device-del", id="dev0")


def test_not_crash_safe(idle, ctl):
    assert not line_of(ctl("status"), "crash-safe"), "nobody knows before it starts"
    idle.unit.start()
    text = ctl("status")
    reason = idle.svqd.device("dev0")["crash-safe"]["reason"]
    assert line_of(text, "crash-safe") == f"no ({reason})"
    assert not line_of(text, "recovery"), "nothing but defaults"


def test_backend(idle, ctl, folder, closing):
    """Another one under a running guest; what cannot be is refused and changes nothing."""
    idle.unit.start()
    second = closing(BackEnd(folder / "second"))
    address = f"vhost-user:{second.path}"
    assert re.fullmatch(rf"dev0: now on {address}, queues paused for {TIME}\n",
                        ctl("backend", "dev0", address))
    idle.unit.io()
    assert second.sessions == 1
    shown = line_of(ctl("status", "dev0"), "back-end")
    assert re.fullmatch(rf"{address} +connected", shown)
    assert "Device 'nobody' not found" in ctl("backend", "nobody", address, status=1)
    nowhere = f"vhost-user:{folder / 'nowhere'}"
    assert "Can't change the back-end of dev0: " in ctl("backend", "dev0", nowhere, status=1)
    for path in (second.path, "second"):
        said = ctl("backend", "dev0", path, status=2)
        assert f"did you mean vhost-user:{path}\n" in said
    assert idle.svqd.device("dev0")["backend"]["address"] == address
    idle.unit.io()
    ctl("backend", "dev0", f"vhost-user:{idle.unit.backend.path}")
    idle.unit.io()


def test_events_in_words(bench, folder, closing, away):
    """Each on a line of its own: when, its name, the device, what happened."""
    made = bench(shadow="on", keys=dict(reconnect=0.05))
    second = closing(BackEnd(folder / "second"))
    hide, show = away
    with open(folder / "events", "w+b") as out:
        watcher = subprocess.Popen(
            [svqctl_binary(), "-s", made.svqd.qmp_path, "events"], stdout=out,
            stderr=subprocess.DEVNULL,
        )

        def text():
            return (folder / "events").read_text()

        def listening():
            made.svqd.shadow("dev0", False)
            made.svqd.shadow("dev0", True)
            return text()

        try:
            wait_until(listening, "the first event")
            hide(made.unit.backend)
            wait_until(lambda: "BACKEND_DISCONNECTED" in text(), "a lost back-end")
            show(made.unit.backend)
            wait_until(lambda: "BACKEND_RECOVERED" in text(), "its return")
            address = f"vhost-user:{second.path}"
            made.qmp.command("device-set-backend", id="dev0", backend=address)
            wait_until(lambda: "BACKEND_CHANGED" in text(), "the other back-end")
            made.unit.hang_up()
            wait_until(lambda: "FRONTEND_DISCONNECTED" in text(), "the end")
        finally:
            watcher.terminate()
            watcher.wait(10)
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
    for line in (
        rf"DEVICE_SHADOW_CHANGED dev0: now shadow, after {TIME} \(command\)",
        r"DEVICE_BACKEND_DISCONNECTED dev0: .+; queues are paused until it is back",
        r"DEVICE_BACKEND_CONNECTED dev0",
        rf"DEVICE_BACKEND_RECOVERED dev0: after {TIME} and \d+ attempts?; "
        r"0 requests given to it again",
        rf"DEVICE_BACKEND_CHANGED dev0: now on {address}, queues paused for {TIME}",
        r"DEVICE_FRONTEND_DISCONNECTED dev0: .+",
    ):
        assert re.search(rf"^{stamp} {line}$", text(), re.M), f"{line}\n{text()}"


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
