#!/usr/bin/env python3
"""Every option that svq-bench lists is in its manual and the other way round, with its defaults.

usage: test_manual.py SVQ-BENCH MANUAL
"""

import re
import subprocess
import sys
import unittest

BENCH = MANUAL = None
# Where the manual has the options of each command.
SECTIONS = {"relay": ("OPTIONS OF RELAY",), "path": ("PATH", "OPTIONS OF PATH")}


def help_of(*command):
    done = subprocess.run([BENCH, *command, "--help"], capture_output=True, text=True, check=True,
                          stdin=subprocess.DEVNULL, timeout=10)
    return done.stdout


def manual():
    with open(MANUAL, encoding="ascii") as file:
        return file.read()


def listed(text):
    """Options at the beginning of a line of help; some lines have two."""
    heads = re.findall(r"^  ((?:-\w, )?--\S.*?)(?:   *\S.*)?$", text, re.MULTILINE)
    return set(re.findall(r"--([a-z-]+)", " ".join(heads))) - {"help"}


def documented(names):
    """Options that items of these sections name."""
    sections = re.split(r"^\.Sh ", manual(), flags=re.MULTILINE)
    items = [line for section in sections if section.split("\n", 1)[0] in names
             for line in section.splitlines() if line.startswith(".It ")]
    return set(re.findall(r"Fl -([a-z-]+)", " ".join(items)))


class Manual(unittest.TestCase):
    def test_options(self):
        for command, sections in SECTIONS.items():
            self.assertGreater(len(listed(help_of(command))), 10)
            self.assertEqual(listed(help_of(command)), documented(sections), command)

    def test_synopsis(self):
        blocks = re.split(r"^\.Cm ", manual().split(".Sh SYNOPSIS")[1].split(".Sh ")[0],
                          flags=re.MULTILINE)
        for block in blocks[1:]:
            command = block.split("\n", 1)[0]
            named = set(re.findall(r"\.Op Fl -([a-z-]+)", block))
            self.assertEqual(named, listed(help_of(command)), command)

    def test_all_are_taken(self):
        """What is listed exists: it is not what is wrong with these."""
        for command in SECTIONS:
            for option in listed(help_of(command)):
                done = subprocess.run([BENCH, command, f"--{option}", "x", "y"],
                                      capture_output=True, text=True, check=False,
                                      stdin=subprocess.DEVNULL, timeout=10)
                self.assertEqual(done.returncode, 2, option)
                self.assertNotIn("unrecognized", done.stderr, option)

    def test_modes(self):
        """What --setup takes is in the manual."""
        names = re.findall(r"^  ([a-z_]+) ", help_of("relay").split("Setups:")[1], re.MULTILINE)
        for name in names:
            self.assertRegex(manual(), rf"(?m)^\.It {name}$")


if __name__ == "__main__":
    MANUAL = sys.argv.pop(2)
    BENCH = sys.argv.pop(1)
    unittest.main()
