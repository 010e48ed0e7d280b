"""Columns made from time stamps and gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.data.columns import (
    age,
    calendar,
    calendar_columns,
    continued,
    rows_since,
    timespans,
    with_calendar,
)
from lightning_modules.data.series import Series


def series(time: np.ndarray | None, columns: tuple[str, ...] = ("a",)) -> Series:
    rows = 4 if time is None else len(time)
    return Series(np.arange(float(rows * len(columns))).reshape(rows, -1), columns, time, "here")


def hours(*numbers: float) -> np.ndarray:
    return (
        np.datetime64("2024-01-01", "ns") + np.array(numbers) * 3600 * 10**9 * np.timedelta64(1, "ns")
    ).astype("datetime64[ns]")


def test_calendar_goes_round() -> None:
    time = pd.to_datetime(["2024-01-01 06:30", "2024-07-07 18:00"]).to_numpy()  # a Monday, a Sunday
    values = calendar(time, ["minute", "hour", "weekday", "day", "month"])
    turns = np.array([[30 / 60, 6 / 24, 0, 0, 0], [0, 18 / 24, 6 / 7, 6 / 31, 6 / 12]])
    np.testing.assert_allclose(values[:, ::2], np.sin(2 * np.pi * turns), atol=1e-12)
    np.testing.assert_allclose(values[:, 1::2], np.cos(2 * np.pi * turns), atol=1e-12)


def test_calendar_columns_come_last() -> None:
    made = with_calendar(series(hours(0, 1, 2)), ["hour"])
    assert made.columns == ("a", "hour_sin", "hour_cos") == ("a", *calendar_columns(["hour"]))
    np.testing.assert_array_equal(made.values[:, 0], [0, 1, 2])
    np.testing.assert_allclose(made.values[:, 1:], calendar(hours(0, 1, 2), ["hour"]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["hours"],
            r"`calendar` must hold minute, hour, weekday, day, month; got 'hours'\. Did you mean `hour`",
        ),
        (["day", "day"], r"`calendar` must name each of its parts once; got 'day' twice"),
    ],
)
def test_calendar_refuses_other_names(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calendar_columns(names)


def test_calendar_needs_time_stamps_and_free_names() -> None:
    with pytest.raises(
        DataError, match="`calendar` and `holidays` need time stamps and the rows have only numbers"
    ):
        with_calendar(series(None), ["hour"])
    with pytest.raises(DataError, match=r"column `hour_cos` has the name of a calendar column. Rename it"):
        with_calendar(series(hours(0, 1), ("a", "hour_cos")), ["hour"])


def test_age_counts_rows_since_the_last_value_and_looks_back_only() -> None:
    gap = np.nan
    values = np.array([[gap, 1], [2, gap], [gap, gap], [gap, 4]])
    np.testing.assert_allclose(age(rows_since(values)), [[1, 0], [0, 1 / 2], [1 / 2, 2 / 3], [2 / 3, 0]])
    for row in range(4):
        before = rows_since(values[: row + 1])
        np.testing.assert_array_equal(rows_since(values)[: row + 1], before)
        np.testing.assert_array_equal(
            rows_since(values)[row + 1 :], rows_since(values[row + 1 :], before[-1])
        )


def test_timespans_are_in_steps() -> None:
    time = hours(0, 2, 4, 5, 6)
    assert timespans(time, None, 2 * 3600e9).tolist() == [1, 1, 1, 0.5, 0.5]
    assert timespans(time[2:], time[1], 3600e9).tolist() == [2, 1, 1]


def test_time_goes_on_at_a_given_step() -> None:
    rows = np.array([1, 3, 4, 6])
    assert continued(hours(0, 2, 4, 5), rows, 2 * 3600e9).tolist() == hours(2, 5, 7, 11).tolist()
