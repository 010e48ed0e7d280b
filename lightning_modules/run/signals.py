"""SIGTERM and Ctrl-C, which wait for the end of a step where there is something to save."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

HEARD = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Hears SIGTERM and Ctrl-C while the ``with`` block runs, in the main thread.

    The first is kept in `received`, for whoever comes to the end of a step to see. Unless `wait` is on, and
    from the second Ctrl-C on, it raises at once, too: KeyboardInterrupt or, for SIGTERM, Lightning's
    SIGTERMException. (Python ignores what is raised while it collects garbage; then the end of the first step
    sees it.)"""

    def __init__(self) -> None:
        self.wait = False
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.getsignal(number) for number in HEARD}
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals (again: the Trainer takes SIGTERM when it starts)."""
        for number in HEARD:
            if self._before.get(number) is not signal.SIG_IGN:  # whoever started us wants it ignored
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, self.received or signal.Signals(number)
        if self.wait and first:
            print("dream: stopping after this step; Ctrl-C stops at once.", file=sys.stderr, flush=True)  # noqa: T201
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif not self.wait:
            raise SIGTERMException

    def stop(self) -> None:
        """Raise what the signal that was received asks for."""
        self.wait = False
        raise KeyboardInterrupt if self.received is signal.SIGINT else SIGTERMException
