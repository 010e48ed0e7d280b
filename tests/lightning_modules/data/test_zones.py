"""Zones of time stamps: which one they are written in, and the night in which the clock changes."""

from __future__ import annotations

from datetime import timedelta, timezone
from pathlib import Path

import dateutil.tz
import numpy as np
import pandas as pd
import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.data.dates import stamps_as
from lightning_modules.data.disk import convert
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.series import read_table

AUTUMN = pd.date_range("2024-10-26", periods=60, freq="h", tz="Europe/Berlin")


def frame(time: object) -> pd.DataFrame:
    return pd.DataFrame({"time": time, "load": np.arange(60.0)})


@pytest.mark.parametrize(
    ("time", "zone"),
    [
        (AUTUMN, "Europe/Berlin"),
        ([stamp.isoformat() for stamp in AUTUMN], "Europe/Berlin"),
        ([stamp.isoformat() for stamp in AUTUMN.tz_convert("America/St_Johns")], "UTC-02:30"),
        (AUTUMN.tz_convert("UTC").strftime("%Y-%m-%dT%H:%MZ"), "UTC"),
        (AUTUMN.tz_convert("+05:30").strftime("%d.%m.%Y %H:%M%z"), "UTC+05:30"),
        (AUTUMN.tz_convert(timezone(timedelta(hours=-3))), "UTC-03:00"),
        (np.array([stamp.to_pydatetime() for stamp in AUTUMN.tz_convert("UTC")], dtype=object), "UTC"),
        (AUTUMN.tz_convert(dateutil.tz.gettz("Europe/Berlin")), "Europe/Berlin"),
        ([stamp.tz_convert(f"+0{hour % 7}:00").isoformat() for hour, stamp in enumerate(AUTUMN)], "UTC"),
    ],
    ids=["dtype", "offsets", "one offset", "Z", "own format", "fixed dtype", "objects", "no name", "nowhere"],
)
def test_the_zone_that_stamps_are_written_in(time: object, zone: str) -> None:
    series = read_table(frame(time))
    assert series.zone == zone
    assert series.time is not None
    assert (series.time == AUTUMN.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[ns]")).all()


def test_stamps_without_a_zone_have_none() -> None:
    assert read_table(frame(AUTUMN.tz_convert(None))).zone is None
    days = pd.date_range("2024-01-01", periods=60)
    for form in ("%Y-%m-%d", "%d.%m.%Y", "%d-%m-%Y", "%Y-%m-%d %H:%M"):
        series = read_table(frame(days.strftime(form)))
        assert series.zone is None
        assert (series.time == days.to_numpy("datetime64[ns]")).all()
    assert read_table(frame(AUTUMN.as_unit("s").astype("int64"))).zone is None


def test_a_table_on_disk_has_the_zone_of_all_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(convert, "BLOCK", 300)
    frame([stamp.isoformat() for stamp in AUTUMN]).to_csv(tmp_path / "t.csv", index=False)
    for _ in range(2):
        series = stored_table(tmp_path / "t.csv")
        assert (series.zone, series.form) == ("Europe/Berlin", "ISO8601 with a zone")
        assert next(series.blocks(slice(0, 1))).zone == "Europe/Berlin"


def test_local_times_are_those_of_the_stated_place() -> None:
    summer = pd.date_range("2024-06-01", periods=60, freq="h")
    series = read_table(frame(summer), stamps=stamps_as(None, "Europe/Berlin"))
    assert series.time is not None
    assert (series.zone, series.time[0]) == ("Europe/Berlin", np.datetime64("2024-05-31T22:00"))
    moved = read_table(frame(AUTUMN), stamps=stamps_as(None, "America/New_York"))
    assert moved.time is not None
    assert (moved.zone, moved.time[0]) == ("America/New_York", np.datetime64("2024-10-25T22:00"))


@pytest.mark.parametrize("zone", ["Europe/Berlin", None])
@pytest.mark.parametrize("ending", ["Z", "+00:00", "+0000"])
@pytest.mark.parametrize("first", [0, 1])
def test_times_of_which_some_are_local_and_others_in_utc_are_refused(
    first: int, ending: str, zone: str | None
) -> None:
    hours = pd.date_range("2024-06-01", periods=60, freq="h").strftime("%Y-%m-%dT%H:%M")
    mixed = [f"{hour}{ending}" if row % 2 == first else hour for row, hour in enumerate(hours)]
    with pytest.raises(DataError, match=r"all with a zone or all without; row 0 holds .*, row 1 "):
        read_table(frame(mixed), stamps=stamps_as(None, zone))


@pytest.mark.parametrize("endings", [("", "Z"), ("Z", ""), ("", "+02:00"), ("+02:00", "")])
def test_so_are_they_in_blocks_of_a_table_on_disk(
    endings: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(convert, "BLOCK", 300)
    hours = pd.date_range("2024-06-01", periods=60, freq="h").strftime("%Y-%m-%dT%H:%M")
    frame([f"{hour}{endings[row > 30]}" for row, hour in enumerate(hours)]).to_csv(
        tmp_path / "t.csv", index=False
    )
    with pytest.raises(DataError, match="all with a zone or all without"):
        stored_table(tmp_path / "t.csv")


def test_a_local_time_that_comes_twice_is_refused_and_the_remedy_works() -> None:
    local = AUTUMN.strftime("%Y-%m-%d %H:%M")
    change = (
        r"2024-10-27 the clocks of Europe/Berlin were set back, from \+02:00 to \+01:00, and 02:00 came twice"
    )
    remedy = (
        r"Write all stamps with their offset, this one as 2024-10-27T02:00\+02:00 or 2024-10-27T02:00\+01:00"
    )
    with pytest.raises(DataError, match=rf"row 27 .*, for one, .*came twice\. {remedy}"):
        read_table(frame(local))
    with pytest.raises(DataError, match=rf"row 26 .*{change}\. {remedy}"):
        read_table(frame(local), stamps=stamps_as(None, "Europe/Berlin"))
    assert len(read_table(frame([f"{stamp:%Y-%m-%dT%H:%M%z}" for stamp in AUTUMN]))) == 60
    assert len(read_table(frame(AUTUMN.tz_convert("UTC").strftime("%Y-%m-%dT%H:%MZ")))) == 60


def test_quarters_of_an_hour_that_come_twice() -> None:
    quarters = pd.date_range("2024-11-02T20:00", periods=60, freq="15min", tz="America/New_York")
    with pytest.raises(DataError, match=r"row 24 .*clocks of America/New_York, for one, were set back"):
        read_table(frame(quarters.strftime("%Y-%m-%d %H:%M")))


def test_a_local_time_that_does_not_exist_is_refused() -> None:
    hours = pd.date_range("2024-03-30", periods=60, freq="h")
    change = r"on 2024-03-31 the clocks of Europe/Berlin were set forward, from \+01:00 to \+02:00, and 02:00"
    with pytest.raises(DataError, match=rf"row 26 .*{change} did not exist"):
        read_table(frame(hours), stamps=stamps_as(None, "Europe/Berlin"))
    assert read_table(frame(hours)).zone is None


def test_a_row_that_is_there_twice_is_no_change_of_the_clock() -> None:
    hours = pd.date_range("2024-06-01", periods=59, freq="h")
    with pytest.raises(DataError, match=r"repeats the one before\. Sort the rows"):
        read_table(frame([*hours[:20], hours[19], *hours[20:]]))


def test_unknown_zones_and_formats_are_refused() -> None:
    for zone in ("Berlin", "Europe/Nowhere", "", 3):
        with pytest.raises(ConfigError, match="`zone` must be the name of a zone"):
            stamps_as(None, zone)  # type: ignore[arg-type]
    for form in ("dd.mm.yyyy", "unix minutes", 3):
        with pytest.raises(ConfigError, match=r"`time_format` must be a format such as %d.%m.%Y"):
            stamps_as(form)  # type: ignore[arg-type]
