"""The one error of this package, and waiting for what must become true."""

import time


class Failed(Exception):
    """What could not be done to what, and what to do about it, in one line."""


def until(condition, what, seconds=60, pause=0.1):
    """Waits, polling, until `condition()` is true, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(pause)
