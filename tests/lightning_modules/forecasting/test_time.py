"""Time stamps of forecasts: by the calendar, in their zone, and read as the run read its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig
from dream.errors import ConfigError, DataError
from lightning_modules import ForecastingModule
from lightning_modules.data.columns import calendar
from lightning_modules.forecasting import TableData
from lightning_modules.forecasting.backtest import Backtest
from lightning_modules.online import TableStream
from lightning_modules.tables import csv_text
from tests.lightning_modules.support import small_trainer

ROWS, HORIZON = 200, 6


def frame(time: Any, rows: int = ROWS) -> pd.DataFrame:
    return pd.DataFrame({"time": time, "load": 10 + np.sin(np.arange(rows) / 2)})


def table(time: Any, rows: int = ROWS, **options: Any) -> TableData:
    return TableData.of(frame(time, rows), **{"look_back": 24, "horizon": HORIZON} | options)


def ahead(data: TableData) -> list[pd.Timestamp]:
    return pd.DatetimeIndex(data.future_times(len(data.series))).tolist()


@pytest.mark.parametrize("frequency", ["ME", "MS", "QS", "W-MON", "B", "h", "15min", "28D"])
@pytest.mark.parametrize("stated", [False, True])
def test_stamps_and_the_calendar_go_on_into_the_horizon(frequency: str, stated: bool) -> None:
    time = pd.date_range("2000-01-31", periods=ROWS, freq=frequency)
    expected = pd.date_range(time[-1], periods=HORIZON + 1, freq=frequency)[1:]
    options = {"frequency": frequency} if stated else {}
    data = table(time, calendar=["month", "weekday"], **options)
    assert ahead(data) == expected.tolist()
    assert data.schema.frequency == (frequency if stated else data.clock.frequency)
    known = data.prepared.tables.known
    assert known is not None
    places = slice(1, 5)
    np.testing.assert_allclose(
        data.scaler.inverse(known[ROWS:].double(), places),
        calendar(expected.to_numpy(), ["month", "weekday"]),
        atol=1e-6,
    )


def test_a_file_of_a_few_days_goes_on_as_the_run_did() -> None:
    run = table(pd.date_range("2024-01-01", periods=ROWS, freq="B"), look_back=4)
    week = table(pd.date_range("2025-03-03", periods=5, freq="D"), rows=5, look_back=4)
    week.follow(run.schema)
    assert ahead(week)[:2] == [pd.Timestamp("2025-03-10"), pd.Timestamp("2025-03-11")]
    other = table(pd.date_range("2025-03-03", periods=5), rows=5, look_back=4, frequency="D")
    with pytest.raises(DataError, match="`frequency` must be B, as in the training of the checkpoint; got D"):
        other.follow(run.schema)


def test_quarters_from_february_go_on_from_february() -> None:
    run = table(pd.date_range("1960-01-01", periods=ROWS, freq="QS-JAN"), look_back=8)
    other = table(pd.date_range("2020-02-01", periods=9, freq="QS-FEB"), rows=9, look_back=8)
    other.follow(run.schema)
    assert ahead(other)[:2] == [pd.Timestamp("2022-05-01"), pd.Timestamp("2022-08-01")]


def test_a_frequency_needs_stamps_that_fit() -> None:
    days = pd.date_range("2024-01-01", periods=ROWS, freq="D")
    with pytest.raises(DataError, match=r"fit the frequency B .* The stamps fit D"):
        _ = table(days, frequency="B").clock
    with pytest.raises(DataError, match="`frequency` needs time stamps"):
        _ = TableData.of(frame(days)[["load"]], look_back=24, horizon=6, frequency="D").clock
    with pytest.raises(ConfigError, match="alias of pandas"):
        table(days, frequency="fortnightly")


def test_an_uneven_grid_is_told_and_served_by_timespans(caplog: pytest.LogCaptureFixture) -> None:
    time = pd.date_range("2024-01-01", periods=ROWS + 740, freq="h")
    time = time.delete(np.r_[50:770, 800:820])
    data = table(time)
    data.setup("fit")
    said = "uneven: 2 gaps, the longest 720 hours"
    assert f"the time stamps are {said}. `--data.timespans=true`" in caplog.text
    assert dict(data.describe())["time"] == f"2024-01-01T00:00:00 to 2024-02-09T03:00:00, h, {said}"
    caplog.clear()
    served = table(time, timespans=True)
    served.setup("fit")
    assert "uneven" not in caplog.text
    spans = served.prepared.tables.timespans
    assert spans is not None
    assert spans[[49, 50, 51, 80]].tolist() == [1, 721, 1, 21]
    spring = pd.date_range("2024-03-28", periods=ROWS, freq="h", tz="Europe/Berlin")
    table(spring.strftime("%Y-%m-%d %H:%M")).setup("fit")
    assert (
        "are uneven: 1 gap of 1 hour, as those of local times are: on 2024-03-31 the clocks of" in caplog.text
    )
    caplog.clear()
    table([stamp.isoformat() for stamp in spring]).setup("fit")
    even = table(pd.date_range("2024-01-01", periods=ROWS, freq="h"))
    with caplog.at_level(logging.WARNING):
        even.setup("fit")
    assert caplog.text == ""


@pytest.mark.parametrize("trained", ["naive", "UTC"])
def test_stamps_with_a_zone_where_the_training_had_none_are_told(
    trained: str, caplog: pytest.LogCaptureFixture
) -> None:
    hours = pd.date_range("2024-01-01", periods=ROWS, freq="h")
    kinds = {"naive": hours.strftime("%Y-%m-%d %H:%M"), "UTC": hours.strftime("%Y-%m-%dT%H:%MZ")}
    first = table(kinds.pop(trained))
    other = table(*kinds.values())
    other.follow(first.schema)
    with caplog.at_level(logging.WARNING):
        assert other.clock.frequency == "h"
    said = {
        "naive": "are in UTC, those of the training were without a zone; hours and dates are read as they "
        "stand. State the place whose clock those showed as `data.zone`.",
        "UTC": "are without a zone, those of the training were in UTC; hours and dates are read as they "
        "stand. Write them with their zone, or state it as `data.zone`.",
    }
    assert said[trained] in caplog.text
    caplog.clear()
    same = table(
        kinds.get(trained, hours.strftime("%Y-%m-%d %H:%M" if trained == "naive" else "%Y-%m-%dT%H:%MZ"))
    )
    same.follow(first.schema)
    assert same.clock.frequency == "h"
    assert caplog.text == ""


class TestZones:
    LOCAL = pd.date_range("2024-10-05", "2024-11-10", freq="h", tz="Europe/Berlin")

    @staticmethod
    def forecast(time: Any, folder: Path, **options: Any) -> tuple[pd.DataFrame, TableData]:
        torch.manual_seed(0)
        data = table(time, len(time), look_back=48, horizon=12, **options)
        module = ForecastingModule.for_data(data, config=DREAMConfig(hidden_dim=8, rank=2))
        trainer = small_trainer(folder, max_epochs=-1, max_steps=3, limit_val_batches=0)
        trainer.fit(module, data)
        predictions = trainer.predict(module, data)
        assert predictions is not None
        return module.prediction_table(predictions), data  # type: ignore[arg-type]

    def test_offsets_names_and_utc_give_the_same_forecasts(self, tmp_path: Path) -> None:
        local, place = self.LOCAL, {"zone": "Europe/Berlin"}
        expected = pd.date_range(local[-1], periods=13, freq="h")[1:]
        utc = local.tz_convert("UTC").strftime("%Y-%m-%dT%H:%MZ")
        offsets = [stamp.isoformat() for stamp in local]
        first, data = self.forecast(offsets, tmp_path, calendar=["hour"])
        assert first["time"].tolist() == expected.tolist()
        assert csv_text(first).splitlines()[1].startswith("2024-11-10 01:00:00+01:00,")
        assert (data.schema.zone, data.schema.time_format) == ("Europe/Berlin", "ISO8601 with a zone")
        assert dict(data.describe())["time"].startswith(
            "2024-10-05T00:00:00+02:00 to 2024-11-10T00:00:00+01:00"
        )
        hour = data.values_of(slice(0, 1)).shape[1]
        inputs = data.scaler.inverse(data.prepared.values.double())
        np.testing.assert_allclose(
            inputs[:, hour], np.sin(2 * np.pi * np.asarray(local.hour) / 24), atol=1e-6
        )
        for other in (local, utc):
            again, _ = self.forecast(other, tmp_path, calendar=["hour"], **place)
            pd.testing.assert_frame_equal(again, first)
        plain, _ = self.forecast(offsets, tmp_path)
        in_utc, _ = self.forecast(utc, tmp_path)
        assert in_utc["load"].tolist() == plain["load"].tolist()
        assert str(in_utc["time"].iloc[0]) == "2024-11-10 00:00:00+00:00"

    def test_a_run_reads_other_files_in_its_place(self) -> None:
        run = table(self.LOCAL, len(self.LOCAL), calendar=["hour"])
        for time in (self.LOCAL.tz_convert("UTC"), self.LOCAL.tz_convert("Asia/Tokyo")):
            other = table(time, len(time), calendar=["hour"])
            other.follow(run.schema)
            assert torch.equal(other.prepared.values, run.prepared.values)
            assert other.clock == run.clock

    def test_a_table_on_disk_is_read_alike(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
        path, options = tmp_path / "t.csv", {"look_back": 24, "horizon": 12, "calendar": ["hour"]}
        frame([stamp.isoformat() for stamp in self.LOCAL], len(self.LOCAL)).to_csv(path, index=False)
        inside, disk = (TableData(str(path), mapped=mapped, **options) for mapped in (False, True))
        assert disk.clock == inside.clock == ("h", "Europe/Berlin")
        assert disk.schema == inside.schema
        assert torch.equal(disk.prepared.values, inside.prepared.values)
        known, expected = disk.prepared.tables.known, inside.prepared.tables.known
        assert known is not None
        assert expected is not None
        assert torch.equal(known, expected)

    def test_the_dates_of_a_split_are_local(self) -> None:
        data = table(self.LOCAL, len(self.LOCAL), split=["2024-10-30", "2024-11-05"])
        assert [self.LOCAL[part.start] for part in data.parts[1:]] == [
            pd.Timestamp("2024-10-30", tz="Europe/Berlin"),
            pd.Timestamp("2024-11-05", tz="Europe/Berlin"),
        ]


class TestSeasons:
    @pytest.mark.parametrize(
        ("frequency", "season"), [("h", 24), ("15min", 24 * 4), ("D", 7), ("B", 5), ("ME", 12), ("QS", 4)]
    )
    def test_the_default_is_that_of_the_frequency(self, frequency: str, season: int) -> None:
        data = table(pd.date_range("2000-01-31", periods=400, freq=frequency), 400)
        assert (data.seasons, data.shape.season, data.schema.settings["season"]) == (
            (season,),
            season,
            season,
        )

    def test_the_default_fits_what_is_given(self) -> None:
        assert table(pd.date_range("2024-01-01", periods=100, freq="W-MON"), 100).seasons == (1,)
        assert TableData.of(np.arange(200.0), look_back=24, horizon=6).seasons == (24,)
        assert TableData.of(np.arange(60.0), look_back=24, horizon=6).seasons == (1,)

    def test_each_of_several_has_its_naive_forecast(self) -> None:
        hours = pd.date_range("2024-01-01", periods=600, freq="h")
        day, both = (table(hours, 600, look_back=168, season=season) for season in (24, [24, 168]))
        assert both.schema.settings["season"] == [24, 168]
        assert torch.equal(both.mase_scale, day.mase_scale)
        naive = Backtest(both, [], torch.device("cpu")).naive
        assert list(naive) == ["repeat-last", "seasonal-naive", "seasonal-naive 168"]
        past = both.prepared.tables.targets[None, :168]
        assert torch.equal(naive["seasonal-naive 168"](past), past[:, :HORIZON])
        assert torch.equal(naive["seasonal-naive"](past), past[:, 144 : 144 + HORIZON])

    def test_the_run_remembers_its_seasons(self) -> None:
        hours = pd.date_range("2024-01-01", periods=600, freq="h")
        run, other = (table(hours, 600, season=season) for season in ([24, 168], None))
        other.follow(run.schema)
        assert other.seasons == (24, 168)
        with pytest.raises(DataError, match=r"`season` must be \[24, 168\]"):
            table(hours, 600, season=24).follow(run.schema)
        for wrong in ([], [24, 0], 0, "24"):
            with pytest.raises(ConfigError, match="`season` must be"):
                table(hours, 600, season=wrong)


class TestFormats:
    DAYS = pd.date_range("2024-01-01", periods=ROWS, freq="D")
    MONTHS = pd.date_range("2008-01-01", periods=ROWS, freq="MS")

    def test_with_dots_the_day_comes_first(self) -> None:
        data = table(self.MONTHS.strftime("%d.%m.%Y"))
        assert (data.whole.form, data.clock.frequency) == ("%d.%m.%Y", "MS")
        assert data.whole.time is not None
        assert data.whole.time[1] == np.datetime64("2008-02-01")
        assert table(self.DAYS.strftime("%m.%d.%Y")).whole.form == "%m.%d.%Y"  # no other reading

    def test_the_format_that_is_stated_decides(self) -> None:
        ambiguous = self.MONTHS[:12].strftime("%m/%d/%Y")
        with pytest.raises(DataError, match=r"two ways.* State which as `time_format`"):
            _ = table(ambiguous, 12).whole
        for form, first in (("%m/%d/%Y", "2008-02-01"), ("%d/%m/%Y", "2008-01-02")):
            time = table(ambiguous, 12, time_format=form).whole.time
            assert time is not None
            assert time[1] == np.datetime64(first)
        assert table(self.DAYS.strftime("%Y|%j"), time_format="%Y|%j").clock.frequency == "D"
        assert table(np.arange(1801, 2001), time_format="%Y").clock.frequency == "YS-JAN"
        with pytest.raises(DataError, match=r"row 0 holds '2024-01-01'"):
            _ = table(self.DAYS.strftime("%Y-%m-%d"), time_format="%d.%m.%Y", time_column="time").whole

    def test_the_run_remembers_its_format(self) -> None:
        run = table(self.DAYS.strftime("%m/%d/%Y"))
        later = table(pd.date_range("2025-02-01", periods=12).strftime("%m/%d/%Y"), 12, look_back=8)
        assert run.schema.time_format == "%m/%d/%Y"
        later.follow(run.schema)
        assert ahead(later)[0] == pd.Timestamp("2025-02-13")
        written_otherwise = table(pd.date_range("2025-02-01", periods=12), 12, look_back=8)
        written_otherwise.follow(run.schema)
        assert ahead(written_otherwise)[0] == pd.Timestamp("2025-02-13")


@pytest.mark.parametrize("rows", [100, 172, 223, 230])
def test_a_table_that_is_too_short_is_told_how_long_it_must_be(rows: int) -> None:
    with pytest.raises(DataError, match="A table of") as refused:
        _ = TableData.of(np.arange(float(rows)), look_back=96, horizon=24).parts
    enough = int(str(refused.value).partition("A table of ")[2].split()[0])
    assert enough == (231 if rows == 230 else 224)
    _ = TableData.of(np.arange(float(enough)), look_back=96, horizon=24).parts


def test_a_stream_goes_on_by_its_calendar() -> None:
    time = pd.date_range("2000-01-31", periods=ROWS, freq="ME", tz="Europe/Berlin")
    data = TableStream.of(frame(time), horizon=3, crop=20, context=4)
    expected = pd.date_range(time[-1], periods=4, freq="ME")[1:]
    later = pd.DatetimeIndex(data.times(ROWS + np.arange(3)), tz="UTC").tz_convert("Europe/Berlin")
    assert later.tolist() == expected.tolist()
    assert (data.schema.frequency, data.schema.zone, data.shape.season) == ("ME", "Europe/Berlin", 12)
    other = TableStream.of(frame(time)[["load"]], horizon=3, crop=20, context=4)
    assert other.shape.season == 1
    other.follow(data.schema)
    assert other.shape.season == 12
    with pytest.raises(DataError, match="The stamps fit ME"):
        _ = TableStream.of(frame(time), horizon=3, crop=20, context=4, frequency="W-MON").clock
