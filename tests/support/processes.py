"""Child processes of tests."""

from __future__ import annotations

import os
import time


def wait_for(child, seconds=60):
    """The exit status of a child, or None if it hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None
