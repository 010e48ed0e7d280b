"""How long something still takes: a bar with the time left on a terminal; elsewhere, where a bar would be
noise, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

QUIET = 10.0
"""Seconds without a word."""


class Lines:
    """Says on stderr, at most every `QUIET` seconds, how far something is and about how long it still
    takes."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """The clock starts."""
        self.begun = self.said = time.monotonic()

    def tell(self, what: str, share: float) -> None:
        """`share` of it, above 0 and up to 1, is done."""
        now = time.monotonic()
        if now - self.said < QUIET or not 0 < share < 1:
            return
        self.said, elapsed = now, now - self.begun
        left = elapsed / share * (1 - share)
        print(f"{what} {share:.0%}  {elapsed:.0f} s  about {left:.0f} s left", file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def waiting(what: str) -> Iterator[Callable[[float], None]]:
    """While the block runs, shows how far `what` is; the block calls what it gets with the share that is
    done."""
    lines, console = Lines(), Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)

        def done(share: float) -> None:
            bar.update(task, completed=share)
            if bar.disable:
                lines.tell(what, share)

        yield done
