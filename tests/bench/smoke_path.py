#!/usr/bin/env python3
"""svq-bench path works and its figures follow from what it counted; how large they are is not tested.

usage: smoke_path.py SVQ-BENCH SVQD
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree

BENCH = SVQD = None
NOISY = 3
SVG = "{http://www.w3.org/2000/svg}"
# So short that it takes no time; anywhere, since not every machine has two processors to itself.
TINY = ("--slots", "3", "--slot-ms", "5", "--drop-ms", "1", "--repeats", "0")
ANYWHERE = ("--ends-cpu", "-1", "--worker-cpu", "-1", "--backend-cpu", "-1")
MODES = ("direct", "pass-through", "shadow", "shadow+log")


def bench(*args, timeout=300):
    return subprocess.run([BENCH, "path", *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout)


class Case(unittest.TestCase):
    def run_path(self, *args):
        """The JSON, whose verdict the exit status must be; and there is a plot."""
        with tempfile.TemporaryDirectory() as folder:
            plot = os.path.join(folder, "plot.svg")
            done = bench("--svqd", SVQD, *TINY, *ANYWHERE, "--json", "-", "--svg", plot, *args)
            self.assertIn(done.returncode, (0, NOISY), done.stderr)
            self.check_plot(plot)
        result = json.loads(done.stdout)
        self.assertEqual(result["command"], "path")
        self.assertEqual(result["result"], done.returncode == 0)
        self.assertEqual(result["result"], not result["refused"])
        for sentence in result["refused"]:
            self.assertIn("NOT A RESULT: " + sentence, done.stderr)
        return result

    def check_plot(self, path):
        """Well-formed, and all of it is inside. Return: how many bars."""
        root = ElementTree.parse(path).getroot()
        self.assertEqual(root.tag, SVG + "svg")
        width = float(root.get("width"))
        bars = list(root.iter(SVG + "rect"))
        self.assertGreater(len(bars), 0)
        for bar in bars:
            self.assertGreaterEqual(float(bar.get("width")), 0)
            self.assertLess(float(bar.get("x")) + float(bar.get("width")), width)
            self.assertLess(float(bar.get("y")), float(root.get("height")))
        return len(bars)

    def check_summary(self, summary, values=None):
        self.assertLessEqual(summary["low"], summary["median"])
        self.assertLessEqual(summary["median"], summary["high"])
        if values is not None:
            self.assertAlmostEqual(summary["median"], statistics.median(values), places=6)

    def check_rotation(self, row, reference, modes=MODES, rounds=3):
        """Sums and ratios are those of the slots."""
        self.assertEqual(set(row["modes"]), set(modes))
        self.assertEqual(row["rounds"], rounds)
        base = row["modes"][reference]["slots"]
        for mode in row["modes"].values():
            slots = mode["slots"]
            self.assertEqual(len(slots), rounds)
            self.check_summary(mode["value"], slots)
            self.check_summary(mode["ratio"], [a / b for a, b in zip(slots, base)])
            self.check_summary(mode["difference"], [a - b for a, b in zip(slots, base)])
            for seconds in mode["seconds"]:
                self.assertGreater(seconds, 0)

    def check_rates(self, row, unit):
        """A rate is what was counted in the time that it took."""
        for mode in row["modes"].values():
            for value, count, seconds in zip(mode["slots"], mode["counts"], mode["seconds"]):
                self.assertAlmostEqual(value, count / seconds / unit, places=6)


class Throughput(Case):
    def check_row(self, row):
        self.check_rotation(row, "pass-through")
        self.check_rates(row, 1e6)
        for mode in row["modes"].values():
            for count in mode["counts"]:
                self.assertGreater(count, 0)
                self.assertEqual(count, int(count))
        direct, through = (row["modes"][m]["slots"] for m in ("direct", "pass-through"))
        self.check_summary(row["pass-through-to-direct"], [a / b for a, b in zip(through, direct)])

    def test_rows(self):
        result = self.run_path("--queues", "1,3", "--size", "64,1500", "--batch", "1,256")
        rows = result["throughput"]
        self.assertEqual({(r["rings"], r["queues"], r["size"], r["batch"]) for r in rows},
                         {(f, q, s, b) for f in ("split", "packed") for q in (1, 3)
                          for s in (64, 1500) for b in (1, 256)})
        for row in rows:
            self.check_row(row)

    def test_ring_features(self):
        for features in (("--in-order",), ("--event-idx",), ("--in-order", "--event-idx")):
            result = self.run_path(*features, "--ring-size", "64", "--in-flight", "64", "--size",
                                   "16")
            for row in result["throughput"]:
                self.check_row(row)
                self.assertEqual(row["in-order"], "--in-order" in features)
                self.assertEqual(row["event-idx"], "--event-idx" in features)

    def test_a_thread_for_each_end(self):
        for poll in ("always", "50", "0"):
            result = self.run_path("--device-cpu", "-1", "--rings", "split", "--poll-us", poll)
            self.check_row(result["throughput"][0])

    def test_table_and_plot(self):
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("out.json", "out.svg")]
            done = bench("--svqd", SVQD, *TINY, *ANYWHERE, "--rings", "packed", "--json", files[0],
                         "--svg", files[1])
            self.assertIn(done.returncode, (0, NOISY), done.stderr)
            self.assertIn("packed", done.stdout)
            with open(files[0], encoding="utf-8") as file:
                self.assertEqual(len(json.load(file)["throughput"]), 1)
            self.assertEqual(self.check_plot(files[1]), len(MODES))

    def test_noise_is_no_result(self):
        done = bench("--svqd", SVQD, *TINY, *ANYWHERE, "--slots", "9", "--rings", "split",
                     "--max-spread", "0.000001")
        self.assertEqual(done.returncode, NOISY, done.stderr)
        self.assertIn("NOT A RESULT", done.stdout)
        self.assertIn("spreads by", done.stdout)

    def test_control_that_fails_is_no_result(self):
        done = bench("--svqd", SVQD, *TINY, *ANYWHERE, "--rings", "split", "--max-apart",
                     "0.0000001")
        self.assertEqual(done.returncode, NOISY, done.stderr)
        self.assertIn("of direct", done.stdout)


class Latency(Case):
    def test_polling_and_sleeping(self):
        rows = self.run_path("--latency")["latency"]
        self.assertEqual({(r["rings"], r["ends"]) for r in rows},
                         {(f, e) for f in ("split", "packed") for e in ("poll", "sleep")})
        for row in rows:
            self.check_rotation(row, "direct")
            for name, mode in row["modes"].items():
                ranks = [mode["percentiles-us"][p]["median"]
                         for p in ("p50", "p90", "p99", "p99.9", "max")]
                self.assertEqual(ranks, sorted(ranks))
                self.assertGreater(ranks[0], 0)
                self.check_summary(mode["percentiles-us"]["p50"], mode["slots"])
                if name == "direct":
                    self.assertEqual(mode["svqd-per-buffer"]["sleeps"]["median"], 0)


class Pause(Case):
    def test_switches(self):
        rows = self.run_path("--pause", "--switches", "4")["pause"]
        self.assertEqual([r["rings"] for r in rows], ["split", "packed"])
        for row in rows:
            self.assertEqual((row["queues"], row["switches"]), (8, 4))
            self.assertEqual(set(row["ways"]), {"on", "off", "none"})
            for name, way in row["ways"].items():
                self.assertEqual(set(way), {"pause", "beyond-drain", "beyond-back-end", "svqd", "drain",
                                             "back-end"})
                for what in way.values():
                    self.assertLessEqual(what["p50"], what["p99"])
                    self.assertLessEqual(what["p99"], what["max"])
                if name != "none":
                    self.assertGreater(way["svqd"]["p50"], 0)
                    self.assertGreater(way["drain"]["p50"], 0)


class Scale(Case):
    def test_idle_and_busy(self):
        scale = self.run_path("--scale", "--devices", "1,3,5")["scale"]
        self.assertEqual([step["devices"] for step in scale["idle"]], [1, 3, 5])
        for step in scale["idle"]:
            self.check_summary(step["query-devices-ms"])
            self.assertAlmostEqual(step["query-devices-us-per-device"],
                                   1e3 * step["query-devices-ms"]["median"] / step["devices"])
            self.assertGreaterEqual(step["idle-cpu-ms-per-second"], 0)
            self.assertGreaterEqual(step["own-kib-per-device"], 0)
            # Whole pages for each of four rings.
            self.assertGreaterEqual(step["rings-kib-per-device"], 16)
            self.assertGreater(step["guest-kib-per-device"], 0)
        among = scale["busy-among-idle"]
        self.assertEqual(among["idle"], 4)
        self.check_rotation(among, "alone", ("alone", "among"))
        self.check_rates(among, 1e6)
        self.assertEqual(among["ratio"], among["modes"]["among"]["ratio"])
        self.assertEqual((scale["busy"]["devices"], scale["busy"]["workers"]), (16, 2))
        self.check_goals(scale)

    def check_goals(self, scale):
        """What a goal is judged by is what was measured, and the verdict follows from it."""
        own, cpu, query, among, apart = scale["goals"]
        self.assertEqual(own["value"], max(s["own-kib-per-device"] for s in scale["idle"]))
        self.assertEqual(cpu["value"], max(s["idle-cpu-ms-per-second"] for s in scale["idle"]))
        few, many = (s["query-devices-us-per-device"] for s in scale["idle"][1:])
        self.assertAlmostEqual(query["value"], many / few)
        self.assertEqual(among["value"], scale["busy-among-idle"]["ratio"]["median"])
        self.assertAlmostEqual(apart["value"], 100 * scale["busy"]["most-to-least"]["median"])
        self.assertEqual([goal["limit"] for goal in scale["goals"]], [256, 0.05, 1.5, 0.95, 10])
        for goal in scale["goals"]:
            self.assertEqual(goal["at-least"], goal is among)
            passes = goal["value"] >= goal["limit"] if goal["at-least"] else \
                goal["value"] <= goal["limit"]
            self.assertEqual(goal["pass"], passes, goal)


class Others(Case):
    @unittest.skipUnless(os.path.exists("/usr/bin/qemu-storage-daemon"), "no qemu-storage-daemon")
    def test_block(self):
        rows = self.run_path("--blk", "--depth", "1,32")["block"]
        self.assertEqual([row["depth"] for row in rows], [1, 32])
        for row in rows:
            self.check_rotation(row, "direct")
            self.check_rates(row, 1e3)

    @unittest.skipUnless(os.path.exists("/usr/bin/dpdk-testpmd") and os.cpu_count() > 1,
                         "no dpdk-testpmd, or one processor only")
    def test_dpdk(self):
        (row,) = self.run_path("--dpdk", "--rings", "packed", "--size", "64", "--slots", "2")["dpdk"]
        self.check_rotation(row, "pass-through", MODES + ("relay",), rounds=2)
        # Of either direction.
        self.check_rates(row, 2e6)
        self.assertLessEqual(row["fewest-in-flight"], 512)


class Interrupted(unittest.TestCase):
    def test_leaves_nothing_behind(self):
        for part in ("--throughput", "--pause"):
            with subprocess.Popen([BENCH, "path", part, "--svqd", SVQD, *ANYWHERE, "--slots", "10000",
                                   "--switches", "100000"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
                folder = self.wait_for_folder(child.pid)
                child.terminate()
                out, err = child.communicate(timeout=60)
            self.assertEqual(child.returncode, 1, err)
            self.assertRegex(err, "[Ii]nterrupted")
            self.assertEqual(out, "")
            self.assertFalse(os.path.exists(folder))

    def wait_for_folder(self, pid):
        """svqd's, once svqd listens there: its command line names it."""
        for _ in range(1000):
            time.sleep(0.02)
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                children = file.read().split()
            for child in children:
                with open(f"/proc/{child}/cmdline", "rb") as file:
                    words = file.read().decode().split("\0")
                if "--qmp" in words:
                    qmp = words[words.index("--qmp") + 1]
                    if os.path.exists(qmp):
                        return os.path.dirname(qmp)
        self.fail("svqd does not start")


class Mistakes(unittest.TestCase):
    def test_wrong_usage(self):
        for args in (("--nothing",), ("file",), ("--rings", "round"), ("--ring-size", "100"),
                     ("--size", "15"), ("--queues", "65"), ("--batch", "1,,2"), ("--slots", "0"),
                     ("--in-flight", "2000"), ("--max-apart", "-1"), ("--depth", "x"),
                     ("--devices", "1001"), ("--devices", "16,1"), ("--ends-cpu", "one")):
            done = bench(*args)
            self.assertEqual(done.returncode, 2, args)
            self.assertIn("svq-bench", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_svqd_that_does_not_start(self):
        for svqd in ("/bin/false", "/nonexistent/svqd"):
            done = bench("--svqd", svqd, *TINY, *ANYWHERE)
            self.assertEqual(done.returncode, 1)
            self.assertIn("svqd ended", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_processor_that_is_not_there(self):
        for option in ("--ends-cpu", "--worker-cpu"):
            done = bench("--svqd", SVQD, *TINY, *ANYWHERE, option, "1023")
            self.assertEqual(done.returncode, 1)
            self.assertIn("svq-bench: throughput:", done.stderr)

    def test_help(self):
        done = bench("--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("--dpdk", done.stdout)


if __name__ == "__main__":
    SVQD = sys.argv.pop(2)
    BENCH = sys.argv.pop(1)
    unittest.main()
