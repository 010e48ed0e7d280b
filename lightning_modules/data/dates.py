"""Columns of dates in a table: which they are, their format, and their time stamps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from dream.errors import DataError, shown


def find_formats(column: pd.Series, among: Sequence[str | None] = ()) -> tuple[str | None, ...]:
    """The formats by which most values of a column are dates; several where they do equally well.

    Args:
        column: Time stamps.
        among: Formats to try; if empty, all that the first time stamp may have.

    Returns:
        Formats of `strptime`, "ISO8601", or None for pandas' own parser, which takes each row by itself.
    """
    if not among:
        first = _first(column)
        if not isinstance(first, str):
            return (None,)
        guessed = guess_datetime_format(first)
        iso = guessed is None or guessed.startswith("%Y")
        among = ("ISO8601", guessed) if iso else (guessed, guess_datetime_format(first, dayfirst=True))
    counts: dict[str | None, int] = {}
    for form in among:
        counts[form] = int(_parse_dates(column, form).notna().sum())
        if form == "ISO8601" and counts[form] == len(column):
            return (form,)
    return tuple(form for form, count in counts.items() if count == max(counts.values()))


def _first(column: pd.Series) -> Any:
    place = column.first_valid_index()
    return None if place is None else column[place]


def _parse_dates(column: pd.Series, form: str | None) -> pd.Series:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pandas warns when it falls back to its slower parser
        return pd.to_datetime(column, errors="coerce", utc=True, format=form).dt.tz_localize(None)


def find_time_column(frame: pd.DataFrame) -> str | None:
    """The first column of dates, or else the first column if its first or most of its values are dates."""
    dated = [name for name in frame.columns if pd.api.types.is_datetime64_any_dtype(frame[name])]
    first: str = [*dated, frame.columns[0]][0]
    column = frame[first]
    if pd.api.types.is_numeric_dtype(column):
        return None
    start, (form, *_) = _first(column), find_formats(column)
    parsed = _parse_dates(column, form).notna()
    begins = form is not None and not start.isdigit() and parsed[column.first_valid_index()]
    return first if begins or parsed.mean() > 0.5 else None


def time_stamps(column: pd.Series, form: str | None, path: Path, before: np.datetime64 | None) -> np.ndarray:
    """The dates of a column, datetime64[ns] (T,), all after `before`; `form` is one of `find_formats`.

    Raises:
        DataError: naming the first row that is not a date, or not after the row before.
    """
    name = column.name
    if pd.api.types.is_numeric_dtype(column) and column.notna().any():
        raise DataError(
            f"{path}: time column `{name}` must hold dates such as 2016-07-01 00:00; it holds numbers such "
            f"as {column.dropna().iloc[0]}. Leave `time_column` out to count rows instead."
        )
    parsed = _parse_dates(column, form)
    if (bad := parsed.isna().to_numpy()).any():
        place = int(bad.argmax())
        raise DataError(
            f"{path}: time column `{name}` must hold dates such as 2016-07-01 00:00; row "
            f"{column.index[place]} holds {shown(column.iloc[place])}."
        )
    if (far := ((parsed < pd.Timestamp.min) | (parsed > pd.Timestamp.max)).to_numpy()).any():
        place = int(far.argmax())
        raise DataError(
            f"{path}: time column `{name}` must hold dates from 1678 to 2261, which nanoseconds can count; "
            f"row {column.index[place]} holds {shown(column.iloc[place])}. Repair it."
        )
    time = parsed.to_numpy(dtype="datetime64[ns]")
    step = np.diff(time, prepend=time[0] - np.timedelta64(1) if before is None else before)
    if (step <= np.timedelta64(0)).any():
        place = int((step <= np.timedelta64(0)).argmax())
        earlier = column.iloc[place - 1] if place else before
        what = (
            "repeats the one before"
            if step[place] == np.timedelta64(0)
            else f"is earlier than {earlier} before"
        )
        raise DataError(
            f"{path}: time column `{name}` must increase from row to row; row {column.index[place]} "
            f"({column.iloc[place]}) {what}. Sort the rows and remove duplicates."
        )
    return time
