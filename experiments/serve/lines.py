"""JSON lines: a row on each line of the input, an answer on each line of the output."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from dream.errors import DataError
from experiments.serve.service import Answer, Asked, Service, asked_or_refused, refusal, together

PIECE = 1 << 16


def serve_lines(service: Service, given: BinaryIO, out: BinaryIO, most: int) -> int:
    """Answer the lines of `given` until it ends or a signal comes; return the exit code.

    The lines that have arrived are answered together, in their order.

    Args:
        service: What answers.
        given: Lines, each a row.
        out: Where the answers go.
        most: Bytes of a line.
    """
    with _signals() as bell:
        rest, too_long = b"", False
        while True:
            ready, _, _ = select.select([given.fileno(), bell.fileno()], [], [])
            if bell.fileno() in ready:
                return 0
            piece = os.read(given.fileno(), PIECE)
            *lines, rest = (rest + piece).split(b"\n")
            if not piece and rest:
                lines, rest = [rest], b""
            if too_long and lines:  # the end of a line that was refused
                lines, too_long = lines[1:], False
            if len(rest) > most:
                if not too_long:
                    lines.append(rest)
                rest, too_long = b"", True
            out.write(
                b"".join(
                    json.dumps(answer, allow_nan=False).encode() + b"\n"
                    for answer in _answers(service, lines, most)
                )
            )
            out.flush()
            if not piece:
                return 0


def _answers(service: Service, lines: list[bytes], most: int) -> list[Answer]:
    """Answers to lines, in their order; a line of blanks has none."""
    found: list[Asked | Answer] = []
    for line in lines:
        if not line.strip():
            continue
        if len(line) > most:
            found.append(refusal(DataError(f"a line must have at most {most} bytes; got more.")))
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            found.append(refusal(DataError(f"a line must be a row in JSON: {error}")))
        else:
            found.append(asked_or_refused(service.operation(row), row))
    return together(found, service.answer([row for row in found if isinstance(row, Asked)]))


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that can be read once SIGTERM or Ctrl-C came, which end nothing by themselves."""
    bell, ringer = socket.socketpair()
    for end in (bell, ringer):
        end.setblocking(False)
    numbers = signal.SIGTERM, signal.SIGINT
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
    before = signal.set_wakeup_fd(ringer.fileno(), warn_on_full_buffer=False)
    try:
        yield bell
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        bell.close()
        ringer.close()
