"""Limits of data: what a packed file may unpack to, names that can be printed, numbers whose squares are
finite in float32.

Each function raises a DataError that names file, column and row.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dream.errors import DataError, shown
from dream.files import is_address
from dream.numerics import largest

logger = logging.getLogger(__name__)

LARGEST = largest(torch.float32)  # a value whose square is finite in the dtype that layers compute in
MOST_DEVIATIONS = 1e15  # from the mean; sums of squares over a batch stay finite in float32
LONGEST = 80  # characters of a name that a message shows
FREE_BYTES = 1 << 26
"""Bytes that any packed file may unpack to."""
MOST_TIMES = 100
"""How many times its size a packed file may unpack to, beyond `FREE_BYTES`: tables are packed to a third or a
tenth."""

_UNSHOWN = {"Cc", "Cs", "Zl", "Zp"}  # categories: control, surrogate, line and paragraph separator


def local(path: str | Path) -> Path:
    """`path` on this machine; an address is refused, since no setting makes the program fetch anything."""
    if is_address(str(path)):
        raise DataError(
            f"`path` must be a file on this machine, not an address; got {path}. Download it first."
        )
    return Path(path).expanduser()


def most_unpacked(packed: int) -> int:
    """Bytes that a file of `packed` bytes may unpack to."""
    return max(FREE_BYTES, MOST_TIMES * packed)


def require_unpacked(unpacked: int, path: str | Path) -> None:
    """Refuse a packed file that unpacks to so much more than its size that it may be made for that."""
    most = most_unpacked(Path(path).stat().st_size)
    if unpacked > most:
        raise DataError(
            f"{path}: a packed file of its size must unpack to at most {most} bytes; it goes beyond "
            f"({unpacked}). If that is right, store it unpacked."
        )


def require_header(header: Sequence[str], path: Path) -> None:
    """Refuse a first line without a name, or of a row of numbers and dates."""
    if not len(header):
        raise DataError(f"{path}: there are no columns.")
    cells = pd.Series(list(header))
    numbers = pd.to_numeric(cells, errors="coerce").notna()
    dates = pd.to_datetime(cells.mask(numbers), errors="coerce", format="ISO8601").notna()
    begins = dates.iloc[0] or re.match(r"\d{1,2}([-/.])\d{1,2}\1\d{2,4}", str(header[0]))
    if begins or (numbers.any() and (numbers | dates).all()):
        raise DataError(
            f"{path}: the first line must name the columns; it holds numbers or dates: "
            f"{', '.join(map(_short, header[:4]))}."
        )


def distinct(names: Iterable[str]) -> list[str]:
    """Names of which those that come again end in .1, .2 and so on, as pandas has them of CSV files."""
    found: list[str] = []
    names = list(names)
    taken = set(names)
    for name in names:
        number, new = 0, name
        while new in found or (number and new in taken):
            number += 1
            new = f"{name}.{number}"
        found.append(new)
    return found


def tell_repeated(names: Sequence[str], path: Path) -> None:
    """Log which columns have a name that comes again, see `distinct`."""
    again = [f"{_short(new)}" for old, new in zip(names, distinct(names), strict=True) if old != new]
    if again:
        logger.warning("%s: columns whose name comes again are called %s.", path, ", ".join(again[:4]))


def require_printable(names: Sequence[str], path: Path) -> None:
    """Refuse names of columns that cannot be printed on one line."""
    for name in names:
        if any(unicodedata.category(sign) in _UNSHOWN for sign in name):
            raise DataError(
                f"{path}: column names must be printable, on one line; got {shown(name)}. Rename it."
            )


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def require_size(values: pd.Series, name: str, path: Path) -> None:
    """Refuse inf, and numbers whose squares are not finite; the index of `values` numbers the rows."""
    if (bad := (values.abs() > LARGEST).to_numpy()).any():
        place = int(bad.argmax())
        raise DataError(
            f"{path}: column `{name}` must be finite and at most {LARGEST:.1e} in size, so that squares are "
            f"finite in float32; row {values.index[place]} holds {values.iloc[place]:g} ({int(bad.sum())} "
            "such values). Repair or scale it."
        )


def require_proportion(
    result: np.ndarray, values: np.ndarray, names: Sequence[str], scale: np.ndarray, source: str, first: int
) -> None:
    """Refuse values that are out of all proportion to the training rows.

    Args:
        result: (T, D) standardised values; NaN where one is missing.
        values: (T, D) the same in the source's units.
        names: Names of the columns.
        scale: (D,) standard deviation of each in the training rows.
        source: The file or generator.
        first: Number of the first row.
    """
    if (bad := np.abs(result) > MOST_DEVIATIONS).any():
        row, column = (int(part) for part in np.argwhere(bad)[0])
        raise DataError(
            f"{source}: column `{names[column]}` must lie within {MOST_DEVIATIONS:g} deviations of its mean "
            f"in the training rows (here {scale[column]:.3g}); row {first + row} holds "
            f"{values[row, column]:g}. Repair it, leave the column out or lengthen the training part."
        )
