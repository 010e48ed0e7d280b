"""Columns of numbers in a table: which they are, and their values.

Cells of text are read as pandas reads them from a CSV file, so that every kind of source gives the same
numbers.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dream.errors import DataError, shown
from lightning_modules.data.limits import require_size
from lightning_modules.data.time_column import is_text, require_no_time, unnamed

logger = logging.getLogger(__name__)

_TRUTH = {"False": "0", "True": "1", "false": "0", "true": "1", "FALSE": "0", "TRUE": "1"}
_MISSING = (
    "",
    "NA",
    "N/A",
    "n/a",
    "NaN",
    "nan",
    "-NaN",
    "-nan",
    "NULL",
    "null",
    "None",
    "<NA>",
    "#N/A",
    "#NA",
)
_INDEX = {"index", "level_0", "id", "row", "row_id", "rowid", "rownames", "nr", "no", "#"}
_NUMBER = r"(?:\d+(?:[.,]\d+)?|\d{1,3}(?:[.,' \u00a0\u202f_]\d{3})+(?:[.,]\d+)?)(?:[eE][+-]?\d+)?"
_UNIT = r"[%‰$€£¥°A-Za-zµμΩ][A-Za-zµμΩ°²³^/·0-9]{0,8}"
_NUMERAL = rf"[(]?[+\-\u2212]?(?:[$€£¥]|[A-Z]{{3}} )? ?{_NUMBER} ?(?:{_UNIT})?[)-]?"
_PLAIN = (
    "Write plain numbers such as 1234.5, the measurement unit in the name of the column, or state "
    "`data.decimal` and `data.thousands`"
)
_TOTAL = re.compile(r"(?:grand |sub)?(?:total|sum|summe|average|mean|gesamt)s?:?", re.IGNORECASE)


def number_columns(
    frame: pd.DataFrame, path: Path, time: str | None, without: Sequence[str] = (), quiet: bool = False
) -> list[str]:
    """All columns of numbers but the one of the time, those in `without`, and an index.

    It is logged which others are left out, unless `quiet`: those without a single number, those that only
    count rows and have no name or one such as `index`, and those that repeat the time stamps.

    Raises:
        DataError: a column that would be left out holds numbers in another notation, one without a name
            counts no rows, or one of numbers is the time.
    """
    others = [name for name in frame.columns if name != time and name not in without]
    empty = {name for name in others if frame[name].isna().all()}
    others = [name for name in others if not (unnamed(name) and name in empty)]  # a comma too many
    words = [name for name in others if name not in empty and not to_numbers(frame[name]).notna().any()]
    for name in words:
        _require_words(frame[name], name, path)
    found = [name for name in others if name not in words]
    index = [name for name in found if _is_index(frame[name], name, path)]
    same = require_no_time(frame, [name for name in found if name not in index], time, path)
    left_out = {
        "columns without a single number": words,
        "columns that only count rows": index,
        "columns that repeat the time stamps": same,
    }
    for what, names in left_out.items():
        if names and not quiet:
            logger.warning("%s: %s are left out: %s.", path, what, ", ".join(names))
    return [name for name in found if name not in index and name not in same]


def _is_index(column: pd.Series, name: str, path: Path) -> bool:
    """Whether a column of numbers, without a name or with one such as `index`, only counts rows."""
    if name.strip().lower() in _INDEX:
        return bool((np.diff(to_numbers(column).to_numpy(np.float64, na_value=np.nan)) == 1).all())
    if not unnamed(name):
        return False
    numbers = read_numbers(column, name, path)
    rises = np.append(True, np.diff(numbers) > 0) & (numbers % 1 == 0)
    if not rises.all():
        place = int((~rises).argmax())
        raise DataError(
            f"{path}: column `{name}` has no name, and is no index that rises from row to row; row "
            f"{column.index[place]} holds {numbers[place]:g}. Give it a name, or delete it."
        )
    return True


def _require_words(column: pd.Series, name: str, path: Path) -> None:
    """Refuse a column of texts that are numbers in another notation, or whose last row is a total."""
    known = column[known_in(column)].astype(str).str.strip()
    numerals = known.str.fullmatch(_NUMERAL)
    if numerals.mean() >= 0.9:
        row = known.index[int(numerals.to_numpy().argmax())]
        raise DataError(
            f"{path}: column `{name}` holds numbers in a notation that is not read; row {row} holds "
            f"{shown(column[row])}. {_PLAIN}, or delete the column."
        )
    if len(known) and known.index[-1] == column.index[-1] and _TOTAL.fullmatch(known.iloc[-1]):
        raise DataError(
            f"{path}: rows must be time steps; row {known.index[-1]} is called {shown(known.iloc[-1])} in "
            f"column `{name}`. Delete it."
        )


def to_numbers(column: pd.Series) -> pd.Series:
    """The numbers in a column; NaN where a value is none or missing."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    text = column.astype(str).replace(_TRUTH)  # without gaps their column is numeric
    return pd.to_numeric(text.where(known_in(column)), errors="coerce")


def number_in(text: str) -> float | None:
    """The number in one text, as `to_numbers` reads it: NaN where it stands for a gap, None if it is none."""
    text = text.strip()
    if text in _MISSING:
        return math.nan
    try:
        return None if "_" in text else float(_TRUTH.get(text, text))  # Python, not pandas, reads 1_000
    except ValueError:
        return None


def known_in(column: pd.Series) -> pd.Series:
    """Where a column has a value: neither a gap nor a word that stands for one."""
    return column.notna() & ~column.astype(str).isin(_MISSING) if is_text(column) else column.notna()


def read_numbers(column: pd.Series, name: str, path: Path) -> np.ndarray:
    """The values of a column as float64 (T,), NaN where one is missing.

    Raises:
        DataError: naming the first row that holds no number, or one that is too large.
    """
    require_real(column, name, path)
    converted = to_numbers(column)
    if (bad := (converted.isna() & known_in(column)).to_numpy()).any():
        place = int(bad.argmax())
        value = column.iloc[place]
        remedy = _PLAIN if re.fullmatch(_NUMERAL, str(value).strip()) else "Repair the value"
        raise DataError(
            f"{path}: column `{name}` must hold numbers; row {column.index[place]} holds {shown(value)} "
            f"({int(bad.sum())} such values). {remedy}, empty the cell if it is missing, or leave the "
            "column out."
        )
    values = converted.to_numpy(dtype=np.float64, na_value=np.nan)
    require_size(pd.Series(values, column.index), name, path)
    return values


def require_real(column: pd.Series, name: str, path: Path) -> None:
    """Refuse complex numbers, whose imaginary part would be lost."""
    if pd.api.types.is_complex_dtype(column):
        raise DataError(
            f"{path}: column `{name}` must hold real numbers; row {column.index[0]} holds {column.iloc[0]}. "
            "Give real and imaginary part as columns of their own."
        )
