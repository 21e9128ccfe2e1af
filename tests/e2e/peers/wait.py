"""Waiting: always for a condition, always with a deadline."""

import os
import time

# Sanitizer builds and busy machines need longer deadlines, never longer sleeps.
SCALE = float(os.environ.get("SVQ_TIME_SCALE", "1"))


class Deadline(AssertionError):
    """The condition did not come true in time."""


def wait_for(condition, what, timeout=30, interval=0.02):
    """Poll condition() until it is true and return its value; raise Deadline after timeout."""
    end = time.monotonic() + timeout * SCALE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Deadline(f"not within {timeout * SCALE:g} s: {what}")
        time.sleep(interval)
