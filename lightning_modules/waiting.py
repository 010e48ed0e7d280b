"""Progress of long work: a bar with the time left on a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

QUIET = 10.0
"""Least number of seconds between two lines."""


class Lines:
    """Prints progress and an estimate of the time left on stderr, at most every `QUIET` seconds."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start the clock."""
        self.begun = self.printed = time.monotonic()

    def tell(self, what: str, share: float) -> None:
        """Print that `share` of `what` is done, if a line is due and the work neither new nor finished."""
        now = time.monotonic()
        if now - self.printed < QUIET or not 0 < share < 1:
            return
        self.printed = now
        elapsed = now - self.begun
        left = elapsed / share * (1 - share)
        print(f"{what} {share:.0%}  {elapsed:.0f} s  about {left:.0f} s left", file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def waiting(what: str) -> Iterator[Callable[[float], None]]:
    """Show the progress of `what` while the block runs; the block calls the result with the share done."""
    lines, console = Lines(), Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)

        def done(share: float) -> None:
            bar.update(task, completed=share)
            if bar.disable:
                lines.tell(what, share)

        yield done
