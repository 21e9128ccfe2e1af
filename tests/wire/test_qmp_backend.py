"""What QMP says and does about back-ends that leave, come back, and are replaced."""

import json
import os
import time

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES, BackEnd
from svqwire.flavours import FLAVOURS
from svqwire.message import Id
from svqwire.qmp import Qmp, QmpError
from svqwire.wait import wait_until

SILENT = 1.5  # seconds of message-timeout where a back-end falls silent


def backend_of(made, name="dev0"):
    return made.svqd.device(name)["backend"]


class Away:
    """Nobody can reach the back-end: its socket has no name. It leaves, too."""

    def __init__(self, backend):
        self.backend, self.hidden = backend, backend.path + ".away"

    def __enter__(self):
        os.rename(self.backend.path, self.hidden)
        self.backend.disconnect()
        return self

    def back(self):
        os.rename(self.hidden, self.backend.path)
        self.hidden = None

    def __exit__(self, *_):
        if self.hidden:
            self.back()


@pytest.fixture
def other(folder, closing):
    """A function that makes one more back-end."""

    def make(name="other", **options):
        return closing(BackEnd(folder / name, **options))

    return make


def refused(qmp, backend, id="dev0"):
    """The text of a device-set-backend that must not work."""
    with pytest.raises(QmpError) as raised:
        qmp.command("device-set-backend", id=id, backend=backend)
    assert raised.value.error_class == "GenericError"
    start = f"Can't change the back-end of {id}: "
    assert raised.value.desc.startswith(start) and len(raised.value.desc) > len(start)
    return raised.value.desc


# Lost and found.


@pytest.mark.parametrize("shadow", ["off", "on"])
def test_outage(bench, shadow):
    """While the back-end is away status says so; the front-end stays."""
    made = bench(shadow=shadow, keys=dict(reconnect=0.1))
    made.unit.io()
    assert backend_of(made) == {
        "address": f"vhost-user:{made.unit.backend.path}", "connected": True, "link": "up",
        "outages": 0, "resubmitted": 0,
    }
    with Away(made.unit.backend) as away:
        event = made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
        assert event["data"]["recovering"] is True
        state = made.svqd.device("dev0")
        backend = state["backend"]
        assert (backend["link"], backend["connected"]) == ("lost", False)
        assert backend["reason"] == event["data"]["reason"]
        assert backend["outages"] == 1 and "last-outage-microseconds" not in backend
        assert state["frontend"]["connected"] and state["started"]
        wait_until(lambda: backend_of(made)["attempts"] >= 3, "three attempts")
        assert not [e for e in made.qmp.drain() if e["event"] == "DEVICE_BACKEND_RECOVERED"]
        away.back()
    data = made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]
    assert set(data) == {"id", "microseconds", "attempts", "resubmitted"}
    assert data["attempts"] >= 4 and data["resubmitted"] == 0
    assert 100_000 < data["microseconds"] < 10_000_000, "three attempts are 50 and 100 ms apart"
    made.qmp.wait_event("DEVICE_BACKEND_CONNECTED", id="dev0")
    backend = backend_of(made)
    assert (backend["link"], backend["connected"], backend["outages"]) == ("up", True, 1)
    assert backend["last-outage-microseconds"] == data["microseconds"]
    assert not {"reason", "attempts"} & set(backend)
    made.unit.io()
    assert not [e for e in made.qmp.drain() if e["event"] == "DEVICE_FRONTEND_DISCONNECTED"]


def test_resubmitted(bench):
    """Requests that were in flight are counted, over all outages."""
    made = bench(shadow="on", keys=dict(reconnect=0.05))
    total = 0
    for round in range(1, 4):
        made.unit.backend.hold = True
        for _ in range(round):
            made.unit.guest.queues[1].submit([b"held"], [8])
        held = made.unit.backend.queues[1].held
        wait_until(lambda: len(held) == round, "the back-end has them")
        assert made.svqd.queue("dev0", 1)["in-flight"] == round
        made.unit.backend.abandon()
        data = made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")["data"]
        made.unit.guest.drain()
        total += round
        assert data["resubmitted"] == round
        assert backend_of(made)["resubmitted"] == total
        assert backend_of(made)["outages"] == round


def test_orders_while_lost(bench):
    """A policy is kept for later; a switch by hand has nothing to work on."""
    made = bench(keys=dict(reconnect=0.05))
    with Away(made.unit.backend) as away:
        made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
        error = made.svqd.refused("dev0", True)
        assert error.error_class == "GenericError"
        assert error.desc == "Can't enable shadow vq on dev0: Back-end is not connected"
        assert made.qmp.command("device-set-shadow", id="dev0", shadow="on") == {}
        assert made.svqd.device("dev0")["shadow"] == "on"
        address = f"vhost-user:{made.unit.backend.path}"
        refused(made.qmp, address)
        assert backend_of(made)["link"] == "lost"
        away.back()
    made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    made.svqd.wait_mode("dev0", "shadow")
    made.unit.io()


def test_one_that_does_not_fit(bench):
    """Refused with the reason, once; tried again at once by command, and then it fits."""
    made = bench(shadow="on", keys=dict(reconnect=600))
    backend = made.unit.backend
    backend.features &= ~wire.bit(6)  # the guest has acked it
    backend.disconnect()
    event = made.qmp.wait_event("DEVICE_BACKEND_REFUSED", id="dev0")
    assert set(event["data"]) == {"id", "reason"}
    made.qmp.wait_event("DEVICE_ERROR", id="dev0")
    state = made.svqd.device("dev0")
    assert state["backend"]["link"] == "refused"
    assert state["backend"]["reason"] == event["data"]["reason"]
    assert state["backend"]["attempts"] >= 1
    assert state["frontend"]["connected"]
    address = f"vhost-user:{backend.path}"
    assert event["data"]["reason"] in refused(made.qmp, address), "the same one, no better"
    assert backend_of(made)["link"] == "refused"
    backend.features = FEATURES
    answer = made.qmp.command("device-set-backend", id="dev0", backend=address)
    assert set(answer) == {"pause-microseconds"}
    made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    assert backend_of(made)["link"] == "up"
    made.unit.io()


# Crash-safe or not.


def test_crash_safe(bench):
    """A shadowed device is; one that passes through to a back-end that keeps no region is not."""
    made = bench()
    safe = made.svqd.device("dev0")["crash-safe"]
    assert safe["safe"] is False and safe["reason"]
    made.svqd.shadow("dev0", True)
    assert made.svqd.device("dev0")["crash-safe"] == {"safe": True}
    made.svqd.shadow("dev0", False)
    assert made.svqd.device("dev0")["crash-safe"] == safe


@pytest.mark.parametrize("keep, flavour, shadow", [
    *(("on", flavour, shadow) for flavour in FLAVOURS for shadow in ("on", "off")),
    ("off", "plain", "off")])
def test_keep_backend(bench, keep, flavour, shadow):
    made = bench(backend=FLAVOURS[flavour], shadow=shadow, event_idx=flavour != "spdk",
                 keys={"keep-backend": keep})
    made.unit.io()
    made.unit.hang_up()
    made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    if keep == "on":
        assert backend_of(made)["connected"] is True
        made.unit.start()
        made.unit.io()
        assert made.unit.backend.sessions == 1, "one connection for both front-ends"
        made.qmp.command("device-del", id="dev0")
    made.unit.backend.wait_disconnected()
    wait_until(lambda: keep == "on" or not backend_of(made)["connected"], "the back-end to go")


# Another one, by command.


@pytest.mark.parametrize("shadow", ["off", "on"])
def test_another_back_end(bench, other, shadow):
    """The address, the connection and the queues go to the other one; there and back again."""
    made = bench(shadow=shadow)
    made.unit.io()
    first, second = made.unit.backend, other()
    for number, (old, new) in enumerate(((first, second), (second, first)), 1):
        address = f"vhost-user:{new.path}"
        answer = made.qmp.command("device-set-backend", id="dev0", backend=address)
        assert set(answer) == {"pause-microseconds"}
        assert 0 < answer["pause-microseconds"] < 5_000_000
        data = made.qmp.wait_event("DEVICE_BACKEND_CHANGED", id="dev0")["data"]
        assert data == {
            "id": "dev0", "backend": address, "microseconds": answer["pause-microseconds"],
        }
        old.wait_disconnected()
        backend = backend_of(made)
        assert (backend["address"], backend["connected"], backend["link"]) == (address, True, "up")
        assert backend["outages"] == 0, "nothing was lost"
        made.unit.io()
        assert new.sessions == 1 + (new is first), number
    assert not second.violations
    made.unit.vmm.sync()


def test_no_such_back_end(bench, folder, other):
    """Bad addresses, nobody there, one that does not fit: the old one goes on."""
    made = bench(devices=2, keys=dict(message_timeout=0.5))
    qmp, unit, neighbour = made.qmp, made.unit, made.units[1]
    small = other("small", features=FEATURES & ~wire.bit(6))
    address = backend_of(made)["address"]
    assert "vhost-user:" in refused(qmp, str(folder / "other"))
    for bad in ("", "vhost-user:", "vhost-user:listen:", "tcp:1", "vhost-user:" + "x" * 200):
        refused(qmp, bad)
    assert "'dev0' cannot listen on" in refused(qmp, f"vhost-user:listen:{unit.address}")
    assert "'dev1' and 'dev0' cannot share" in refused(
        qmp, f"vhost-user:listen:{neighbour.address}")
    refused(qmp, f"vhost-user:{folder / 'nobody'}")
    refused(qmp, f"vhost-user:{small.path}")
    small.wait_disconnected()
    backend = backend_of(made)
    assert (backend["address"], backend["link"]) == (address, "up")
    assert unit.backend.sessions == 1
    assert not [e for e in qmp.drain() if e["event"] == "DEVICE_BACKEND_CHANGED"]
    made.alive()


def test_without_a_front_end(bench, folder, other):
    """Only the address changes, once there is somebody."""
    made = bench(start=False, keys=dict(message_timeout=0.5))
    old = backend_of(made)["address"]
    refused(made.qmp, f"vhost-user:{folder / 'nobody'}")
    assert backend_of(made)["address"] == old
    second = other()
    made.qmp.command("device-set-backend", id="dev0", backend=f"vhost-user:{second.path}")
    state = backend_of(made)
    assert (state["address"], state["link"]) == (f"vhost-user:{second.path}", "none")
    second.wait_disconnected()
    made.unit.start()
    made.unit.io()
    assert (made.unit.backend.sessions, second.connection is not None) == (0, True)
    made.unit.hang_up()
    second.wait_disconnected()


def test_a_silent_one_blocks_nobody(bench, other, closing):
    """Others are served while one client waits for a back-end that says nothing."""
    made = bench(devices=2, keys=dict(message_timeout=SILENT))
    mute = other("mute")
    mute.fault("silent", Id.GET_FEATURES)
    second = closing(Qmp(made.svqd.qmp_path))
    request = {"execute": "device-set-backend",
               "arguments": {"id": "dev0", "backend": f"vhost-user:{mute.path}"}}
    second.write(json.dumps(request))
    mute.wait_for(Id.GET_FEATURES)
    start = time.monotonic()
    assert made.qmp.command("query-version")
    assert backend_of(made)["link"] == "up"
    made.svqd.shadow("dev1", True)
    made.alive()
    assert time.monotonic() - start < SILENT, "this was to go on meanwhile"
    answer = second.answer()
    assert answer["error"]["desc"].startswith("Can't change the back-end of dev0: ")
    mute.wait_disconnected()
    made.alive()


def test_removed_meanwhile(bench, other, closing):
    """device-del waits for its turn; a command behind it finds no device any more."""
    made = bench(keys=dict(message_timeout=SILENT))
    mute = other("mute")
    mute.fault("silent", Id.GET_FEATURES)
    second, third = closing(Qmp(made.svqd.qmp_path)), closing(Qmp(made.svqd.qmp_path))
    arguments = {"id": "dev0", "backend": f"vhost-user:{mute.path}"}
    second.write(json.dumps({"execute": "device-set-backend", "arguments": arguments}))
    mute.wait_for(Id.GET_FEATURES)
    third.write(json.dumps({"execute": "device-del", "arguments": {"id": "dev0"}}))
    assert "error" in second.answer()
    assert third.answer() == {"return": {}}
    with pytest.raises(QmpError) as raised:
        made.qmp.command("device-set-backend", **arguments)
    assert raised.value.error_class == "DeviceNotFound"
    assert made.unit.vmm.closed_by_peer()
    mute.wait_disconnected()


def test_the_address_counts(bench, folder, other):
    """Who listens where is judged by what the devices have now."""
    made = bench(start=False)
    qmp = made.qmp
    taken = folder / "taken"
    keys = {"id": "dev1", "frontend": str(folder / "f1"), "backend": f"vhost-user:listen:{taken}"}
    qmp.command("device-add", **keys)
    assert "'dev1' and 'dev0' cannot share the back-end socket" in refused(
        qmp, f"vhost-user:listen:{taken}")
    with pytest.raises(QmpError) as raised:
        qmp.command("device-add", id="dev2", frontend=str(taken), backend="vhost-user:/x")
    assert "'dev1' and 'dev2' cannot share the socket" in raised.value.desc
    second = other()
    qmp.command("device-set-backend", id="dev1", backend=f"vhost-user:{second.path}")
    assert not taken.exists(), "dev1 listens there no more"
    qmp.command("device-add", id="dev2", frontend=str(taken), backend="vhost-user:/x")
    assert backend_of(made, "dev2")["address"] == "vhost-user:/x"
    for id in ("dev1", "dev2"):
        qmp.command("device-del", id=id)
