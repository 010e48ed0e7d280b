"""Columns made from what a series holds: the calendar, the age of carried values, and the time between rows.

Shapes: T rows, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.series import Series

_CYCLES: dict[str, Callable[[pd.DatetimeIndex], tuple[pd.Index, int]]] = {
    "minute": lambda time: (time.minute, 60),
    "hour": lambda time: (time.hour, 24),
    "weekday": lambda time: (time.day_of_week, 7),
    "day": lambda time: (time.day - 1, 31),
    "month": lambda time: (time.month - 1, 12),
}
CALENDAR = tuple(_CYCLES)
"""What can be asked of a time stamp."""


def calendar_columns(names: Sequence[str]) -> tuple[str, ...]:
    """The columns that `calendar` makes for each of `names`.

    Raises:
        ConfigError: a name that is not in `CALENDAR`, or given twice.
    """
    for name in names:
        if name not in CALENDAR:
            hint = nearest(str(name), CALENDAR)
            raise ConfigError(f"`calendar` must hold {', '.join(CALENDAR)}; got {name!r}. {hint}", key="calendar")
        if list(names).count(name) > 1:
            raise ConfigError(f"`calendar` must name each of its parts once; got {name!r} twice.", key="calendar")
    return tuple(f"{name}_{part}" for name in names for part in ("sin", "cos"))


def calendar(time: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Where in its cycles each time stamp of `time` (T,) lies: sin and cos of ``2 pi k / n`` for each of `names`, (T, 2 n).

    k counts from 0 within a cycle of n: 24 hours, 7 days from Monday, 31 days of a month, 12 months, 60 minutes.
    """
    index = pd.DatetimeIndex(time)
    values = []
    for name in names:
        place, length = _CYCLES[name](index)
        angle = 2 * np.pi * np.asarray(place, dtype=np.float64) / length
        values += [np.sin(angle), np.cos(angle)]
    return np.stack(values, axis=1)


def age(values: np.ndarray) -> np.ndarray:
    """How old the last known value of each column is at each row: a / (1 + a) after a rows, so 0 where it is known.

    Args:
        values: (T, D), NaN where a value is missing.

    Returns:
        (T, D) in [0, 1]; 1 before the first known value.
    """
    row = np.arange(len(values), dtype=np.float64)[:, None]
    seen = np.maximum.accumulate(np.where(np.isnan(values), -np.inf, row), axis=0)
    rows = row - seen
    return np.where(np.isinf(rows), 1.0, 1 - 1 / (1 + rows))


def with_calendar(series: Series, names: Sequence[str]) -> Series:
    """`series` with the columns of `calendar` after its own.

    Raises:
        DataError: its rows have no time stamps, or a column of its own has the name of one of these.
    """
    made = calendar_columns(names)
    if series.time is None:
        raise DataError(
            f"{series.source}: `calendar` needs time stamps and the rows have only numbers. Name the `time_column`, or "
            "leave `calendar` out."
        )
    if taken := set(made) & set(series.columns):
        raise DataError(f"{series.source}: column `{min(taken)}` has the name of a calendar column. Rename it.")
    values = np.concatenate([series.values, calendar(series.time, names)], axis=1)
    return replace(series, values=values, columns=(*series.columns, *made))


def continued(time: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The time stamps of `rows`; those after the last of `time` (T,) follow at the median distance."""
    step = np.median(np.diff(time).astype(np.int64)).astype("timedelta64[ns]")
    return time[np.minimum(rows, len(time) - 1)] + np.maximum(rows - len(time) + 1, 0) * step


def timespans(series: Series, train: slice) -> np.ndarray:
    """Time between each row and the one before, in units of the median step of the rows `train`, (T,); 1 for the first row.

    Raises:
        DataError: rows have no time stamps.
    """
    if series.time is None:
        raise DataError(
            f"{series.source}: `timespans` needs time stamps and the rows have only numbers. Name the `time_column`, "
            "or leave `timespans` out."
        )
    step = np.diff(series.time).astype(np.int64)
    return np.concatenate([[1.0], step / np.median(np.diff(series.time[train]).astype(np.int64))])
