"""Which column of a table holds the time: the one of dates, or one of numbers whose name says so."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dream.errors import DataError, shown
from lightning_modules.data.dates import candidates, find_formats, number_formats, parse_dates, whole_numbers

_NOUNS = re.compile(
    r"(?:unix|local)?time|timestamp|date|datetime|t|ts|ds|epoch|unix|when|zeit|datum|zeitstempel|fecha"
)
"""Words that say in the name of a column that it holds the time."""
_BESIDE = re.compile(r"stamp|utc|local|event|posix|s|secs?|seconds|ms|us|ns|h|min")
"""Words that may stand beside those: where the time was taken, and its unit."""
_COUNTED = re.compile(r"year|month|week|day|hour|minute|second|jahr")
"""Names of parts of a time, which increase where rows only count."""
_UNNAMED = re.compile(r"|Unnamed: [\d.]+|__index_level_\d+__")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


def unnamed(name: str) -> bool:
    """Whether a column has no name, as the index has that `DataFrame.to_csv` and `to_parquet` write."""
    return _UNNAMED.fullmatch(name) is not None


def _for_time(name: str) -> bool:
    """Whether a word in the name of a column says that it may hold the time."""
    return (
        unnamed(name)
        or _is_time(name)
        or any(len(word) > 1 and _NOUNS.fullmatch(word) for word in _words(name))
    )


def _is_time(name: str) -> bool:
    """Whether a name says that a column is the time, and nothing else."""
    words = _words(name)
    plain = re.fullmatch(r"[A-Za-z _()\[\]-]*", name) is not None
    other = [word for word in words if not _NOUNS.fullmatch(word)]
    return plain and len(other) < len(words) and all(_BESIDE.fullmatch(word) for word in other)


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


def find_time_column(
    frame: pd.DataFrame, path: Path, without: Collection[str | None] = (), form: str | None = None
) -> str | None:
    """The only column of dates, or else the only one of numbers that are dates and named so.

    Args:
        frame: The table.
        path: The file, for messages.
        without: Columns of another role.
        form: The format of the time stamps, if it is stated.

    Returns:
        Name of the column; None if rows only have numbers.

    Raises:
        DataError: there are several, or one that is meant to be the time cannot be read.
    """
    names = [name for name in frame.columns if name not in without]
    dated = [name for name in names if form is not None and parse_dates(frame[name], form).notna().all()]
    if not dated:
        leading = [name for name in names if name == frame.columns[0] or _is_time(name)]
        dated = [name for name in names if _holds_dates(frame[name], name in leading)]
    if not dated:
        numbers = {name: whole_numbers(frame[name]) for name in names if _for_time(name)}
        dated = [name for name, column in numbers.items() if column is not None and number_formats(column)]
    # a column with gaps cannot be the time
    whole = [name for name in dated if frame[name].notna().all()] or dated
    if len(whole) > 1:
        listed = ", ".join(f"`{name}`" for name in whole)
        raise DataError(
            f"{path}: several columns hold dates: {listed}. Name the one to use as `time_column`."
        )
    if whole:
        return whole[0]
    for name in names:
        if (row := _unreadable(frame[name], name, name == frame.columns[0])) is not None:
            raise DataError(
                f"{path}: column `{name}` seems to hold the time, in no format that is certain; row {row} "
                f"holds {shown(frame[name][row])}. Write it as 2024-01-31 13:00, or rename it if it is no "
                "time."
            )
    return None


def _holds_dates(column: pd.Series, leading: bool) -> bool:
    """Whether most values of a column, or for a `leading` one the first, are dates, and no mere numbers."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return bool(column.notna().any())
    if not is_text(column) or whole_numbers(column) is not None or not candidates(column):
        return False
    known = column.dropna()
    parsed = parse_dates(known, find_formats(known)[0]).notna()
    return bool((leading and parsed.iloc[0]) or parsed.mean() > 0.5)


def _unreadable(column: pd.Series, name: str, leading: bool) -> Any:
    """The first row of a column of texts that is meant to be the time, but is not by `find_formats`."""
    first = column.first_valid_index()
    if first is None or not is_text(column) or whole_numbers(column) is not None:
        return None
    if _is_time(name):
        return first
    some = column.dropna().astype(str).head(100)
    clock = some.str.fullmatch(r"\d{1,2}:\d\d(?::\d\d)?(?: ?[AaPp][Mm])?")
    years = some.str.contains(_YEAR)
    if leading and (clock.all() or (years.all() and some.is_unique and len(some) > 2)):  # 10:15; 2024-W05
        return first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats and zones that the parser does not know
        dates = pd.to_datetime(some.where(years), errors="coerce", format="mixed", utc=True).notna()
    dates |= some.str.match(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}\b")
    return first if dates.sum() > len(some) / 2 else None


def is_text(column: pd.Series) -> bool:
    """Whether a column holds texts or other objects, durations among them."""
    types = pd.api.types
    return (
        types.is_object_dtype(column)
        or types.is_string_dtype(column)
        or types.is_timedelta64_dtype(column)
        or isinstance(column.dtype, pd.CategoricalDtype)
    )


def with_starts(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with the start of each period, such as a month, in place of the period."""
    periods = [name for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.PeriodDtype)]
    return frame.assign(**{str(name): frame[name].dt.to_timestamp() for name in periods})


def require_no_time(frame: pd.DataFrame, names: Sequence[str], time: str | None, path: Path) -> list[str]:
    """Which of the columns of numbers `names` say the same as the time stamps in column `time`.

    Raises:
        DataError: another of them increases as Unix time or dates in digits do, or is called so.
    """
    same = []
    for name in names:
        numbers = whole_numbers(frame[name])
        if numbers is None or len(numbers) < 3 or not (numbers.diff().iloc[1:] > 0).all():
            continue
        formats = number_formats(numbers)
        if time is not None and formats and _agree(frame[time], numbers, formats):
            same.append(name)
        elif formats or (time is None and (_is_time(name) or _COUNTED.fullmatch(name.strip().lower()))):
            rule = "as Unix time or dates in digits do" if formats else "and has the name of a time"
            remedy = "name it as `time_column`" if formats else "write it as dates or as Unix time"
            other = "subtract its first value" if formats else "rename it"
            raise DataError(
                f"{path}: column `{name}` increases from row to row {rule}; row {frame.index[0]} holds "
                f"{numbers.iloc[0]}. If it is the time, {remedy}; if it is not, {other}, or name the "
                "columns to read as `targets` (or `columns`)."
            )
    return same


def _agree(time: pd.Series, numbers: pd.Series, formats: Sequence[str]) -> bool:
    """Whether numbers are the same dates as `time`, or those of another zone."""
    second, zone = pd.Timedelta(1, "s"), pd.Timedelta(15, "h")
    stamps = parse_dates(time, find_formats(time)[0])
    apart = [(stamps - parse_dates(numbers, form)).dropna() for form in formats]
    return any(len(gap) and gap.max() - gap.min() < second and abs(gap.iloc[0]) < zone for gap in apart)
