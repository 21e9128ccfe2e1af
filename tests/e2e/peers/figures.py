"""How often a test does a thing, and what it measured while doing it."""

import os
import statistics

LONG = os.environ.get("SVQ_LONG", "") not in ("", "0")
_test = ""
_said = []


def times(usual, full=100):
    """How often to do what should hold a hundred times: fewer unless SVQ_LONG is set."""
    return full if LONG else usual


def begin(test):
    """What is said from now on comes from this test."""
    global _test
    _test = test


def say(line):
    """A line for the report's end, whether the test passes or not."""
    _said.append(f"{_test}: {line}")


def said():
    return list(_said)


def spread(microseconds):
    """Shortest, median, 99th percentile and longest, in milliseconds."""
    ordered = sorted(microseconds)
    late = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    figures = [ordered[0], statistics.median(ordered), late, ordered[-1]]
    names = ["min", "p50", "p99", "max"]
    return " ".join(f"{name} {value / 1000:.1f}" for name, value in zip(names, figures)) + " ms"
