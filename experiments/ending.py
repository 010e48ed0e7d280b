"""How a command ends: with an exit code and one sentence, whatever came in between. Imports nothing that
takes time."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

LONGEST = 1000  # characters of a line of a message


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def ended(work: Callable[[], int]) -> int:
    """The exit code of `work`: its own; 2 after a mistake in command, configuration or data, which is said in
    at most five lines; 130 after Ctrl-C and 143 after SIGTERM, where `work` does not say so itself."""
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if heard := main_thread and before == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        return work()
    except KeyboardInterrupt as stop:
        print("dream: interrupted.", file=sys.stderr)  # noqa: T201
        return code(stop)
    except Exception as error:
        from dream.errors import DREAMError

        if not isinstance(error, DREAMError):
            raise
        lines = [_shown(line) for line in str(error).strip().splitlines()[:5]]
        print("dream: " + "\n".join(lines), file=sys.stderr)  # noqa: T201
        return 2
    finally:
        if heard:
            signal.signal(signal.SIGTERM, before)


def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What came of an error outside of `ended`, as `sys.excepthook` has it: to Ctrl-C, one sentence."""
    if issubclass(kind, KeyboardInterrupt):
        print("dream: interrupted.", file=sys.stderr)  # noqa: T201
    else:
        sys.__excepthook__(kind, error, trace)


def code(stop: BaseException) -> int:
    """The exit code of a command that `stop` has interrupted."""
    return 130 if isinstance(stop, KeyboardInterrupt) and not isinstance(stop, Terminated) else 143


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _shown(line: str) -> str:
    """A line without what a terminal would obey, and not endless."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in line)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."
