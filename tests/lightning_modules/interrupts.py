"""KeyboardInterrupt at a chosen place of a call, wherever Python can be interrupted and beyond."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def interrupted(call: Callable[[], Any], at: float) -> int | None:
    """Run `call` with a KeyboardInterrupt before bytecode number `at`.

    Return None if that ended it, else the number of its bytecodes. Compiled code may make another error of
    the interrupt, or go on.
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
    except BaseException:
        if run != at:
            raise
        return None
    finally:
        sys.settrace(before)
    return run
