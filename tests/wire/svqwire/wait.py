"""Waiting: always for a condition, always with a deadline."""

import select
import time


class Late(AssertionError):
    """A condition did not come true in its time."""


def wait_until(condition, what, seconds=5.0, interval=0.002):
    """Returns the first true value of condition(); raises Late after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Late(f"waited {seconds} s for {what() if callable(what) else what}")
        time.sleep(interval)


def readable(sock, seconds=0):
    """Is there something to read, or an end, within that time?"""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
