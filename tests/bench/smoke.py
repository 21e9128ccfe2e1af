#!/usr/bin/env python3
"""svq-bench's commands work and say what they promise; what they measure is not tested.

usage: smoke.py SVQ-BENCH
"""

import json
import os
import subprocess
import sys
import unittest

BENCH = None
# So little that it takes no time.
TINY = ("--slots", "3", "--slot-us", "10", "--repeats", "0", "--size", "64",
        "--batch", "1,16")
NOISY = 3
FORMATS = ("split", "packed")
SETUPS = ("plain", "shared", "event_idx", "in_order", "both", "reordered", "chained", "indirect", "flattened")


def bench(*args):
    return subprocess.run([BENCH, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=300)


class Relay(unittest.TestCase):
    def run_json(self, *args):
        done = bench("relay", "--json", *TINY, *args)
        self.assertIn(done.returncode, (0, NOISY), done.stderr)
        result = json.loads(done.stdout)
        self.assertEqual(result["noisy"], done.returncode == NOISY)
        return result

    def check_summary(self, summary):
        self.assertEqual(set(summary), {"median", "low", "high", "spread"})
        self.assertLessEqual(summary["low"], summary["median"])
        self.assertLessEqual(summary["median"], summary["high"])

    def check_case(self, case):
        pairs = {(pair["guest"], pair["backend"]) for pair in case["pairs"]}
        self.assertEqual(pairs, {(g, b) for g in FORMATS for b in FORMATS})
        self.assertEqual(len(case["pairs"]), 4)
        for pair in case["pairs"]:
            for what in ("forward-ns", "back-ns", "total-ns", "total-ticks", "ratio"):
                self.check_summary(pair[what])
        self.assertTrue(any(pair["ratio"]["median"] == 1 for pair in case["pairs"]))

    def test_every_case_has_every_pair(self):
        result = self.run_json()
        self.assertEqual(result["command"], "relay")
        self.assertEqual(result["slots"], 3)
        self.assertGreater(result["clock"]["ticks-per-ns"], 0)
        cases = [(c["setup"], c["batch"], c["log"]) for c in result["cases"]]
        self.assertEqual(cases, [(s, b, l) for s in SETUPS for b in (1, 16)
                                 for l in (False, True)])
        for case in result["cases"]:
            self.check_case(case)
        self.check_worst(result)

    def check_worst(self, result):
        """Over the setups in which all pairs do the same."""
        ratios = {(c["setup"], c["batch"], c["log"], f'{p["guest"]}>{p["backend"]}'):
                  p["ratio"]["median"]
                  for c in result["cases"] if c["setup"] != "shared" for p in c["pairs"]}
        worst = result["worst"]
        self.assertEqual(worst["ratio"], max(ratios.values()))
        where = (worst["setup"], worst["batch"], worst["log"], worst["pair"])
        self.assertEqual(worst["ratio"], ratios[where])

    def test_shared_descriptors_are_not_compared(self):
        result = self.run_json("--setup", "shared")
        self.assertIsNone(result["worst"])
        for case in result["cases"]:
            self.check_case(case)
        done = bench("relay", *TINY, "--setup", "shared")
        self.assertIn(done.returncode, (0, NOISY), done.stderr)
        self.assertNotIn("Slowest against", done.stdout)
        done = bench("relay", *TINY, "--setup", "shared,both")
        self.assertIn(done.returncode, (0, NOISY), done.stderr)
        self.assertRegex(done.stdout, r"Slowest against fastest pair: .*both, batch")

    def test_sizes_batches_and_chains(self):
        for size in ("2", "64", "32768"):
            result = self.run_json("--size", size, "--descriptors", "2", "--batch", "1",
                                   "--slots", "1")
            self.assertEqual(result["size"], int(size))
        result = self.run_json("--setup", "chained,flattened", "--descriptors", "256", "--batch",
                               "1,3,4", "--log", "on", "--size", "1024")
        self.assertEqual([c["batch"] for c in result["cases"]], [1, 3, 4] * 2)
        self.assertEqual({c["descriptors"] for c in result["cases"]}, {256})

    def test_some_pairs_only(self):
        result = self.run_json("--pair", "packed>split", "--setup", "plain", "--batch", "8")
        for case in result["cases"]:
            self.assertEqual([(p["guest"], p["backend"]) for p in case["pairs"]],
                             [("packed", "split")])

    def test_tables(self):
        for options in ((), ("--detail",)):
            done = bench("relay", "--setup", "plain", *TINY, *options)
            self.assertIn(done.returncode, (0, NOISY), done.stderr)
            for pair in ("split>split", "split>packed", "packed>split", "packed>packed"):
                self.assertIn(pair, done.stdout)

    @unittest.skipUnless(os.cpu_count() > 1, "one processor only")
    def test_relay_on_another_processor(self):
        result = self.run_json("--cpu", "0", "--relay-cpu", "1", "--setup", "plain,flattened")
        self.assertEqual(result["relay-cpu"], 1)
        self.assertGreater(result["round-trip-ns"], 0)
        for case in result["cases"]:
            self.check_case(case)
        done = bench("relay", *TINY, "--relay-cpu", "1023")
        self.assertEqual(done.returncode, 1)
        self.assertIn("1023", done.stderr)

    def test_noise_is_no_result(self):
        done = bench("relay", "--setup", "plain", *TINY, "--slots", "9",
                     "--max-spread", "0.000001")
        self.assertEqual(done.returncode, NOISY, done.stderr)
        self.assertIn("NOT A RESULT", done.stdout)

    def test_output_that_is_lost(self):
        for options in ((), ("--json",)):
            with open("/dev/full", "w", encoding="ascii") as full:
                done = subprocess.run([BENCH, "relay", "--setup", "plain", *TINY, *options],
                                      stdin=subprocess.DEVNULL, stdout=full,
                                      stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("cannot write", done.stderr)

    def test_wrong_usage(self):
        for args in ((), ("nothing",), ("--nothing",), ("relay", "--nothing"), ("relay", "file"),
                     ("relay", "--size", "100"), ("relay", "--batch", "0"),
                     ("relay", "--batch", "2000"), ("relay", "--setup", "plain,"),
                     ("relay", "--pair", "split>ring"), ("relay", "--slots", "0")):
            done = bench(*args)
            self.assertEqual(done.returncode, 2, args)
            self.assertIn("svq-bench", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_help_and_version(self):
        for args in (("--help",), ("--version",), ("relay", "--help")):
            done = bench(*args)
            self.assertEqual(done.returncode, 0)
            self.assertIn("svq-bench", done.stdout)


if __name__ == "__main__":
    BENCH = sys.argv.pop(1)
    unittest.main()
