"""Columns made from those of a series: calendar, age of carried values, past values, time between rows.

Shapes: T rows, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.frequency import UNTIMED, Clock, following, wall
from lightning_modules.data.holidays import PREFIX, holidays_at
from lightning_modules.data.series import Series

_CYCLES: dict[str, Callable[[pd.DatetimeIndex], tuple[pd.Index, int]]] = {
    "minute": lambda time: (time.minute, 60),
    "hour": lambda time: (time.hour, 24),
    "weekday": lambda time: (time.day_of_week, 7),
    "day": lambda time: (time.day - 1, 31),
    "month": lambda time: (time.month - 1, 12),
}
CALENDAR = tuple(_CYCLES)
"""Names of the calendar's parts."""


def calendar_columns(names: Sequence[str]) -> tuple[str, ...]:
    """The columns that `calendar` makes for each of `names`.

    Raises:
        ConfigError: a name that is not in `CALENDAR`, or given twice.
    """
    for name in names:
        if name not in CALENDAR and not name.startswith(PREFIX):
            hint = nearest(str(name), CALENDAR)
            raise ConfigError(
                f"`calendar` must hold {', '.join(CALENDAR)}; got {name!r}. {hint}", key="calendar"
            )
        if list(names).count(name) > 1:
            raise ConfigError(
                f"`calendar` must name each of its parts once; got {name!r} twice.", key="calendar"
            )
    made = (
        [f"holiday_{n.removeprefix(PREFIX)}"] if n.startswith(PREFIX) else [f"{n}_sin", f"{n}_cos"]
        for n in names
    )
    return tuple(name for each in made for name in each)


def calendar(time: np.ndarray, names: Sequence[str], zone: str | None = None) -> np.ndarray:
    """Phases of each time stamp of `time` (T,): sin and cos of ``2 pi k / n`` for each of `names`, in local
    time.

    k counts from 0 within a cycle of n: 24 hours, 7 days from Monday, 31 days of a month, 12 months, 60
    minutes. Of the holidays of a place (`holiday_name`) there is one column, 1 on such a day.

    Returns:
        (T, columns of `calendar_columns`).
    """
    index = wall(time, zone)
    values = []
    for name in names:
        if name.startswith(PREFIX):
            values.append(holidays_at(index, name))
            continue
        place, length = _CYCLES[name](index)
        angle = 2 * np.pi * np.asarray(place, dtype=np.float64) / length
        values += [np.sin(angle), np.cos(angle)]
    return np.stack(values, axis=1)


def rows_since(values: np.ndarray, before: np.ndarray | float = np.inf) -> np.ndarray:
    """Rows since each column was last known, at each row: 0 where it is known, infinite where it never was.

    Args:
        values: (T, D), NaN where a value is missing.
        before: (D,) the result for the row before the first.

    Returns:
        (T, D) float64.
    """
    row = np.arange(len(values), dtype=np.float64)[:, None]
    seen = np.where(np.isnan(values), -np.inf, row)
    return row - np.maximum(np.maximum.accumulate(seen, axis=0), -1 - np.asarray(before))


def age(since: np.ndarray) -> np.ndarray:
    """Age of a value last known `since` rows ago, ``since / (1 + since)``: 0 if known now, 1 if never."""
    return np.where(np.isinf(since), 1.0, 1 - 1 / (1 + since))


def with_calendar(series: Series, names: Sequence[str]) -> Series:
    """`series` with the columns of `calendar` after its own.

    Raises:
        DataError: its rows have no time stamps, or one of its columns has the name of a calendar column.
    """
    made = calendar_columns(names)
    if series.time is None:
        raise DataError(
            f"{series.source}: `calendar` and `holidays` need time stamps and the rows have only numbers. "
            "Name the `time_column`, or leave them out."
        )
    if taken := set(made) & set(series.columns):
        raise DataError(
            f"{series.source}: column `{min(taken)}` has the name of a calendar column. Rename it."
        )
    values = np.concatenate([series.values, calendar(series.time, names, series.zone)], axis=1)
    return replace(series, values=values, columns=(*series.columns, *made))


def require_lags(lags: int, columns: Sequence[str]) -> None:
    """Refuse more than the present value of each row for other than a single column.

    Raises:
        ConfigError: naming the columns.
    """
    if lags > 1 and len(columns) != 1:
        raise ConfigError(
            f"`lags` must be 1 for several columns; got {lags} for {', '.join(columns)}. Read one column, or "
            "leave `lags` out.",
            key="lags",
        )


def lag_columns(column: str, lags: int) -> tuple[str, ...]:
    """Names of the columns that `lagged` adds to `column`."""
    return tuple(f"{column}_lag{lag}" for lag in range(1, lags))


def lagged(values: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The last values of a single column at each row: ``x_(t-1), ..., x_(t-m)``.

    Args:
        values: (N, T, 1).
        before: (N, m, 1) the rows before the first.

    Returns:
        (N, T, m), newest first, and the rows before the next ones, (N, m, 1).
    """
    line = torch.cat([before, values], 1)
    past = line.unfold(1, before.shape[1], 1)[:, :-1].flip(-1).squeeze(2)
    return past, line[:, values.shape[1] :]


def continued(time: np.ndarray, rows: np.ndarray, step: float, clock: Clock = UNTIMED) -> np.ndarray:
    """Time stamps of `rows`; those after the last of `time` (T,) follow by the frequency of `clock`.

    Without a frequency they follow every `step` nanoseconds.
    """
    after = np.maximum(rows - len(time) + 1, 0)
    if clock.frequency is not None and after.any():
        later = np.concatenate([time[-1:], following(time[-1], int(after.max()), clock)])
        return np.where(after > 0, later[after], time[np.minimum(rows, len(time) - 1)])
    return time[np.minimum(rows, len(time) - 1)] + after * np.timedelta64(int(step), "ns")


def timespans(time: np.ndarray, before: np.datetime64 | None, step: float) -> np.ndarray:
    """Time between each row and the one before, in units of `step` nanoseconds, (T,).

    The row before the first of `time` has the stamp `before`; without it the first time is 1.
    """
    spans = np.diff(time, prepend=time[:1] if before is None else before).astype(np.int64) / step
    if before is None:
        spans[:1] = 1.0
    return spans
