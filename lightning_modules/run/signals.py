"""SIGTERM and Ctrl-C, held back until the end of a step if there is something to save."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

HEARD = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Handler of SIGTERM and Ctrl-C while its ``with`` block runs, in the main thread.

    The first signal is kept in `received`, to be checked at the end of a step. If `wait` is off, and from the
    second Ctrl-C on, it also raises at once: KeyboardInterrupt or, for SIGTERM, Lightning's SIGTERMException.
    (Python drops an exception raised during garbage collection; the check at the end of the step catches
    that.)"""

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
        """Install the handler; call it again once the Trainer has started, which installs one for SIGTERM."""
        for number in HEARD:
            if self._before.get(number) is not signal.SIG_IGN:  # the parent process wants it ignored
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = self.received or signal.Signals(number)
        if self.wait and first:
            print("dream: stopping after this step; Ctrl-C stops at once.", file=sys.stderr, flush=True)  # noqa: T201
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif not self.wait:
            raise SIGTERMException

    def stop(self) -> None:
        """Raise the exception of the received signal."""
        self.wait = False
        raise KeyboardInterrupt if self.received is signal.SIGINT else SIGTERMException
