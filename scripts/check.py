#!/usr/bin/env python3
"""Run the test suites of a build and count: the last line is 'N passed, N failed, N skipped'.

Three kinds of tests: C programs under meson (units, model, fuzz targets, demo), scripted peers
(tests/wire) and real peers (tests/e2e). Each kind reports in JUnit's format, which is what is
counted: nothing that did not run counts as passed, and a suite that dies counts as failed.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"


def reason_to_skip(case):
    """pytest's message; meson has only what the program printed last."""
    message = case.find("skipped").get("message")
    if message:
        return message
    lines = (case.findtext("system-out") or "").splitlines()
    return lines[-1] if lines else "no reason given"


class Count:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []
        self.skips = []

    def add_report(self, path):
        """Count the test cases of one JUnit file."""
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = f"{case.get('classname', '')}::{case.get('name', '')}"
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed += 1
                self.failures.append(name)
            elif case.find("skipped") is not None:
                self.skipped += 1
                self.skips.append(f"{name}: {reason_to_skip(case)}")
            else:
                self.passed += 1

    def add_run(self, name, status, report):
        """Count one suite; its exit status must agree with its report."""
        before = self.failed
        if report.exists():
            self.add_report(report)
        if status != 0 and self.failed == before:
            self.failed += 1
            self.failures.append(f"{name} ended with status {status} and reported no failure")
        if status == 0 and not report.exists():
            self.failed += 1
            self.failures.append(f"{name} reported nothing")


def run(command, **kwargs):
    print("+", " ".join(str(c) for c in command), flush=True)
    return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, **kwargs).returncode


def meson(count, build, args):
    report = build / "meson-logs" / "testlog.junit.xml"
    report.unlink(missing_ok=True)
    command = ["meson", "test", "-C", build, "--no-rebuild", "--print-errorlogs"]
    for suite in args.suite:
        command += ["--suite", suite]
    if args.slow:
        command += ["--timeout-multiplier", str(args.slow)]
    count.add_run("meson test", run(command), report)


def pytest(count, build, folder, expression, args, keyword="", processes=1):
    report = build / f"report-{folder.name}.xml"
    report.unlink(missing_ok=True)
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder,
               f"--junitxml={report}", "-o", "junit_family=xunit2", "-rs"]
    if expression:
        command += ["-m", expression]
    if keyword:
        command += ["-k", keyword]
    if processes > 1:
        command += ["-n", str(processes)]
    environment = dict(os.environ, SVQD=str(build / "svqd"), SVQ_BUILD=str(build),
                       SVQ_TIME_SCALE=str(args.slow or 1), PYTHONDONTWRITEBYTECODE="1")
    count.add_run(str(folder), run(command, env=environment, cwd=ROOT), report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", help="meson's build folder")
    parser.add_argument("--suite", action="append", default=[],
                        help="only these of meson's suites (default: all)")
    parser.add_argument("--wire", default="", help="pytest marker expression, or 'none'")
    parser.add_argument("--wire-only", default="", help="pytest keyword expression")
    parser.add_argument("--e2e", default="", help="pytest marker expression, or 'none'")
    parser.add_argument("--slow", type=int, default=0,
                        help="multiply deadlines, for sanitizer builds")
    args = parser.parse_args()
    build = pathlib.Path(args.build).resolve()
    count = Count()
    began = time.monotonic()

    if "none" not in args.suite:
        meson(count, build, args)
    if args.wire != "none":
        # These wait for one another most of the time; real peers need the whole machine.
        pytest(count, build, ROOT / "tests" / "wire", args.wire, args, args.wire_only,
               min(os.cpu_count() or 1, 4))
    if args.e2e != "none":
        pytest(count, build, ROOT / "tests" / "e2e", args.e2e, args)

    for skip in count.skips:
        print("skipped:", skip)
    for failure in count.failures:
        print("FAILED:", failure)
    print(f"{build.name}: {time.monotonic() - began:.0f} s")
    print(f"{count.passed} passed, {count.failed} failed, {count.skipped} skipped")
    return 1 if count.failed or not count.passed else 0


if __name__ == "__main__":
    sys.exit(main())
