"""A QEMU process and the Linux guest in it.

Always TCG: /dev/kvm of nested hosts opens and then hangs. Guests that migrate need an odd amount of
RAM: QEMU 7.2's TCG loses dirty bits when RAM is a multiple of 256 KiB, without any vhost device.
"""

import base64
import gzip
import os
import re
import socket
import time

from .qmp import Qmp
from .wait import SCALE, Deadline, wait_for

RAM = "262152k"
# What the kernel says when a device misbehaves; the console must hold none of it.
TROUBLE = re.compile(
    r"I/O error|timed out|blocked for more than|Oops|BUG: |Call Trace|Kernel panic"
    r"|is not a head|id \d+ out of range|cannot load|background .* failed"
)


def _properties(properties):
    """packed=True, addr="0x10" as QEMU's ",packed=on,addr=0x10"."""
    words = {True: "on", False: "off"}
    return "".join(f",{key}={words.get(value, value)}" for key, value in properties.items())


def vhost_blk(socket_path, queues=4, ident="blk0", reconnect=0, **properties):
    """QEMU arguments for a vhost-user-blk device. reconnect: seconds, or 0 for never again."""
    return [
        "-chardev", f"socket,id=chr-{ident},path={socket_path},reconnect={reconnect}",
        "-device", f"vhost-user-blk-pci,id={ident},chardev=chr-{ident},num-queues={queues},"
        f"disable-legacy=on{_properties(properties)}",
    ]  # fmt: skip


def vhost_net(socket_path, pairs=2, ident="net0", mac="52:54:00:53:56:51", **properties):
    """QEMU arguments for a vhost-user net device.

    vectors=0: with MSI-X and without KVM, QEMU 7.2 dereferences NULL when a vhost-user net device
    starts (it unmasks through irqfds that only KVM has set up), whoever the back-end is.
    """
    return [
        "-chardev", f"socket,id=chr-{ident},path={socket_path}",
        "-netdev", f"vhost-user,id=nd-{ident},chardev=chr-{ident},queues={pairs}",
        "-device", f"virtio-net-pci,id={ident},netdev=nd-{ident},mq=on,vectors=0,"
        f"mac={mac},disable-legacy=on,romfile={_properties(properties)}",
    ]  # fmt: skip


def vhost_fs(socket_path, tag="share", ident="fs0"):
    """QEMU arguments for a vhost-user-fs device."""
    return [
        "-chardev", f"socket,id=chr-{ident},path={socket_path}",
        "-device", f"vhost-user-fs-pci,id={ident},chardev=chr-{ident},tag={tag}",
    ]  # fmt: skip


class Guest:
    """One QEMU with an init that runs our commands. incoming=True waits for a migration."""

    def __init__(self, bench, kernel, initramfs, devices, name="qemu", cpus=2, incoming=False,
                 reboot=False):  # fmt: skip
        self.name = name
        self.console_path = bench.path(name + "-console.log")
        self._port_path = bench.path(name + ".port")
        qmp_path = bench.path(name + ".qmp")
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-name", name,
            "-M", "q35,memory-backend=mem0", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", cpus, "-m", RAM,
            "-object", f"memory-backend-memfd,id=mem0,size={RAM},share=on",
            "-kernel", kernel.image, "-initrd", initramfs,
            "-append", "console=ttyS0 panic=-1 quiet no_timer_check",
            "-chardev", f"file,id=console,path={self.console_path}", "-serial", "chardev:console",
            "-chardev", f"socket,id=port,path={self._port_path},server=on,wait=off",
            "-serial", "chardev:port",
            "-qmp", f"unix:{qmp_path},server=on,wait=off",
            *devices,
        ]  # fmt: skip
        if incoming:
            argv += ["-incoming", "defer"]
        if not reboot:
            argv += ["-no-reboot"]
        self.process = bench.spawn(name, argv)
        self._number = 0
        self._buffer = b""
        self._port = self.process.wait_until(self._open_port, "command port opens")
        try:
            self.qmp = Qmp(qmp_path)
        except ConnectionError:
            self.process.wait_exit()
            self.process.assert_alive()

    def _open_port(self):
        port = socket.socket(socket.AF_UNIX)
        try:
            port.connect(self._port_path)
        except OSError:
            port.close()
            return None
        return port

    def wait_ready(self, timeout=90):
        """Until the init reads commands."""
        self._read_until(re.compile(rb"@ready\n"), timeout, "init is ready")
        return self

    def _read_until(self, pattern, timeout, what):
        """Everything the port says up to pattern; the match is dropped."""
        end = time.monotonic() + timeout * SCALE
        while True:
            match = pattern.search(self._buffer)
            if match:
                text = self._buffer[: match.start()]
                self._buffer = self._buffer[match.end() :]
                return text, match
            left = end - time.monotonic()
            if left <= 0:
                self.process.assert_alive()
                raise Deadline(
                    f"{self.name}: not within {timeout * SCALE:g} s: {what}; "
                    f"port {self._buffer[-500:]!r}; console {self.console()[-1500:]}"
                )
            self._port.settimeout(min(left, 1))
            try:
                data = self._port.recv(65536)
            except TimeoutError:
                self.process.assert_alive()
                continue
            if not data:
                self.process.wait_exit()
                self.process.assert_alive()
            self._buffer += data

    def try_run(self, command, timeout=60):
        """Run a shell command in the guest; return (exit status, output)."""
        self._number += 1
        # The migrated guest answers on its new port; a number of its own keeps answers apart.
        ident = f"{self.name}.{self._number}"
        self._port.sendall(f"{ident} {command}\n".encode())
        pattern = re.compile(rb"\n@" + re.escape(ident).encode() + rb" (\d+)\n")
        output, match = self._read_until(pattern, timeout, f"guest ends: {command}")
        return int(match.group(1)), output.decode(errors="replace").strip()

    def run(self, command, timeout=60):
        """Run a shell command that must succeed; return its output."""
        status, output = self.try_run(command, timeout)
        assert status == 0, f"guest: {command}: status {status}: {output}\n{self.trouble()}"
        return output

    def start(self, tag, command):
        """Run a command in the background with its output in /tmp/TAG; a failure shows at once
        on the console, where assert_well() sees it."""
        log = f"/tmp/{tag}"
        self.run(
            f"({command} > {log} 2>&1; status=$?; echo exit $status >> {log}; [ $status = 0 ] || "
            f"(echo background {tag} failed:; tail -n 5 {log}) > /dev/console) > /dev/null 2>&1 &"
        )

    def tail(self, tag, lines=1):
        return self.run(f"tail -n {lines} /tmp/{tag}")

    def finish(self, program, *tags, timeout=120):
        """End a background program with SIGTERM; wherever it ran under these tags, it must exit 0.
        Returns its last words per tag."""
        self.try_run(f"killall {program}")
        words = {}
        for tag in tags:
            wait_for(lambda tag=tag: "exit " in self.tail(tag), f"{tag} ends", timeout, 0.1)
            words[tag] = self.tail(tag, 2)
            assert words[tag].endswith("exit 0"), f"{tag}: {words[tag]}\n{self.trouble()}"
        return words

    def progress(self, tag):
        """The last progress line of a program of ours: bytes written and read, packets sent and
        received."""
        (progress,) = self.all_progress([tag])
        return progress

    def all_progress(self, tags):
        """The same of several programs at once."""
        files = " ".join(f"/tmp/{tag}" for tag in tags)
        found = []
        for lines in self.run(f"for f in {files}; do tail -n 3 $f; echo .; done").split("."):
            found.append([0, 0])
            for line in lines.splitlines():
                assert "BAD" not in line and "exit" not in line, line
                if line.startswith("progress "):
                    found[-1] = [int(n) for n in line.split()[1:]]
        return found[:-1]

    def fetch(self, path):
        """The contents of a file in the guest."""
        return gzip.decompress(base64.b64decode(self.run(f"gzip -c {path} | base64 -w 0")))

    def disk_checksum(self, disk="vda"):
        """The disk as the guest sees it, past its page cache."""
        command = f"dd if=/dev/{disk} bs=1M iflag=direct 2>/dev/null | md5sum"
        return self.run(command, 120).split()[0]

    def find_device(self, slot, kind):
        """The name of the disk ("block") or interface ("net") in PCI slot SLOT."""
        return self.run(f"ls /sys/bus/pci/devices/0000:00:{slot:02x}.0/virtio*/{kind}")

    def acked_features(self, slot):
        """The virtio feature bits that the guest's driver took for the device in PCI slot SLOT."""
        bits = self.run(f"cat /sys/bus/pci/devices/0000:00:{slot:02x}.0/virtio*/features")
        return sum(1 << number for number, bit in enumerate(bits) if bit == "1")

    def console(self):
        if not os.path.exists(self.console_path):
            return ""
        with open(self.console_path, "rb") as console:
            return console.read().decode(errors="replace")

    def trouble(self):
        return [line for line in self.console().splitlines() if TROUBLE.search(line)]

    def assert_well(self):
        """QEMU runs and the console complains of nothing: cheap enough to be asked in a wait."""
        self.process.assert_alive()
        assert not self.trouble(), f"{self.name}'s console: {self.console()[-1500:]}"

    def assert_no_trouble(self):
        """Neither the console nor the kernel's ring buffer complains."""
        seen = self.run("dmesg -r | grep -E '^<[0-3]>' || true")
        found = [line for line in seen.splitlines() if TROUBLE.search(line)] + self.trouble()
        assert not found, f"{self.name}'s kernel complains: {found}"

    def quit(self):
        """End QEMU through its monitor, as a management layer would."""
        if self.process.alive:
            self.qmp.execute("quit")
            self.process.wait_exit()
        self.qmp.close()
        self._port.close()
