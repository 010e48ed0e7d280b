"""End of a command: an exit code and one sentence, whatever happened.

Imports nothing that takes time, so that a command can be ended from the start.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import NoReturn, TextIO

LONGEST = 1000  # characters of a line of a message
filters: list[Callable[[str], str]] = []
"""Functions that every message goes through, such as one that hides the secrets among the settings."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of an open file that takes no more."""
UNREAD = 141
"""Exit code of a command whose output nobody reads any more: that of SIGPIPE, as of other tools."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def ended(work: Callable[[], int]) -> int:
    """Return the exit code of `work`, and print its errors in one sentence.

    It is 2 after a mistake in command, configuration or data, or about a file that cannot be read or written,
    which is printed in at most five lines, the output itself included, as on a full disk; 130 after Ctrl-C
    and 143 after SIGTERM, where `work` does not handle them; and `UNREAD`, without a word, where nobody reads
    the output any more, as after a pipe into ``head``.
    """
    try:
        code = _ended(work)
        for stream in _outputs():
            stream.flush()
    except BrokenPipeError:
        unread = [stream for stream in _outputs() if _is_unread(stream)]
        if not unread:  # it was another pipe
            raise
        for stream in unread:
            _silence(stream)
        return UNREAD
    except OSError as error:
        if error.errno not in FULL:
            raise
        for stream in _outputs():
            _flush(stream)
        say(f"dream: the output could not be written: {error.strerror}. Free the disk or write elsewhere.")
        return 2
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # as rich turns it into one
            return UNREAD
        raise
    return code


def _outputs() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None and not stream.closed]


def _is_unread(stream: TextIO) -> bool:
    """Whether nobody reads an output any more."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush(stream: TextIO) -> None:
    """Flush an output; what it refuses is lost, or Python would try again at its exit."""
    try:
        stream.flush()
    except OSError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _ended(work: Callable[[], int]) -> int:
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    listens = main_thread and before == signal.SIG_DFL
    if listens:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        return work()
    except KeyboardInterrupt as stop:
        say("dream: interrupted.")
        return code(stop)
    except Exception as error:
        from dream.errors import DREAMError

        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename} could not be read or written: {error.strerror}. Mend or remove it."
        elif not isinstance(error, DREAMError):
            raise
        lines = [_shown(line) for line in text.strip().splitlines()[:5]]
        say("dream: " + "\n".join(lines))
        return 2
    finally:
        if listens:
            signal.signal(signal.SIGTERM, before)


def run_module(name: str) -> NoReturn:
    """Exit with the exit code of a module that was started by ``python -m``, its imports included.

    Called at its top, before what takes seconds to load.
    """

    def work() -> int:
        code = import_module(name).main()
        return code if isinstance(code, int) else 0

    sys.exit(ended(work))


def say(text: str) -> None:
    """Print a message for the person who waits, to stderr: stdout holds nothing but a command's results."""
    for change in filters:
        text = change(text)
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def code(stop: BaseException) -> int:
    """Exit code of a command that `stop` has interrupted."""
    return 130 if isinstance(stop, KeyboardInterrupt) and not isinstance(stop, Terminated) else 143


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _shown(line: str) -> str:
    """A line of bounded length, without signs that a terminal would obey."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in line)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."
