"""svqd's QMP as a client of QEMU's protocol sees it, and the shadow commands of the RFC."""

import json
import signal
import time

import pytest
from svqwire import message as wire
from svqwire.backend import FEATURES
from svqwire.qmp import Qmp, QmpError
from svqwire.wait import wait_until

COMMANDS = {
    "qmp_capabilities", "query-version", "query-commands", "query-devices", "query-queues",
    "device-add", "device-del", "device-set-shadow", "device-set-backend",
    "x-vhost-enable-shadow-vq", "quit",
}


@pytest.fixture
def idle(bench):
    return bench(start=False)


@pytest.fixture
def client(idle, closing):
    return closing(Qmp(idle.svqd.qmp_path, negotiate=False))


def test_greeting(client):
    version = client.greeting["QMP"]["version"]
    assert client.greeting == {"QMP": {"version": version, "capabilities": []}}
    assert set(version["qemu"]) == {"major", "minor", "micro"}
    assert version["package"].startswith("shadowvq ")
    assert client.raw({"execute": "qmp_capabilities"}) == {"return": {}}
    assert client.command("query-version") == version


def test_capabilities_come_first(client):
    answer = client.raw({"execute": "query-version", "id": 7})
    assert answer["error"]["class"] == "CommandNotFound" and answer["id"] == 7
    assert client.raw({"execute": "qmp_capabilities", "arguments": {"enable": []}})["return"] == {}
    answer = client.raw({"execute": "qmp_capabilities"})
    assert answer["error"]["class"] == "CommandNotFound"
    assert "return" in client.raw({"execute": "query-version"})


def test_no_events_before_capabilities(idle, client):
    idle.unit.start()
    idle.qmp.wait_event("DEVICE_FRONTEND_CONNECTED", id="dev0")
    assert client.raw({"execute": "qmp_capabilities"}) == {"return": {}}
    assert not client.events, "an event before the negotiation"


@pytest.mark.parametrize("id", [0, 17, "text", None, [1, {"a": 2}], {"x": 1}, 1.5, True])
def test_ids(client, id):
    """Whatever JSON value: echoed, with a result and with an error."""
    for command in ("qmp_capabilities", "query-version", "no-such-command"):
        answer = client.raw({"execute": command, "id": id})
        assert answer["id"] == id and type(answer["id"]) is type(id)
    assert "id" not in client.raw({"execute": "query-version"})


def test_commands_are_listed(idle):
    names = {command["name"] for command in idle.qmp.command("query-commands")}
    assert names >= COMMANDS


def error_of(client, request):
    client.write((request if isinstance(request, str) else json.dumps(request)) + "\n")
    answer = client.answer()
    assert set(answer) <= {"error", "id"}, answer
    assert set(answer["error"]) == {"class", "desc"}
    return answer["error"]


@pytest.mark.parametrize("request_, error_class", [
    ({"execute": "no-such-command"}, "CommandNotFound"),
    ({"execute": "query-version", "arguments": {"surplus": 1}}, "GenericError"),
    ({"execute": "query-queues", "arguments": {"id": 5}}, "GenericError"),
    ({"execute": "query-queues", "arguments": {"id": "nobody"}}, "DeviceNotFound"),
    ({"execute": "device-del"}, "GenericError"),
    ({"execute": "device-del", "arguments": {"id": "nobody"}}, "DeviceNotFound"),
    ({"execute": "device-add", "arguments": {}}, "GenericError"),
    ({"execute": "device-set-shadow", "arguments": {"id": "nobody", "shadow": "on"}},
     "DeviceNotFound"),
    ({"execute": "device-set-shadow", "arguments": {"id": "dev0", "shadow": "maybe"}},
     "GenericError"),
    ({"execute": "device-set-backend", "arguments": {"id": "nobody", "backend": "vhost-user:/x"}},
     "DeviceNotFound"),
    ({"execute": "device-set-backend", "arguments": {"id": "dev0"}}, "GenericError"),
    ({"execute": "device-set-backend", "arguments": {"backend": "vhost-user:/x"}}, "GenericError"),
    ({"execute": "device-set-backend", "arguments": {"id": "dev0", "backend": 1}}, "GenericError"),
    ({"execute": "x-vhost-enable-shadow-vq", "arguments": {"name": "dev0"}}, "GenericError"),
    ({"execute": "x-vhost-enable-shadow-vq", "arguments": {"name": "dev0", "enable": "yes"}},
     "GenericError"),
    ({"execute": 5}, "GenericError"),
    ({"arguments": {}}, "GenericError"),
    ({"execute": "query-version", "surplus": 1}, "GenericError"),
    ("[1, 2]", "GenericError"),
    ("{]", "GenericError"),
    ('{"execute": "query-version", }', "GenericError"),
], ids=str)
def test_errors(idle, request_, error_class):
    error = error_of(idle.qmp, request_)
    assert error["class"] == error_class, error
    assert error["desc"]
    assert idle.qmp.command("query-version"), "the connection outlives an error"


def test_requests_in_pieces_and_in_lots(client):
    """The stream is JSON objects: line ends and packets mean nothing."""
    client.raw({"execute": "qmp_capabilities"})
    text = json.dumps({"execute": "query-version", "id": "piece"})
    for position in range(0, len(text), 7):
        client.write(text[position : position + 7])
    client.write("\n")
    assert client.answer()["id"] == "piece"
    client.write("".join(json.dumps({"execute": "query-commands", "id": n}) for n in range(200)))
    client.write("\n")
    assert [client.answer()["id"] for _ in range(200)] == list(range(200))


def test_clients_do_not_disturb_each_other(idle, closing):
    """Many clients, some of them rude; events reach every negotiated one."""
    clients = [closing(Qmp(idle.svqd.qmp_path)) for _ in range(8)]
    rude = [closing(Qmp(idle.svqd.qmp_path, negotiate=False)) for _ in range(3)]
    rude[0].write(b"\xff\xfe\0garbage" * 100)
    rude[1].write('{"execute": "qmp_capa')
    rude[1].close()
    idle.unit.start()
    for client in clients:
        event = client.wait_event("DEVICE_FRONTEND_CONNECTED", id="dev0")
        assert set(event["timestamp"]) == {"seconds", "microseconds"}
        assert abs(event["timestamp"]["seconds"] - time.time()) < 60
    rude[2].close()
    idle.unit.io()


def test_silent_reader(idle, closing):
    """A client that never reads must not stop svqd or the other clients."""
    deaf = closing(Qmp(idle.svqd.qmp_path))
    idle.unit.start()
    deaf.sock.settimeout(2)
    try:
        for _ in range(2000):
            deaf.write('{"execute": "query-devices"}' * 20)
    except (TimeoutError, BrokenPipeError, ConnectionResetError):
        pass
    idle.unit.io()
    assert idle.qmp.command("query-version")


def test_events_of_a_session(idle):
    unit = idle.unit
    unit.start()
    idle.qmp.wait_event("DEVICE_BACKEND_CONNECTED", id="dev0")
    idle.qmp.wait_event("DEVICE_FRONTEND_CONNECTED", id="dev0")
    idle.svqd.shadow("dev0", True)
    event = idle.qmp.wait_event("DEVICE_SHADOW_CHANGED", id="dev0", shadow=True)
    assert event["data"]["reason"] == "command"
    assert 0 < event["data"]["microseconds"] < 5_000_000
    unit.hang_up()
    event = idle.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    assert event["data"]["reason"]
    event = idle.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
    assert event["data"]["reason"] and event["data"]["recovering"] is False


def test_back_end_that_leaves(bench):
    """reconnect=0: front-end and back-end go together."""
    made = bench(keys=dict(reconnect=0))
    unit = made.unit
    unit.backend.disconnect()
    event = made.qmp.wait_event("DEVICE_BACKEND_DISCONNECTED", id="dev0")
    assert event["data"]["reason"] and event["data"]["recovering"] is False
    made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    assert unit.vmm.closed_by_peer()
    made.fresh()


# Status.


def test_status_of_a_session(idle):
    unit, svqd = idle.unit, idle.svqd
    state = svqd.device("dev0")
    assert (state["mode"], state["started"]) == ("stopped", False)
    assert state["frontend"] == {"address": str(unit.address), "connected": False}
    assert state["backend"] == {
        "address": f"vhost-user:{unit.backend.path}", "connected": False, "link": "none",
        "outages": 0, "resubmitted": 0,
    }
    assert (state["reconnect"], state["keep-backend"]) == (2, False)
    assert (state["shadow"], state["dirty-log"]) == ("auto", "auto")
    assert (state["logging"], state["switches"]) == ("off", 0)
    assert "last-switch" not in state and "last-error" not in state
    unit.start()
    state = svqd.device("dev0")
    assert (state["mode"], state["started"]) == ("pass-through", True)
    assert state["frontend"]["connected"] and state["backend"]["connected"]
    assert state["backend"]["link"] == "up"
    assert int(state["features"]["backend"], 16) == FEATURES
    assert int(state["features"]["offered"], 16) == unit.vmm.offered
    assert int(state["features"]["acked"], 16) == unit.vmm.acked
    assert int(state["protocol-features"]["backend"], 16) == unit.backend.protocol
    assert int(state["protocol-features"]["acked"], 16) == unit.vmm.protocol
    assert [queue["index"] for queue in state["queues"]] == [0, 1]
    svqd.shadow("dev0", True)
    state = svqd.device("dev0")
    assert (state["mode"], state["switches"]) == ("shadow", 1)
    assert state["last-switch"]["shadow"] is True
    assert 0 < state["last-switch"]["microseconds"] < 5_000_000
    unit.hang_up()
    svqd.wait_mode("dev0", "stopped")


def test_status_of_queues(idle):
    unit, svqd = idle.unit, idle.svqd
    unit.start()
    unit.io(20)
    queue = svqd.queue("dev0", 1)
    ring = {"format": "split", "size": 64, "features": ["event_idx", "indirect_desc"]}
    assert queue["device"] == "dev0"
    assert queue["started"] and queue["enabled"]
    assert queue["mode"] == "pass-through"
    assert {**queue["guest"], **ring} == queue["guest"]
    assert queue["backend"] == ring, "in pass-through the back-end has the guest's ring"
    svqd.shadow("dev0", True)
    guest = unit.guest.queues[1].ring
    unit.io(30)
    queue = svqd.queue("dev0", 1)
    assert queue["mode"] == "shadow"
    assert queue["guest"] == {
        **ring, "avail-idx": guest.avail_idx, "used-idx": guest.used_idx(),
    }
    assert queue["backend"] == {**ring, "avail-idx": 30, "used-idx": 30}
    assert (queue["chains"], queue["in-flight"]) == (30, 0)
    assert queue["bytes"] > 0 and queue["kicks"]["guest"] > 0 and queue["calls"]["backend"] > 0
    assert queue["kicks"]["backend"] <= 31 and queue["calls"]["guest"] <= 31
    unit.backend.hold = True
    unit.guest.queues[1].submit([b"held"], [8])
    wait_until(lambda: svqd.queue("dev0", 1)["in-flight"] == 1, "the chain to be in flight")
    unit.backend.release()
    unit.guest.drain()
    svqd.shadow("dev0", False)
    svqd.shadow("dev0", True)
    assert svqd.queue("dev0", 1)["chains"] >= 31, "the counters are kept over a switch"
    assert idle.qmp.command("query-queues") == idle.qmp.command("query-queues", id="dev0")


# Ring features of its own on each side.

LACKS = "the guest uses ring features that the back-end lacks: "


def offering(bench, names, guest, features=FEATURES, **keys):
    """A bench whose guest uses ring features that svqd alone brings."""
    return bench(start=False, keys=dict(offer=names, **keys),
                 backend_options=dict(features=features), **guest)


def test_offered_features(bench):
    """Offered besides what the back-end has; a guest that does not want them passes through."""
    made = offering(bench, "in_order+packed", dict(event_idx=True))
    state = made.svqd.device("dev0")
    assert (state["ring"], state["offer"]) == ("auto", ["packed", "in_order"])
    vmm = made.unit.start()
    assert vmm.offered & (wire.F_PACKED | wire.F_IN_ORDER) == wire.F_PACKED | wire.F_IN_ORDER
    state = made.svqd.device("dev0")
    assert state["pass-through"] == {"possible": True} and state["mode"] == "pass-through"
    made.unit.io()
    made.svqd.shadow("dev0", True)
    made.unit.io()
    made.svqd.shadow("dev0", False)
    made.unit.io()


@pytest.mark.parametrize("guest, lacking", [
    (dict(event_idx=True, indirect=False), "event_idx"),
    (dict(event_idx=False, indirect=True), "indirect_desc"),
    (dict(event_idx=True, indirect=True, in_order=True), "indirect_desc, event_idx, in_order"),
    (dict(packed=True, event_idx=False, indirect=False), "packed"),
    (dict(packed=True, event_idx=True, indirect=True), "indirect_desc, event_idx, packed"),
], ids=str)
def test_bound_to_the_shadow(bench, guest, lacking):
    """Shadowed from the first ring on; whoever asks for pass-through hears why not."""
    plain = FEATURES & ~(wire.F_EVENT_IDX | wire.F_INDIRECT)
    made = offering(bench, "packed+event_idx+indirect+in_order", guest, plain)
    unit, svqd = made.unit, made.svqd
    unit.start()
    unit.io(40)
    state = svqd.device("dev0")
    assert (state["mode"], state["switches"], state["shadow"]) == ("shadow", 0, "auto")
    assert state["pass-through"] == {"possible": False, "reason": LACKS + lacking}
    assert int(state["features"]["acked"], 16) == unit.vmm.acked
    assert int(state["features"]["served"], 16) == unit.backend.acked
    queue = svqd.queue("dev0", 0)
    assert queue["guest"]["format"] == ("packed" if "packed" in lacking else "split")
    # Those of the names above, in the order in which lists have them.
    assert queue["guest"]["features"] == [
        name for name in ("event_idx", "indirect_desc", "in_order") if name in lacking
    ]
    assert ("avail-wrap" in queue["guest"]) == ("packed" in lacking)
    assert queue["backend"]["format"] == "split" and queue["backend"]["features"] == []
    error = svqd.refused("dev0", False)
    assert error.error_class == "GenericError"
    assert error.desc == f"Can't enable shadow vq on dev0: {LACKS}{lacking}"
    with pytest.raises(QmpError) as raised:
        made.qmp.command("device-set-shadow", id="dev0", shadow="off")
    assert lacking in raised.value.desc or "offer=" in raised.value.desc
    assert svqd.device("dev0")["shadow"] == "auto"
    assert svqd.shadow("dev0", True) == {}
    unit.io()
    unit.hang_up()
    svqd.wait_mode("dev0", "stopped")
    made.fresh()


def test_ring_of_another_format(bench):
    """ring=split: a guest is not offered packed rings, and hears so in the masked features."""
    made = bench(start=False, keys=dict(ring="split"),
                 backend_options=dict(features=FEATURES | wire.F_PACKED))
    vmm = made.unit.start()
    assert not vmm.offered & wire.F_PACKED
    state = made.svqd.device("dev0")
    assert state["ring"] == "split" and state["pass-through"] == {"possible": True}
    masked = {one["feature"]: one["reason"] for one in state["masked-features"]}
    assert "ring=split" in masked["packed"]
    made.unit.io()


def test_packed_back_end_ring(bench):
    """ring=packed: a split guest on a packed ring; only in the shadow."""
    made = bench(start=False, keys=dict(ring="packed"),
                 backend_options=dict(features=FEATURES | wire.F_PACKED))
    made.unit.start()
    made.unit.io(40)
    state = made.svqd.device("dev0")
    assert state["mode"] == "shadow"
    reason = "the guest's rings are split, the back-end's packed"
    assert state["pass-through"] == {"possible": False, "reason": reason}
    queue = made.svqd.queue("dev0", 0)
    assert queue["guest"]["format"] == "split" and queue["backend"]["format"] == "packed"
    assert {"avail-wrap", "used-wrap"} <= set(queue["backend"])
    assert not {"avail-wrap", "used-wrap"} & set(queue["guest"])
    assert reason in made.svqd.refused("dev0", False).desc


def test_no_packed_back_end_ring(bench):
    """ring=packed with a back-end that has none: said clearly, at once."""
    made = bench(start=False, keys=dict(ring="packed"))
    vmm = made.unit.dial()
    event = made.qmp.wait_event("DEVICE_ERROR", id="dev0")
    assert event["data"]["reason"] == "ring=packed, but the back-end has no packed rings"
    assert vmm.closed_by_peer()
    assert "packed" in made.svqd.device("dev0")["last-error"]


def test_packed_passes_through(bench):
    """Packed on both sides: it passes through, and can be shadowed like any other."""
    made = bench(packed=True, backend_options=dict(features=FEATURES | wire.F_PACKED))
    made.unit.io()
    state = made.svqd.device("dev0")
    assert state["mode"] == "pass-through" and state["pass-through"] == {"possible": True}
    queue = made.svqd.queue("dev0", 0)
    assert queue["guest"]["format"] == queue["backend"]["format"] == "packed"
    made.svqd.shadow("dev0", True)
    made.unit.io(30)
    queue = made.svqd.queue("dev0", 0)
    assert queue["mode"] == "shadow" and queue["chains"] == 30
    assert queue["guest"]["format"] == queue["backend"]["format"] == "packed"
    made.svqd.shadow("dev0", False)
    made.unit.io()


# The RFC's command.


def test_errors_of_the_rfc(idle):
    error = idle.svqd.refused("nobody", True)
    assert error.error_class == "DeviceNotFound"
    assert error.desc == "Can't enable shadow vq on nobody: Device not found"
    for _ in range(2):
        error = idle.svqd.refused("dev0", True)
        assert error.error_class == "GenericError"
        assert error.desc == "Can't enable shadow vq on dev0: Device is not started"
    idle.unit.connect()
    assert idle.svqd.refused("dev0", True).desc.endswith("Device is not started")
    idle.unit.guest.restart()
    idle.unit.vmm.start()
    idle.unit.vmm.sync()
    idle.svqd.shadow("dev0", True)
    idle.unit.vmm.stop()
    assert idle.svqd.refused("dev0", True).desc.endswith("Device is not started")


@pytest.mark.parametrize("shadow", ["off", "auto"])
def test_what_cannot_be_shadowed(bench, shadow):
    """Offered where nothing has to be shadowed; refused by the RFC's words when acked."""
    features = FEATURES | wire.F_ACCESS_PLATFORM
    made = bench(start=False, shadow=shadow,
                 backend_options=dict(features=features, logs=shadow == "auto"))
    made.judged = False  # the scripted back-end knows no IOMMU
    vmm = made.unit.connect()
    assert vmm.offered & wire.F_ACCESS_PLATFORM, "withheld though nothing needs a shadow"
    made.unit.guest.restart()
    acked = vmm.acceptable() | wire.F_ACCESS_PLATFORM
    vmm.acceptable = lambda: acked
    vmm.start()
    vmm.sync()
    error = made.svqd.refused("dev0", True)
    assert error.error_class == "GenericError"
    assert error.desc == "Can't enable shadow vq on dev0: Device use IOMMU"
    assert made.svqd.device("dev0")["mode"] == "pass-through"


@pytest.mark.parametrize("shadow", ["auto", "on"])
def test_what_cannot_be_shadowed_is_not_offered(bench, shadow):
    features = FEATURES | wire.F_PACKED | wire.F_ACCESS_PLATFORM
    made = bench(start=False, shadow=shadow, backend_options=dict(features=features))
    vmm = made.unit.connect()
    assert vmm.offered & (wire.F_PACKED | wire.F_ACCESS_PLATFORM) == wire.F_PACKED


def test_never_offered(bench):
    """Ring features svqd has no answer to, and protocol features it does not speak."""
    names = {
        24: "notify_on_empty", 25: "bit_25", 31: "bit_31", 37: "sr_iov", 38: "notification_data",
        39: "notif_config_data", 41: "admin_vq",
    }
    hidden = sum(wire.bit(n) for n in names)
    hidden_protocol = sum(wire.bit(n) for n in (8, 11, 14, 17, 20, 21, 23))
    made = bench(start=False, backend_options=dict(
        features=FEATURES | hidden | wire.F_RING_RESET | wire.bit(3) | wire.bit(23) | wire.bit(50)
        | wire.bit(63),
        protocol=(1 << 24) - 1))
    vmm = made.unit.dial()
    offered = vmm.get_features()
    assert not offered & hidden, f"{offered & hidden:#x}"
    passed = wire.bit(3) | wire.bit(23) | wire.bit(50) | wire.bit(63)
    assert offered & passed == passed, "device features pass untouched"
    assert offered & wire.F_RING_RESET, "a queue is reset by messages that svqd knows"
    masked = made.svqd.device("dev0")["masked-features"]
    assert [one["feature"] for one in masked] == list(names.values())
    assert all(set(one) == {"feature", "reason"} and one["reason"] for one in masked)
    assert "eventfds" in next(m for m in masked if m["feature"] == "notification_data")["reason"]
    protocol = vmm.get_protocol_features()
    assert not protocol & hidden_protocol, f"{protocol & hidden_protocol:#x}"


def test_idempotence(idle):
    idle.unit.start()
    for enable, mode in ((False, "pass-through"), (True, "shadow"), (False, "pass-through")):
        assert idle.svqd.shadow("dev0", enable) == {}
        switches = idle.svqd.device("dev0")["switches"]
        messages = len(idle.unit.backend.log)
        for _ in range(3):
            assert idle.svqd.shadow("dev0", enable) == {}
        state = idle.svqd.device("dev0")
        assert (state["mode"], state["switches"]) == (mode, switches)
        assert len(idle.unit.backend.log) == messages
        idle.unit.io()


def test_device_set_shadow(idle):
    """A policy for now and for the sessions to come."""
    qmp, unit, svqd = idle.qmp, idle.unit, idle.svqd
    qmp.command("device-set-shadow", id="dev0", shadow="on")
    assert svqd.device("dev0")["shadow"] == "on"
    unit.start()
    assert svqd.device("dev0")["mode"] == "shadow"
    unit.io()
    for policy, mode in (("off", "pass-through"), ("on", "shadow"), ("auto", "pass-through")):
        qmp.command("device-set-shadow", id="dev0", shadow=policy)
        state = svqd.device("dev0")
        assert (state["shadow"], state["mode"]) == (policy, mode)
        unit.io()
    unit.hang_up()
    svqd.wait_mode("dev0", "stopped")
    unit.start()
    assert svqd.device("dev0")["mode"] == "pass-through"
    unit.io()


def test_device_add_and_del(bench, folder):
    made = bench(start=False)
    unit, qmp = made.unit, made.qmp
    keys = {name: str(value) for name, value in unit.device().items()}
    with pytest.raises(QmpError) as raised:
        qmp.command("device-add", **keys)
    assert raised.value.error_class == "GenericError", "an id there is already"
    qmp.command("device-del", id="dev0")
    assert qmp.command("query-devices") == []
    assert not unit.address.exists(), "the socket of a deleted device"
    for bad in (dict(shadow="maybe"), dict(backend="tcp:1"), dict(id=""), dict(frontend=""),
                dict(frontend=str(folder / "none" / "x")), dict(ring="both"), dict(offer=""),
                dict(offer="packed+vring"), dict(offer=["packed", "packed"]), dict(offer=7),
                dict(offer="packed", shadow="off"), dict(ring="split", shadow="off"),
                dict(reconnect="1"), dict(reconnect=-1), {"keep-backend": 1},
                {"keep-backend": "maybe"}, dict(backend=f"vhost-user:listen:{unit.address}")):
        with pytest.raises(QmpError) as raised:
            qmp.command("device-add", **{**keys, **bad})
        assert raised.value.error_class == "GenericError", bad
    assert qmp.command("device-add", **{**keys, "shadow": "on"}) == {}
    unit.start()
    unit.io()
    assert made.svqd.device("dev0")["mode"] == "shadow"
    assert qmp.command("device-del", id="dev0") == {}
    assert unit.vmm.closed_by_peer()
    unit.backend.wait_disconnected()
    qmp.command("device-add", **keys, offer=["in_order"], ring="split", reconnect=0.25,
                keep_backend=True)
    state = made.svqd.device("dev0")
    assert (state["ring"], state["offer"]) == ("split", ["in_order"])
    assert (state["reconnect"], state["keep-backend"]) == (0.25, True)
    qmp.command("device-del", id="dev0")
    qmp.command("device-add", **keys, reconnect=0, keep_backend="off")
    state = made.svqd.device("dev0")
    assert (state["reconnect"], state["keep-backend"]) == (0, False)
    made.fresh()


def test_quit(idle):
    idle.unit.start()
    assert idle.qmp.command("quit") == {}
    assert idle.svqd.process.wait(10) == 0
    assert not idle.unit.address.exists() and not idle.svqd.qmp_path.exists()
    idle.unit.hang_up()


def test_sigterm_while_shadowing(bench):
    made = bench(shadow="on")
    made.unit.io()
    made.svqd.process.send_signal(signal.SIGTERM)
    assert made.svqd.process.wait(10) == 0
    assert made.unit.vmm.closed_by_peer()
    assert not made.unit.address.exists() and not made.svqd.qmp_path.exists()
