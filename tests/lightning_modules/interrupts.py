"""KeyboardInterrupt at a chosen place of a call, wherever Python can be interrupted and beyond."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


def interrupted(call: Callable[[], Any], at: float) -> int | None:
    """Run `call` with a KeyboardInterrupt before bytecode number `at`; None if it was, else how many it has.

    Raises:
        Exception: whatever the call turned the interrupt into.
    """
    count = itertools.count(1)
    run = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal run
        frame.f_trace_opcodes = True
        if event == "opcode":
            run = next(count)
            if run == at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return None
    finally:
        sys.settrace(before)
    return run


def places(call: Callable[[], Any], trials: int) -> Iterator[int]:
    """At most `trials` numbers of bytecodes of `call`, which is run, spread evenly, the last ones all."""
    size = interrupted(call, float("inf"))
    assert size is not None
    last = max(size - 30, 0)
    yield from range(1, last, max(last // trials, 1))
    yield from range(last + 1, size + 1)
