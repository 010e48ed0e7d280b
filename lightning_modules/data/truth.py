"""Columns taken for numbers that may be something else: classes, or the truth that is to be found."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dream.errors import DataError

logger = logging.getLogger(__name__)

_MOST = 5  # values of a column that may be classes
_LEAST = 4  # rows of each on average
_NAMED = 5  # columns that a message names
_TRUTH = re.compile(
    r"(?:is|has)?_?(?:label|anomal(?:y|ies|ous)|target|outlier|change_?point)s?", re.IGNORECASE
)


def class_like(values: np.ndarray, columns: Sequence[str]) -> dict[str, list[int]]:
    """The values of those columns of `values` (T, D) that hold two to five whole numbers again and again."""
    found = {}
    for name, column in zip(columns, values.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) < 2 * _LEAST or (known[: _MOST * _LEAST] % 1 != 0).any():
            continue
        distinct = np.unique(known)
        few = 2 <= len(distinct) <= _MOST and len(known) >= _LEAST * len(distinct)
        if few and not (distinct % 1 != 0).any():
            found[name] = [int(value) for value in distinct]
    return found


def tell_classes(values: np.ndarray, columns: Sequence[str], source: str, remedy: str) -> None:
    """Log which columns to forecast may be classes, and by which flag they are."""
    found = class_like(values, columns)
    said = [f"`{name}` holds only {_listed(numbers)}" for name, numbers in found.items()]
    if said:
        more = f" and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
        logger.warning("%s: %s%s, forecast as numbers. %s", source, "; ".join(said[:_NAMED]), more, remedy)


def is_truth(name: str) -> bool:
    """Whether the name of a column says that it tells what a detector is to find."""
    return _TRUTH.fullmatch(re.sub(r"[^A-Za-z]+", "_", name.strip())) is not None


def require_no_truth(values: np.ndarray, columns: Sequence[str], others: Sequence[str], path: Path) -> None:
    """Refuse to watch a column of 0 and 1 whose name says that it is the truth, see `is_truth`.

    Args:
        values: (T, D)
        columns: (D,) names.
        others: All columns that would be watched.
        path: The file, for messages.

    Raises:
        DataError: naming it and both flags that decide.
    """
    for name, column in zip(columns, values.T, strict=True):
        if is_truth(name) and np.isin(column[~np.isnan(column)], (0, 1)).all():
            rest = ",".join(other for other in others if other != name) or "..."
            raise DataError(
                f"{path}: column `{name}` holds 0 and 1 and is called as if it told the anomalies; were it "
                f"watched, the detector would read the truth. `--data.label_column={name}` keeps it for the "
                f"metrics, `--data.columns=[{rest}]` leaves it out, and with it named there it is watched."
            )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
