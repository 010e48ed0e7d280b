"""Locks on folders, so that of several processes one at a time rewrites what is in them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

WAIT = 60.0  # seconds that a process waits for another one


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let no other process, and no other thread, enter such a block for `folder`; no file is left behind.

    Where the file system has no locks, nothing is locked.

    Raises:
        OSError: another process has been doing so for a minute.
    """
    if fcntl is None:
        yield
        return
    place, end = os.open(folder, os.O_RDONLY), time.monotonic() + WAIT
    try:
        while True:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OSError(errno.EBUSY, "another process keeps it locked", str(folder)) from None
                time.sleep(0.005)
            except OSError:  # no locks here
                break
        yield
    finally:
        os.close(place)
