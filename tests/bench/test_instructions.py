#!/usr/bin/env python3
"""instructions.py finds what it is there for, and says so when it cannot look.

usage: test_instructions.py REASON-TO-SKIP COUNT_RELAY
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("instructions.py")
SKIPPED = 77
COMPILER = "some-compiler"
PROGRAM = None


class Guard(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.baseline = self.folder / "baseline.json"

    def guard(self, *args, compiler=COMPILER, program=None, **kwargs):
        return subprocess.run(
            [sys.executable, SCRIPT, "--baseline", self.baseline, "--compiler", compiler, "--only",
             "plain", *args, program or PROGRAM],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=100,
            **kwargs)

    def doctor(self, recorded, **changes):
        """The baseline with some entries multiplied."""
        doctored = {name: count * changes.get(name, 1) for name, count in recorded.items()}
        self.baseline.write_text(json.dumps({COMPILER: doctored}), encoding="ascii")

    def test_record_and_compare(self):
        done = self.guard("--record")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        recorded = json.loads(self.baseline.read_text(encoding="ascii"))[COMPILER]
        self.assertEqual(len(recorded), 4 * 2 * 2, "pairs, batches, log")
        for name, count in recorded.items():
            self.assertRegex(name, r"^plain (split|packed)>(split|packed), batch (1|32), log")
            self.assertGreater(count, 10)
        one, other = list(recorded)[:2]

        done = self.guard()
        self.assertEqual(done.returncode, 0, done.stdout)
        # Counts are the same every time, or this would be no better than a clock.
        self.assertIn("+0.0 % to +0.0 %", done.stdout.replace("-0.0", "+0.0"))

        self.doctor(recorded, **{one: 1 / 1.11, other: 1 / 1.09})
        done = self.guard()
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(f"WORSE: {one}", done.stdout)
        self.assertNotIn(other, done.stdout)

        self.doctor(recorded, **{one: 1.2})
        done = self.guard()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(f"BETTER: {one}", done.stdout)

        del recorded[one]
        self.doctor(recorded)
        done = self.guard()
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(f"{one}: nothing is recorded", done.stdout)

    def test_counts_nothing(self):
        """A program that has no relay is no success."""
        self.baseline.write_text(json.dumps({COMPILER: {}}), encoding="ascii")
        for program, text in (("/bin/true", "dumped nothing"), ("/bin/false", "status 1")):
            done = self.guard(program=program)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(text, done.stdout)

    def test_skips_and_says_why(self):
        self.baseline.write_text(json.dumps({COMPILER: {}}), encoding="ascii")
        for done, text in ((self.guard(compiler="another"), "nothing is recorded for another"),
                           (self.guard("--skip", "no way"), "no way"),
                           (self.guard(env={"PATH": str(self.folder)}), "no valgrind")):
            self.assertEqual(done.returncode, SKIPPED)
            self.assertIn("SKIPPED", done.stdout)
            self.assertIn(text, done.stdout)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(2))
    reason = sys.argv.pop(1)
    if reason or not shutil.which("valgrind"):
        print("SKIPPED:", reason or "no valgrind here")
        sys.exit(SKIPPED)
    unittest.main()
