"""Rows, tables and single values as callers give them: NumPy's, pandas' and torch's, Decimal, and texts."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sized
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from dream.errors import DataError, shown
from lightning_modules.data.frames import as_pandas
from lightning_modules.data.limits import LARGEST
from lightning_modules.data.numbers import number_in

Row = Mapping[str, float | None] | pd.Series
"""A row of a stream, from column name to number; None, NaN or an absent column was not observed."""
Table = pd.DataFrame | Iterable[Row]
"""Rows of a stream, oldest first; a table may be one of polars or pyarrow, too."""


def by_name(name: str, row: Row) -> dict[str, Any]:
    """`row` as a dictionary from text to value.

    Raises:
        DataError: it is neither a dictionary nor a pandas Series.
    """
    if type(row) is dict and all(type(column) is str for column in row):
        return row
    if not isinstance(row, Mapping | pd.Series):
        raise DataError(f"`{name}` must be a dictionary from column name to number; got {shown(row)}.")
    return {str(column): value for column, value in row.items()}


def require_as_many(name: str, values: Sized, rows: Sized) -> None:
    """Refuse anything but one of `values` for each of `rows`.

    Raises:
        DataError: there are more or fewer.
    """
    if len(values) != len(rows):
        raise DataError(f"`{name}` must have one value for each of {len(rows)} rows; got {len(values)}.")


def listed(name: str, values: Iterable[Any]) -> list[Any]:
    """`values` as a list.

    Raises:
        DataError: they are a table, or none that can be.
    """
    values = as_pandas(values)
    if isinstance(values, str | Mapping | pd.DataFrame) or not isinstance(values, Iterable):
        raise DataError(f"`{name}` must be a list or a Series; got {shown(values)}.")
    return list(values)


def numbers(name: str, values: Iterable[Any], column: str | None = None) -> np.ndarray:
    """`values` (T,) as floats, as `number` takes each of them.

    Raises:
        DataError: one is neither a number nor missing.
    """
    values = as_pandas(values)
    values = values if isinstance(values, pd.Series) else pd.Series(listed(name, values))
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype):
        found = values.to_numpy(np.float64, na_value=np.nan)
        if not (np.abs(found) > LARGEST).any():
            return found
    return np.array([number(name, value, column) for value in values])


def number(name: str, value: object, column: str | None = None) -> float:
    """`value` as a float, NaN where it is missing: None, pandas' NA or NaT, or a text that stands for that.

    Raises:
        DataError: it is neither a number nor missing; the message names `name`, or a `column` of it.
    """
    if type(value) is float and -LARGEST <= value <= LARGEST:
        return value
    if value is None or value is pd.NA or value is pd.NaT:
        return math.nan
    if isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    found = value
    if isinstance(value, Decimal):
        found = math.nan if value.is_nan() else float(value)
    elif isinstance(value, str):
        found = number_in(value)
    if isinstance(found, Real) and not abs(found) > LARGEST:  # type: ignore[operator] # of numbers.Real
        return float(found)
    place = name if column is None else f"{name}['{column}']"
    remedy = " Write a number as 1234.5; give each word a column of 0 or 1." if isinstance(value, str) else ""
    raise DataError(
        f"`{place}` must be a finite number of at most {LARGEST:.1e} in size, or None where it is missing; "
        f"got {shown(value)}.{remedy}"
    )


def known_number(name: str, value: object) -> float:
    """`value` as a float.

    Raises:
        DataError: it is not a finite number.
    """
    result = number(name, value)
    if result != result:
        raise DataError(f"`{name}` must be a finite number; got {value!r}. Leave out the rows without one.")
    return result


def plain(label: Hashable) -> Hashable:
    """`label` as JSON stores it: NumPy's scalars as Python's.

    Raises:
        DataError: it is no finite number or one too long to print, no text and no truth value.
    """
    value = label.item() if isinstance(label, np.generic) else label
    if not isinstance(value, (str, int, float, bool)) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise DataError(f"`y` must be a text, a finite number, True or False; got {shown(label)}.")
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise DataError(f"`y` must be a number of at most 4,300 digits; got {shown(label)}.") from None
    return value


def texts(name: str, value: Any) -> list[str]:
    """`value`, if it is a list of texts that differ.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"`{name}` must be texts; got {shown(value)}")
    if len(set(value)) != len(value):
        raise ValueError(f"`{name}` must differ; got {shown(value)}")
    return value
