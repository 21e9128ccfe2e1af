#!/usr/bin/env python3
"""Guards the relay against getting slower: instructions for each buffer, as valgrind counts them.

Times differ from run to run and from machine to machine; the number of instructions does not, as
long as the same compiler makes them. For every way to use a relay it must not be more than 10 %
above what instructions.json says for the compiler. What is lower is a note: record it, so that it
stays.

usage: instructions.py [--record] [--only SETUP]... [--baseline FILE] --compiler NAME
                       [--skip REASON] PROGRAM

Ends with status 0, 1 (a regression, or nothing was counted), or 77 (skipped, and says why).
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BASELINE = pathlib.Path(__file__).with_name("instructions.json")
# What counts, with all that it calls; guest and back-end are played by the same program.
ENTRY = "svq_relay_poll"
LIMIT = 0.10
SKIPPED = 77
LABEL = re.compile(r"^desc: Trigger: Client Request: (.*), (\d+) buffers$", re.MULTILINE)
TOTAL = re.compile(r"^(?:summary|totals): (\d+)$", re.MULTILINE)


class CannotCount(Exception):
    """Valgrind or the program failed."""


def read_dumps(folder):
    """{name: {buffers: instructions}} of all the dumps there."""
    counts = {}
    for path in folder.iterdir():
        text = path.read_text(encoding="ascii")
        label, total = LABEL.search(text), TOTAL.search(text)
        if label and total:
            counts.setdefault(label[1], {})[int(label[2])] = int(total[1])
    return counts


def per_buffer(name, dumps):
    """From a short and a long run, whose beginnings cost the same."""
    if len(dumps) != 2:
        raise CannotCount(f"{name}: expected a short and a long run")
    (few, less), (many, more) = sorted(dumps.items())
    if more <= less:
        raise CannotCount(f"{name}: counted nothing; does the relay enter at {ENTRY}()?")
    return round((more - less) / (many - few), 2)


def measure(program, setups):
    """{name: instructions per buffer}"""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--toggle-collect={ENTRY}",
             f"--callgrind-out-file={folder}/out", program, *setups],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotCount(f"{program} under valgrind: status {done.returncode}\n{done.stderr}")
        dumps = read_dumps(pathlib.Path(folder))
    if not dumps:
        raise CannotCount(f"valgrind dumped nothing\n{done.stderr}")
    return {name: per_buffer(name, dumps[name]) for name in sorted(dumps)}


def compare(measured, recorded, everything):
    """Return: (sentences that are failures, sentences that are notes)."""
    wrong, notes = [], []
    for name, now in measured.items():
        before = recorded.get(name)
        if before is None:
            wrong.append(f"{name}: nothing is recorded (now {now})")
        elif now > before * (1 + LIMIT):
            wrong.append(f"{name}: {before} -> {now} ({100 * (now / before - 1):+.1f} %)")
        elif now < before * (1 - LIMIT):
            notes.append(f"{name}: {before} -> {now} ({100 * (now / before - 1):+.1f} %)")
    if everything:
        wrong += [f"{name}: recorded, but not there any more" for name in recorded
                  if name not in measured]
    return wrong, notes


def record(args, baseline, measured):
    recorded = baseline.setdefault(args.compiler, {})
    if not args.only:
        recorded.clear()
    recorded.update(measured)
    text = json.dumps(baseline, indent=1, sort_keys=True) + "\n"
    args.baseline.write_text(text, encoding="ascii")
    print(f"recorded {len(measured)} counts for {args.compiler} in {args.baseline}")


def judge(args, recorded, measured):
    wrong, notes = compare(measured, recorded, not args.only)
    ratios = [now / recorded[name] for name, now in measured.items() if name in recorded]
    print(f"{args.compiler}: {len(measured)} counts, "
          f"{100 * (min(ratios, default=1) - 1):+.1f} % to {100 * (max(ratios, default=1) - 1):+.1f} % "
          "of what is recorded")
    for note in notes:
        print("BETTER:", note)
    for sentence in wrong:
        print("WORSE:", sentence)
    if notes or wrong:
        print("If that is meant: ninja -C BUILD record-instructions, and commit instructions.json.")
    return 1 if wrong else 0


def reason_to_skip(args, baseline):
    if args.skip:
        return args.skip
    if not shutil.which("valgrind"):
        return "no valgrind here"
    if not args.record and args.compiler not in baseline:
        return (f"nothing is recorded for {args.compiler}, only for "
                f"{', '.join(sorted(baseline)) or 'nobody'}")
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="count_relay")
    parser.add_argument("--compiler", required=True, help="what made it: name, version, machine, -O")
    parser.add_argument("--skip", default="", help="why this build cannot be compared")
    parser.add_argument("--baseline", type=pathlib.Path, default=BASELINE)
    parser.add_argument("--only", action="append", default=[], help="only this setup")
    parser.add_argument("--record", action="store_true", help="write what is counted now")
    args = parser.parse_args()
    baseline = {}
    if args.baseline.exists():
        baseline = json.loads(args.baseline.read_text(encoding="ascii"))
    reason = reason_to_skip(args, baseline)
    if reason:
        print("SKIPPED, the relay's instructions are NOT checked:", reason)
        return SKIPPED
    try:
        measured = measure(args.program, args.only)
    except CannotCount as error:
        print("FAILED:", error)
        return 1
    if args.record:
        record(args, baseline, measured)
        return 0
    names = baseline[args.compiler]
    if args.only:
        names = {name: count for name, count in names.items() if name in measured}
    return judge(args, names, measured)


if __name__ == "__main__":
    sys.exit(main())
