"""Errors and warnings by kind. A message names the argument, what was expected, what came and a remedy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches


class DREAMError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(DREAMError):
    """A configuration value, name or file that is not allowed.

    ``key`` is the name of the offending field where there is one, so that a command line can print its full
    path."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class ShapeError(DREAMError):
    """A tensor with a wrong number of dimensions or a wrong size."""


class StateError(DREAMError):
    """A `DREAMState` that does not belong to this layer, batch, dtype or device."""


class DataError(DREAMError):
    """Data that cannot be used: NaN, wrong dtype, wrong lengths, a broken or missing file."""


class CheckpointError(DREAMError):
    """A file of weights or states that is damaged or belongs to something else."""


class DREAMWarning(UserWarning):
    """Something legal that is probably not what was meant."""


def warn(message: str, *packages: str) -> None:
    """Give a `DREAMWarning` that points at the line that called `packages`, "dream" among them."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in packages:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, DREAMWarning, stacklevel=level)


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that names the known word nearest to `name`, or all of them where none is near.

    >>> nearest("rnak", ["rank", "kappa"])
    'Did you mean `rank`?'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean `{close[0]}`?" if close else "Known: " + ", ".join(known) + "."


def shown(value: object, longest: int = 80) -> str:
    """`value` as a message shows it, cut to `longest` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "a number too long to print"
    except RecursionError:
        return "lists in lists, too deep to print"
    return text if len(text) <= longest else f"{text[:longest]}..."
