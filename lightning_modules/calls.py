"""Objects that any thread may call, one call at a time, each of which happens wholly or not at all."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from threading import RLock
from types import FrameType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from dream.errors import StateError

P = ParamSpec("P")
R = TypeVar("R")
W = TypeVar("W", bound="Whole")
_forks = 0  # between the first process and this one


def _after_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Whole(ABC):
    """Base of objects whose public methods are marked `alone` or `whole`.

    A `whole` call first notes what it takes to undo it. Whatever ends the call, Ctrl-C between any two
    operations included, the note is there until the object is as it was; if that, too, is interrupted, the
    next call begins with it. The call counts as done by the one assignment that drops the note.
    """

    _locks: dict[int, RLock]
    """The lock of this process: that of the process before a fork may be held by a thread that is gone."""
    _unfinished: tuple[FrameType, Any] | None
    """Frame of the call that is running or was interrupted, and its note."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        self = super().__new__(cls)
        self._locks = {}
        self._unfinished = None
        return self

    def _turn(self) -> RLock:
        """The lock that every call holds."""
        return self._locks.setdefault(_forks, RLock())

    @abstractmethod
    def _note(self) -> Any:
        """Everything that `_recover` needs after a call that was interrupted; no call may change it."""

    @abstractmethod
    def _recover(self, note: Any) -> None:
        """Leave the object whole after an interrupted call; may itself be interrupted, and called again."""

    def _settle(self) -> None:
        """Recover from an interrupted call.

        Raises:
            StateError: that call still runs: this one comes from within it.
        """
        if self._unfinished is None:
            return
        running, note = self._unfinished
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame is running:
                raise StateError(
                    f"a {type(self).__name__} must not be used from within one of its own calls, as by a "
                    "signal handler. Let the handler set a flag, and look at it between two calls."
                )
            frame = frame.f_back
        self._recover(note)
        self._unfinished = None

    def _content(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_locks", "_unfinished")}

    def __getstate__(self) -> dict[str, Any]:
        with self._turn():
            self._settle()
            return deepcopy(self._content())  # other threads go on while this is written

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        with self._turn():
            self._settle()
            new = memo[id(self)] = type(self).__new__(type(self))
            vars(new).update(deepcopy(self._content(), memo))
            return new


def alone(method: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
    """Mark a method that changes nothing: it waits for the calls of other threads."""

    @wraps(method)
    def call(self: W, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._turn():
            self._settle()
            return method(self, *args, **kwargs)

    return call


def whole(method: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
    """Mark a method that changes the object: it waits for others, and is undone if an exception ends it."""

    @wraps(method)
    def call(self: W, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._turn():
            self._settle()
            try:
                self._unfinished = sys._getframe(), self._note()
                result = method(self, *args, **kwargs)
                self._unfinished = None
            except BaseException:
                if self._unfinished is not None:
                    self._recover(self._unfinished[1])
                    self._unfinished = None
                raise
            return result

    return call
