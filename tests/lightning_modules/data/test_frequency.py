"""Frequencies of time stamps: found, gone on with as pandas does, and what is uneven."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.data.frequency import (
    Clock,
    find_frequency,
    following,
    parse_frequency,
    require_frequency,
    season_of,
    span,
    unevenness,
    zoned,
)

HORIZON = 30
SEASONS = {
    "ME": 12,
    "MS": 12,
    "BME": 12,
    "2ME": 6,
    "QS": 4,
    "QE": 4,
    "YE": 1,
    "W-MON": 52,
    "28D": 13,
    "B": 5,
    "D": 7,
    "h": 24,
    "15min": 96,
    "36h": None,
}


def stamps(frequency: str, zone: str | None, first: str = "2024-01-05", rows: int = 70) -> pd.DatetimeIndex:
    return pd.date_range(first, periods=rows, freq=frequency, tz=zone)


def utc(index: pd.DatetimeIndex) -> np.ndarray:
    local = index if index.tz is None else index.tz_convert("UTC").tz_localize(None)
    return local.to_numpy("datetime64[ns]")


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("frequency", SEASONS)
def test_stamps_go_on_as_those_of_pandas(frequency: str, zone: str | None) -> None:
    index = stamps(frequency, zone)
    expected = pd.date_range(index[-1], periods=HORIZON + 1, freq=frequency)[1:]
    found = find_frequency(utc(index), zone)
    for name in (found, frequency):
        later = zoned(following(utc(index)[-1], HORIZON, Clock(name, zone)), zone)
        assert later.tolist() == expected.tolist()
    assert season_of(found) == season_of(frequency) == SEASONS[frequency]
    assert unevenness(utc(index), Clock(found, zone)) is None


@pytest.mark.parametrize("frequency", SEASONS)
def test_absent_rows_do_not_hide_the_frequency(frequency: str) -> None:
    whole = utc(stamps(frequency, None))
    time = np.delete(whole, [20, 21, 40])
    found = find_frequency(time)
    assert found == find_frequency(whole)
    assert str(unevenness(time, Clock(found))).startswith("uneven: 2 gaps, the longest ")


@pytest.mark.parametrize("frequency", ["h", "D", "15min"])
def test_a_change_of_the_clock_is_no_gap(frequency: str) -> None:
    zone = "Europe/Berlin"
    index = pd.date_range("2024-10-20", "2024-11-03", freq=frequency, tz=zone)
    clock = Clock(find_frequency(utc(index), zone), zone)
    assert (clock.frequency, unevenness(utc(index), clock)) == (frequency, None)
    before = index[index < pd.Timestamp("2024-10-26T12:00", tz=zone)]
    later = zoned(following(utc(before)[-1], len(index) - len(before), clock), zone)
    assert later.tolist() == index[len(before) :].tolist()


def test_a_local_time_that_does_not_exist_is_the_next_one() -> None:
    last = np.datetime64("2024-03-30T01:30", "ns")  # 02:30 in Berlin
    later = zoned(following(last, 2, Clock("D", "Europe/Berlin")), "Europe/Berlin")
    assert [stamp.isoformat() for stamp in later] == [
        "2024-03-31T03:00:00+02:00",
        "2024-04-01T02:30:00+02:00",
    ]


def test_a_day_of_each_month_stays_that_day() -> None:
    index = stamps("MS", None, "2020-01-01") + pd.Timedelta("14D12h")
    assert find_frequency(utc(index)) == "MS"
    later = pd.DatetimeIndex(following(utc(index)[-1], 3, Clock("MS")))
    assert later.tolist() == (index[-1] + pd.DateOffset(months=1) * np.arange(1, 4)).tolist()


def test_a_day_that_a_month_lacks_is_its_last() -> None:
    index = pd.DatetimeIndex([pd.Timestamp("2022-03-30 06:00") + pd.DateOffset(months=n) for n in range(11)])
    expected = [pd.Timestamp("2022-03-30 06:00") + pd.DateOffset(months=n) for n in range(11, 26)]
    later = following(utc(index)[-1], 15, Clock(find_frequency(utc(index))))
    assert pd.DatetimeIndex(later).tolist() == expected


@pytest.mark.parametrize(
    ("frequency", "rows"), [("24h", 7), ("48h", None), ("168h", 52), ("5B", 52), ("7B", None)]
)
def test_days_that_are_told_in_hours_have_the_season_of_days(frequency: str, rows: int | None) -> None:
    assert season_of(frequency) == rows


def test_days_of_utc_have_a_week_by_the_clock_of_another_place() -> None:
    found = find_frequency(utc(stamps("D", None, "2024-03-01")), "Europe/Berlin")
    assert (found, season_of(found)) == ("24h", 7)


def test_gaps_are_counted_and_the_longest_is_told() -> None:
    hours = utc(stamps("h", None, rows=4000))
    time = np.delete(hours, np.r_[100:820, 2000:2100])
    assert unevenness(time, Clock("h")) == "uneven: 2 gaps, the longest 720 hours"
    days = np.delete(utc(stamps("B", None)), [31])
    assert unevenness(days, Clock("B")) == "uneven: 1 gap of 1 day"
    drifting = hours[:500] + (np.arange(500) % 3).astype("timedelta64[m]")
    assert find_frequency(drifting) is None
    assert unevenness(drifting, Clock()) is None  # a minute in an hour
    random = hours[0] + np.cumsum(np.tile([1, 9, 5, 6], 50)).astype("timedelta64[m]")
    assert unevenness(random, Clock()) == "uneven: steps of 1 minute to 9 minutes"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3600, "1 hour"),
        (720 * 3600, "720 hours"),
        (5400, "90 minutes"),
        (496.441237, "8.27 minutes"),
        (0.25, "250 ms"),
        (0.0000014, "1.4 us"),
    ],
)
def test_times_in_words(seconds: float, said: str) -> None:
    assert span(round(seconds * 1e9)) == said


def test_a_frequency_that_is_none_or_does_not_fit_is_refused() -> None:
    for name in ("fortnight", "", "-1h", 3):
        with pytest.raises(ConfigError, match="`frequency` must be an alias of pandas"):
            parse_frequency(name)  # type: ignore[arg-type]
    days = utc(stamps("D", None))
    with pytest.raises(
        DataError, match=r"frequency B .*row 1, 2024-01-06 00:00:00, does not. The stamps fit D"
    ):
        require_frequency(days, Clock("B"), "x.csv")
    require_frequency(days, Clock("D"), "x.csv")
    with pytest.raises(DataError, match="must end by 2261"):
        following(np.datetime64("2261-12-31", "ns"), 5, Clock("YE"))


@pytest.mark.parametrize("frequency", ["2B", "3B", "4B", "bh", "WOM-2FRI"])
@pytest.mark.parametrize("gaps", [[], [10, 11, 40]])
def test_business_days_and_hours(frequency: str, gaps: list[int]) -> None:
    """Every second business day is no every second day with a gap at each weekend."""
    time = np.delete(utc(pd.date_range("2020-01-01", periods=80, freq=frequency)), gaps)
    assert find_frequency(time) == frequency
    assert str(unevenness(time, Clock(frequency))).startswith("uneven: 2 gaps" if gaps else "None")


@pytest.mark.parametrize(
    ("frequency", "rows"), [("bh", 8), ("2bh", 4), ("3bh", None), ("WOM-2FRI", 12), ("LWOM-MON", 12)]
)
def test_seasons_of_business_hours_and_of_weeks_of_a_month(frequency: str, rows: int | None) -> None:
    assert season_of(frequency) == rows


def test_a_row_beside_the_calendar_after_those_that_decide_is_said() -> None:
    """A frequency is looked for in the first 8,192 rows."""
    time = utc(pd.date_range("1980-01-01", periods=9000, freq="D"))
    time[8500] += np.timedelta64(5, "h")
    assert find_frequency(time) == "D"
    said = "uneven: 1 row lies beside the frequency D, the first at 2003-04-10 05:00:00"
    assert unevenness(time, Clock("D")) == said
    time[8600] += np.timedelta64(5, "h")
    assert unevenness(time, Clock("D")) == said.replace("1 row lies", "2 rows lie")
