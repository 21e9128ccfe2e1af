"""Back-ends that connect to svqd, and front-ends' sockets that svqd is started with."""

import os
import socket
import stat
import subprocess

import pytest
from svqwire import message as wire
from svqwire.backend import BackEnd
from svqwire.bench import Bench, Unit
from svqwire.daemon import Svqd, binary
from svqwire.holder import Holder
from svqwire.message import Id
from svqwire.qmp import QmpError
from svqwire.wait import wait_until

GET_FEATURES = wire.Message(Id.GET_FEATURES, wire.VERSION, b"")


def listening(path):
    return f"vhost-user:listen:{path}"


@pytest.fixture
def made(folder, closing):
    """A function that makes an svqd with one device, whose back-end connects to it."""

    def make(every=None, backend_options=None, **options):
        return closing(Bench(
            folder, every={"backend": listening(folder / "dev0.back"), **(every or {})},
            backend_options={"connect": True, **(backend_options or {})}, **options))

    return make


def call(path):
    """A connection of somebody who may be a back-end."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(path))
    return sock


def refusal(*devices, code=2):
    """What svqd says of devices that it cannot have."""
    arguments = [word for device in devices for word in
                 ("--device", ",".join(f"{key}={value}" for key, value in device.items()))]
    ended = subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=10)
    assert ended.returncode == code, ended.stderr
    return ended.stderr


def error_of(svqd, command, **arguments):
    with pytest.raises(QmpError) as caught:
        svqd.qmp.command(command, **arguments)
    return caught.value.desc


# ---- A back-end that connects.


@pytest.mark.parametrize("shadow", ["on", "auto"])
def test_sessions_and_switches(made, shadow):
    """It is a back-end like any other."""
    bench = made(shadow=shadow)
    unit = bench.unit
    for turn in range(6):
        unit.io()
        bench.svqd.shadow("dev0", turn % 2 == 0)
        unit.io()
        unit.start()
    assert unit.backend.sessions == 7


@pytest.mark.parametrize("order", ["back svqd front", "svqd back front", "svqd front back"])
def test_whoever_comes_first(folder, closing, order):
    unit = Unit(folder, "dev0", queues=2, backend_options={"connect": True})
    closing(unit)
    backend, svqd = unit.backend, None
    backend.run(backend.door.close)
    for who in order.split():
        if who == "svqd":
            svqd = Svqd(folder, [unit.device(backend=listening(backend.path))])
        elif who == "back":
            backend.run(backend.door.open)
        else:
            unit.dial().post(Id.GET_FEATURES)
    unit.vmm.reply(Id.GET_FEATURES, 8)
    unit.start()
    unit.io()
    svqd.stop()
    assert not os.path.exists(backend.path) and not backend.violations


def test_restarts_between_sessions(made):
    """Each life of the back-end leaves a dead connection in the backlog."""
    bench = made()
    unit = bench.unit
    for lives in (1, 2, 7):
        unit.hang_up()
        unit.backend.wait_disconnected()
        for _ in range(lives):
            unit.backend.run(unit.backend.door.close)
            unit.backend.run(unit.backend.door.open)
        bench.fresh()


def test_lost_with_its_front_end(made):
    """reconnect=0: the front-end goes with the back-end, and the next one finds it again."""
    bench = made(keys={"reconnect": 0})
    unit = bench.unit
    for _ in range(5):
        unit.backend.disconnect()
        assert unit.vmm.closed_by_peer()
        bench.fresh()


@pytest.mark.parametrize("gone", [0, 0.05, 0.3])
def test_lost_and_back(made, gone):
    """The front-end stays; the back-end is served again as soon as it connects."""
    bench = made(shadow="on", keys={"reconnect": 10})
    unit = bench.unit
    backend = unit.backend
    for turn in range(1, 6):
        unit.io()
        if gone:
            backend.run(backend.door.close)
            backend.run(lambda: backend.later(gone, backend.door.open))
        backend.disconnect()
        unit.io()
        assert backend.sessions == turn + 1
        state = bench.svqd.device("dev0")["backend"]
        assert state["link"] == "up" and state["outages"] == turn


@pytest.mark.parametrize("dead", [1, 100, 300])
def test_the_dead_are_passed_over(made, folder, dead):
    """... at once, and without a word in the log."""
    bench = made(start=False)
    backend = bench.unit.backend
    backend.run(backend.door.close)
    for number in range(dead):
        sock = call(backend.path)
        if number % 2:
            sock.shutdown(socket.SHUT_WR)  # whoever half closes is as good as gone
        sock.close()
    backend.run(backend.door.open)
    bench.fresh()
    assert " error: " not in bench.svqd.log() and backend.sessions == 1


@pytest.mark.parametrize("answered", [0, 1])
def test_dies_when_spoken_to(made, answered):
    """... before it has answered GET_FEATURES, or right after: the next one is taken."""
    bench = made(start=False)
    unit = bench.unit
    backend = unit.backend
    backend.run(backend.door.close)
    dying = [call(backend.path) for _ in range(3)]
    vmm = unit.dial()
    vmm.post(Id.GET_FEATURES)
    for sock in dying:
        for _ in range(answered):
            asked = wire.receive(sock)
            wire.Message(asked.id, wire.VERSION | wire.REPLY, wire.u64(backend.features)).send(sock)
        assert wire.receive(sock).id == (Id.GET_PROTOCOL_FEATURES if answered else Id.GET_FEATURES)
        sock.close()
    backend.run(backend.door.open)
    vmm.reply(Id.GET_FEATURES, 8)
    bench.fresh()
    assert " error: " not in bench.svqd.log()


def test_silent_one_is_given_up(made):
    bench = made(start=False, keys={"message-timeout": 0.4})
    unit = bench.unit
    backend = unit.backend
    backend.run(backend.door.close)
    silent = call(backend.path)
    unit.dial().post(Id.GET_FEATURES)
    assert wire.receive(silent).id == Id.GET_FEATURES
    assert not silent.recv(1), "the silent back-end was not left"
    silent.close()
    backend.run(backend.door.open)
    bench.fresh()
    bench.svqd.wait_log("has not answered GET_FEATURES")


def test_others_wait_their_turn(made, closing):
    """A second back-end is not spoken to while the first one serves; then it is its turn, and the
    first one, which connects again, waits."""
    bench = made()
    unit = bench.unit
    both = [unit.backend]
    both.append(closing(BackEnd(both[0].path, connect=True)))
    for turn in range(6):
        serves, waits = both[turn % 2], both[1 - turn % 2]
        wait_until(lambda: waits.door.calls > waits.sessions, "the other back-end to connect")
        before = len(waits.log)
        unit.io(20)
        assert serves.connection and not waits.connection and len(waits.log) == before
        assert (serves.sessions, waits.sessions) == (turn // 2 + 1, (turn + 1) // 2)
        unit.start()
    unit.hang_up()
    both[0].wait_disconnected()
    assert not both[1].violations


def change(bench, address):
    return bench.qmp.command("device-set-backend", id="dev0", backend=address)


def test_changed_for_the_next_in_line(made, closing):
    """The same address again, by command: whoever waits there takes over from the one that
    serves, and each may come back."""
    bench = made(shadow="on")
    unit = bench.unit
    path = unit.backend.path
    both = [unit.backend, closing(BackEnd(path, connect=True))]
    fds = bench.svqd.fds()
    for turn in range(6):
        serves, waits = both[turn % 2], both[1 - turn % 2]
        wait_until(lambda: waits.door.calls > waits.sessions, "the other back-end to connect")
        unit.io()
        assert serves.connection and not waits.connection
        assert change(bench, listening(path))["pause-microseconds"] >= 0
        wait_until(lambda: not serves.connection, "the old back-end to be left")
        unit.io()
        assert waits.connection and bench.svqd.fds() == fds
    unit.hang_up()
    both[0].wait_disconnected()
    both[1].wait_disconnected()
    assert not both[1].violations


def test_changed_to_the_other_direction(made, folder, closing):
    """The socket that svqd listens on comes and goes with the address."""
    bench = made(shadow="on")
    unit = bench.unit
    away, home = f"{folder}/away", unit.backend.path
    other = closing(BackEnd(away))
    for _ in range(3):
        unit.io()
        change(bench, f"vhost-user:{away}")
        unit.io()
        assert other.connection and not os.path.exists(home)
        change(bench, listening(home))
        unit.io()
        assert unit.backend.connection and os.path.exists(home)
    assert not other.violations


def test_changed_for_nobody(made, folder):
    """Nobody calls there: the old one goes on, and the new socket is gone again."""
    bench = made(shadow="on", keys={"message-timeout": 0.3})
    fds = bench.svqd.fds()
    error = error_of(bench.svqd, "device-set-backend", id="dev0", backend=listening(folder / "new"))
    assert "cannot connect" in error, error
    bench.unit.io()
    assert not (folder / "new").exists() and bench.svqd.fds() == fds
    error = error_of(bench.svqd, "device-set-backend", id="dev0", backend="vhost-user:listen:")
    assert "path of a socket to listen on" in error, error
    bench.unit.io()


def test_socket_s_name(folder, closing):
    """A stale one is replaced, a live one and any other file is not; ours goes with us."""
    path = folder / "back"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    device = {"id": "a", "frontend": folder / "front", "backend": listening(path)}
    svqd = Svqd(folder, [device])
    again = {**device, "frontend": folder / "other"}
    assert "Address already in use" in refusal(again, code=1)
    svqd.qmp.command("device-del", id="a")
    assert not path.exists()
    path.write_text("precious")
    error = error_of(svqd, "device-add", **{key: str(value) for key, value in device.items()})
    assert "File exists" in error, error
    assert path.read_text() == "precious"
    assert not (folder / "front").exists(), "half of the device stayed"
    svqd.stop()


def test_socket_s_mode(folder):
    """The operator's umask decides who may be the back-end."""
    device = {"id": "a", "frontend": folder / "front", "backend": listening(folder / "back")}
    for umask, mode in (("0117", 0o660), ("0077", 0o700), ("0002", 0o775)):
        svqd = Svqd(folder, [device],
                    prefix=("/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh"))
        for name in ("front", "back"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == mode
        svqd.stop()


@pytest.mark.parametrize("address, text", [
    ("tcp:1", "backend=vhost-user:PATH or backend=vhost-user:listen:PATH"),
    ("vhost-user", "backend=vhost-user:PATH or backend=vhost-user:listen:PATH"),
    ("vhost-user:", "path of the back-end's socket"),
    ("vhost-user:listen:", "path of a socket to listen on"),
    ("vhost-user:/" + 107 * "x", "longer than a UNIX socket allows"),
    ("vhost-user:listen:/" + 107 * "x", "longer than a UNIX socket allows"),
])
def test_addresses_that_are_none(folder, address, text):
    assert text in refusal({"id": "a", "frontend": folder / "front", "backend": address})


# ---- A front-end's socket that somebody else keeps.


@pytest.fixture
def holder(folder, closing):
    return closing(Holder(folder / "dev0.front"))


@pytest.fixture
def unit(folder, closing):
    return closing(Unit(folder, "dev0", queues=2))


def given(holder, how):
    """(frontend's address, how to start svqd so that it has the socket)"""
    if how == "number":
        return f"fd:{holder.fds[0]}", holder.numbers()
    return "fd:vm1", holder.activation("vm1")


@pytest.mark.parametrize("how", ["number", "name"])
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_socket_outlives_svqd(folder, holder, unit, end, how):
    """A front-end that connects while no svqd runs is served by the next one."""
    address, start = given(holder, how)
    device = unit.device(frontend=address)
    for _ in range(3):
        svqd = Svqd(folder, [device], **start)
        fds = svqd.fds()
        if unit.vmm:  # it came while nobody was there
            unit.vmm.reply(Id.GET_FEATURES, 8)
        for _ in range(2):
            unit.start()
            unit.io()
        unit.hang_up()
        unit.backend.wait_disconnected()
        svqd.wait_fds(fds)
        getattr(svqd, end)()
        assert unit.address.exists(), "the holder's socket was removed"
        unit.dial().post(Id.GET_FEATURES)
    assert not unit.backend.violations


def test_socket_outlives_its_device(folder, holder, unit):
    """Deleted and added again, the device has the socket again."""
    address, start = given(holder, "number")
    device = {key: str(value) for key, value in unit.device(frontend=address).items()}
    svqd = Svqd(folder, [device], **start)
    fds = svqd.fds()
    for _ in range(3):
        unit.start()
        unit.io()
        svqd.qmp.command("device-del", id="dev0")
        assert unit.vmm.closed_by_peer()
        unit.dial().post(Id.GET_FEATURES)
        svqd.qmp.command("device-add", **device)
        unit.vmm.reply(Id.GET_FEATURES, 8)
    unit.hang_up()
    unit.backend.wait_disconnected()
    svqd.wait_fds(fds)
    svqd.stop()


def test_one_socket_one_device(folder, closing, unit):
    """... however it is called."""
    holder = closing(Holder(folder / "dev0.front", folder / "two"))
    start = holder.activation("vm1:vm2")
    svqd = Svqd(folder, [unit.device(frontend="fd:vm1")], **start)
    add = {"id": "b", "backend": "vhost-user:/none"}
    for address in ("fd:vm1", "fd:3", "fd:03"):
        assert "share the front-end socket" in error_of(svqd, "device-add", frontend=address, **add)
    svqd.qmp.command("device-add", frontend="fd:4", **add)
    assert "share" in error_of(svqd, "device-add", frontend="fd:vm2", **{**add, "id": "c"})
    unit.start()
    unit.io()
    svqd.stop()


NAMES = [
    ("vm1", "", "", "no socket of that name"),
    ("", "", "", "number of a socket, or the name"),
    ("vm1", "vm1", "1", "meant for another process"),
    ("vm1", "vm1", "none", "meant for another process"),
    ("vm1", "vm1:vm1", "", "several sockets of that name"),
    ("unknown", "", "", "several sockets of that name"),
    ("vm", "vm1:vm2", "", "no socket of that name"),
    ("vm11", "vm1:vm2", "", "no socket of that name"),
    ("vm3", "vm1:vm2:vm3", "", "no socket of that name"),
]


@pytest.mark.parametrize("name, names, pid, text", NAMES)
def test_names_that_mean_nothing(folder, closing, name, names, pid, text):
    holder = closing(Holder(folder / "one", folder / "two"))
    svqd = Svqd(folder, **holder.activation(names, pid))
    error = error_of(svqd, "device-add", id="a", frontend=f"fd:{name}", backend="vhost-user:/none")
    assert text in error, error
    svqd.stop()


def test_unnamed_socket(folder, holder, unit):
    """systemd's name for a socket without one."""
    svqd = Svqd(folder, [unit.device(frontend="fd:unknown")], **holder.activation())
    unit.start()
    unit.io()
    svqd.stop()


def test_name_without_systemd(folder):
    device = {"id": "a", "frontend": "fd:vm1", "backend": "vhost-user:/none"}
    assert "systemd has passed no socket" in refusal(device)


def datagram():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    return [sock]


def tcp():
    sock = socket.socket()
    sock.listen(1)
    return [sock]


def pipe():
    return [os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"))]


@pytest.mark.parametrize("things, text", [
    (datagram, "not a UNIX stream socket"),
    (tcp, "not a UNIX stream socket"),
    (lambda: [socket.socket(socket.AF_UNIX)], "does not listen"),
    (lambda: list(socket.socketpair(socket.AF_UNIX)), "does not listen"),
    (lambda: [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)], "not a UNIX stream socket"),
    (lambda: [open("/dev/null")], "not a socket"),
    (pipe, "not a socket"),
], ids=["datagram", "tcp", "unbound", "connected", "seqpacket", "file", "pipe"])
def test_descriptors_of_another_kind(folder, things, text):
    things = things()
    fd = things[0].fileno()
    svqd = Svqd(folder, pass_fds=[fd])
    count = svqd.fds()
    error = error_of(svqd, "device-add", id="a", frontend=f"fd:{fd}", backend="vhost-user:/none")
    assert text in error and "frontend=fd:" in error, error
    assert svqd.fds() == count
    svqd.stop()
    for thing in things:
        thing.close()


@pytest.mark.parametrize("number", ["999", "2147483647", "2147483648", "9" * 40])
def test_no_such_descriptor(folder, number):
    device = {"id": "a", "frontend": f"fd:{number}", "backend": "vhost-user:/none"}
    assert "not open" in refusal(device)


def test_svqd_s_own_sockets_are_not_for_the_taking(folder, unit):
    """Every descriptor that it has opened by itself, among them three that listen."""
    svqd = Svqd(folder, [unit.device()], pass_fds=[])
    svqd.qmp.command("device-add", id="b", frontend=str(folder / "b"),
                     backend=listening(folder / "c"))
    tried = 0
    for fd in map(int, os.listdir(f"/proc/{svqd.pid}/fd")):
        error = error_of(svqd, "device-add", id="x", frontend=f"fd:{fd}",
                         backend="vhost-user:/none")
        expected = "was not passed to svqd" if fd > 2 else "not a"
        assert expected in error, (fd, error)
        tried += fd > 2
    assert tried >= 6
    unit.start()
    unit.io()
    svqd.stop()
