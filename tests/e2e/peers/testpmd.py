"""dpdk-testpmd, as a vhost back-end and as a virtio-user front-end.

It runs without its prompt, whose main thread would poll stdin on a core of its own; what it counts
is asked through DPDK's telemetry socket. It needs neither huge pages nor real hardware.
"""

import json
import os
import re
import shutil
import socket

from .wait import SCALE, wait_for

# The driver says which code it has chosen for a ring only when asked to; the vectorized one for
# packed rings wants registers that DPDK leaves alone by default.
_BASE = (
    "--no-huge -m 192 --no-pci --log-level=pmd.net.virtio.*:info --force-max-simd-bitwidth=512"
).split()


def vhost_port(socket_path, queues=1):
    """The back-end: testpmd listens on socket_path."""
    return f"eth_vhost0,iface={socket_path},queues={queues}"


def virtio_user_port(
    socket_path, mergeable=True, packed=False, in_order=True, vectorized=False, queues=1, size=1024
):
    """The front-end: testpmd connects to socket_path."""
    return (
        f"net_virtio_user0,path={socket_path},queues={queues},queue_size={size},"
        f"packed_vq={int(packed)},mrg_rxbuf={int(mergeable)},"
        f"in_order={int(in_order)},vectorized={int(vectorized)}"
    )


class Testpmd:
    """One testpmd. Its forwarding threads share both cores with everybody else."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __init__(
        self, bench, name, ports, forward, queues=1, args=(), cores=1, patient=False, size=1024
    ):
        prefix = f"{os.path.basename(bench.folder)}-{name}"
        self.run_folder = os.path.join(
            "/var/run" if os.getuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "/tmp"),
            "dpdk",
            prefix,
        )
        lcores = ",".join(f"{i}@(0-{os.cpu_count() - 1})" for i in range(cores + 1))
        argv = ["stdbuf", "-oL", "dpdk-testpmd", *_BASE, f"--file-prefix={prefix}"]
        argv += ["--lcores", lcores]
        for port in ports:
            argv += ["--vdev", port]
        argv += ["--", f"--nb-cores={cores}", "--total-num-mbufs=16384", "--no-lsc-interrupt"]
        # Without it the back-end, started first, would wait nine seconds for a link.
        # Nor may it empty the ports first: a capture port's FIFO would block it.
        argv += ["--disable-link-check", "--no-flush-rx"]
        argv += [f"--rxq={queues}", f"--txq={queues}", f"--rxd={size}", f"--txd={size}"]
        argv += [f"--forward-mode={forward}", *args]
        if patient:
            argv += [f"--cmdline-file={self._patience(bench, name, forward)}"]
        # It polls for ever: let whoever has real work go first.
        self.process = bench.spawn(name, argv, nice=10)
        bench.on_close(self.end)
        # The front-end comes that far only when the back-end answers its whole start sequence.
        self.process.wait_log("Press enter to exit", timeout=60)
        self._telemetry = self.process.wait_until(self._connect, "telemetry accepts")
        self._telemetry.recv(65536)

    @staticmethod
    def _patience(bench, name, forward):
        """testpmd drops the packet in its hands when the other ring is stopped, which DPDK does
        for a whole device at any GET_VRING_BASE. With retries it waits for the ring instead."""
        path = bench.path(f"{name}.cmd")
        with open(path, "w", encoding="ascii") as file:
            file.write(f"set burst tx delay 100 retry 10000\nset fwd {forward} retry\n")
        return path

    def _connect(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(10 * SCALE)
        try:
            sock.connect(os.path.join(self.run_folder, "dpdk_telemetry.v2"))
        except OSError:
            sock.close()
            return None
        return sock

    def ask(self, question):
        self._telemetry.send(question.encode())
        (answer,) = json.loads(self._telemetry.recv(1 << 20)).values()
        return answer

    def stats(self, port=0):
        """Packet and byte counters of one port: ipackets, opackets, ibytes, ..."""
        return self.ask(f"/ethdev/stats,{port}")

    def ring_code(self):
        """What DPDK's virtio driver says it runs: {"Rx": "vectorized", "Tx": "standard"}."""
        pattern = r"virtio: using (?:packed ring )?(.+) (Rx|Tx) path"
        return {way: code for code, way in re.findall(pattern, self.process.log())}

    def linked(self, port=0):
        return self.ask(f"/ethdev/link_status,{port}")["status"] == "UP"

    def wait_linked(self, port=0):
        self.process.wait_until(lambda: self.linked(port), f"port {port} is up")

    def end(self):
        """End of file on stdin is testpmd's way out; it stops its ports on the way."""
        if self.process.alive:
            self.process.ended_by_us = True
            self.process.child.stdin.close()
            try:
                wait_for(lambda: not self.process.alive, "testpmd exits", 15)
            except AssertionError:
                self.process.kill()
        shutil.rmtree(self.run_folder, ignore_errors=True)
