"""Refusals that every room shares: settings that break their rule, and results that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dream import sums
from dream.errors import ConfigError, DataError, DREAMError

DIVERGED = "The weights have diverged: lower `model.lr`, or go on from an earlier checkpoint."
"""The remedy where finite data led to numbers that are not finite."""


def require(name: str, value: object, holds: bool, rule: str) -> None:
    """Refuse a setting that breaks its rule.

    Raises:
        ConfigError: naming the setting, the rule and the value.
    """
    if not holds:
        raise ConfigError(f"`{name}` must be {rule}; got {value!r}.", key=name)


def require_int(name: str, value: int, least: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`.

    Raises:
        ConfigError: it is not.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(name, value, whole and value >= least, f"a whole number of at least {least}")
    return value


def require_finite(outputs: Mapping[str, Tensor | np.ndarray], place: Callable[[int], str]) -> None:
    """Refuse the outputs of a model if some are not finite; waits for the device once.

    Args:
        outputs: By name, each with the same first axis (M, ...).
        place: Returns the source and rows that an entry of that axis was computed from.

    Raises:
        DREAMError: naming the outputs that are not finite, and the place of the first such entry.
    """
    bad = torch.stack(
        [~torch.as_tensor(part).isfinite().flatten(1).all(1) for part in outputs.values()]
    ).cpu()  # (., M)
    if bad.any():
        named = " and ".join(name for name, lost in zip(outputs, bad.any(1).tolist(), strict=True) if lost)
        raise DREAMError(f"not finite: {named}, first of {place(int(bad.any(0).int().argmax()))}. {DIVERGED}")


class FolderGoneError(DataError):
    """The folder of a run is not there any more: others have deleted or moved it."""


def gone(folder: Path) -> FolderGoneError:
    """Error of a run without its folder."""
    return FolderGoneError(
        f"the folder {folder} is gone: it was deleted or moved while this was running, which ends here. Move "
        "it back and go on with --resume, or start anew."
    )


def require_there(folder: Path) -> None:
    """Refuse to go on without the folder of a run, which others may have deleted.

    What Weights & Biases writes there again, and hidden files, are no folder of ours.

    Raises:
        DataError: it is gone, or holds nothing any more.
    """
    try:
        there = any(not path.name.startswith(".") and path.name != sums.FOREIGN for path in folder.iterdir())
    except FileNotFoundError:
        there = False
    if not there:
        raise gone(folder)
