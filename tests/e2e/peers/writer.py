"""A guest that keeps rewriting its disk, and what must be on it in the end."""

import array
import re

from . import figures
from .guest import Guest
from .wait import wait_for

SECTOR = 512
MASK = (1 << 64) - 1
MIB = 1 << 20

# A small part of the disk: what is rewritten soon shows a request that is done late or twice.
# Sixteen threads have as many requests outstanding, four in each of the four queues.
WRITTEN_MIB = 4
THREADS = 16
MOST_SECTORS = 64


def sector_contents(number, generation):
    """What churn writes to a sector the generation-th time; never written, it is zero."""
    if not generation:
        return bytes(SECTOR)
    base = number * 0x9E3779B97F4A7C15 + generation * 0xC2B2AE3D27D4EB4F
    words = []
    for i in range(SECTOR // 8):
        x = (base + i) & MASK
        words.append((x ^ x >> 31) * 0xFF51AFD7ED558CCD & MASK)
    return array.array("Q", words).tobytes()


class Writer:
    """The guest, on four queues of one disk."""

    def __init__(self, bench, kernel, initramfs, devices, name="qemu", **options):
        self.guest = Guest(bench, kernel, initramfs, devices, name=name, cpus=4, **options)

    def begin(self):
        """Its program runs and has read and written something."""
        self.guest.wait_ready()
        self.guest.start("disk", f"churn disk /dev/vda 0 {WRITTEN_MIB} {THREADS} {MOST_SECTORS}")
        wait_for(lambda: min(self.guest.progress("disk")) > MIB, "the guest does I/O", 60, 0.1)
        return self

    def wait_progress(self, byte_count=MIB, timeout=60, meanwhile=None):
        """It reads and writes at least so much more."""
        before = self.guest.progress("disk")

        def moved():
            self.guest.assert_well()
            if meanwhile:
                meanwhile()
            now = self.guest.progress("disk")
            return min(now[0] - before[0], now[1] - before[1]) >= byte_count

        wait_for(moved, f"{byte_count} bytes are written and read", timeout, 0.1)

    def finish(self, image, fresh=True):
        """All that was read was right, and the image is what the guest says it wrote. fresh=False:
        others have written to it before."""
        words = self.guest.finish("churn", "disk")["disk"]
        self.guest.assert_no_trouble()
        generations = array.array("I", self.guest.fetch("/tmp/generations"))
        assert len(generations) == WRITTEN_MIB * MIB // SECTOR
        contents = image.contents()
        wrong = [
            number
            for number, generation in enumerate(generations)
            if (generation or fresh)
            and contents[number * SECTOR : (number + 1) * SECTOR]
            != sector_contents(number, generation)
        ]
        assert not wrong, f"{len(wrong)} sectors of the image are wrong: {wrong[:20]}"
        rest = contents[WRITTEN_MIB * MIB :]
        assert not rest.strip(b"\0"), "the image is changed where the guest never wrote"
        assert sum(generations) > 1000, "the guest wrote next to nothing"
        writes, reads = re.search(r"in (\d+) writes (\d+) reads", words).groups()
        figures.say(f"{writes} writes and {reads} reads, all right")
