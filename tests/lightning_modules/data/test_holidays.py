"""Public holidays as a known covariate that reaches into the horizon."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.data.columns import calendar, calendar_columns
from lightning_modules.data.holidays import holiday_name
from lightning_modules.forecasting import TableData

pytest.importorskip("holidays")
DAYS = pd.date_range("2024-01-01", "2024-12-23", freq="D")


def data(days: pd.DatetimeIndex = DAYS, **options: object) -> TableData:
    frame = pd.DataFrame({"time": days, "load": np.sin(np.arange(len(days)))})
    settings = dict(look_back=14, horizon=10, holidays="DE", calendar=["weekday"], targets=["load"])
    return TableData.of(frame, **settings | options)


def test_the_horizon_knows_its_holidays() -> None:
    forecast = data()
    assert forecast.columns == ("load", "weekday_sin", "weekday_cos", "holiday_DE")
    assert (forecast.shape.known, forecast.shape.calendar) == (3, 3)
    (batch,) = forecast.predict_dataloader()
    mean, scale = forecast.scaler.mean[-1], forecast.scaler.scale[-1]
    found = (batch.known[0, :, -1].numpy() * scale + mean).round().astype(int)
    ahead = pd.DatetimeIndex(forecast.future_times(len(DAYS)))
    assert dict(zip(ahead.strftime("%d.%m."), found.tolist(), strict=True)) == {
        "24.12.": 0,
        "25.12.": 1,
        "26.12.": 1,
        **{f"{day}.12.": 0 for day in range(27, 32)},
        "01.01.": 1,
        "02.01.": 0,
    }
    past = calendar(DAYS.to_numpy(), [holiday_name("DE")])[:, 0]
    on = DAYS[past == 1].strftime("%d.%m.").tolist()
    assert on == ["01.01.", "29.03.", "01.04.", "01.05.", "09.05.", "20.05.", "03.10."]


def test_a_day_is_that_of_the_place() -> None:
    stamps = pd.date_range("2023-12-31T22:00", periods=4, freq="h").to_numpy()
    found = calendar(stamps, [holiday_name("DE")], "Europe/Berlin")[:, 0]
    assert found.tolist() == [0, 1, 1, 1]


def test_parts_of_a_country() -> None:
    day = pd.DatetimeIndex(["2024-01-06"]).to_numpy()
    found = [calendar(day, [holiday_name(place)])[0, 0] for place in ("DE", "DE-BY", "DE-BE", "AT")]
    assert found == [0, 1, 0, 1]
    assert calendar_columns([holiday_name("DE-BY")]) == ("holiday_DE-BY",)


def test_a_run_keeps_the_place() -> None:
    schema = data().schema
    assert schema.columns["calendar"] == ("weekday", "holidays=DE")
    again = data()
    again.follow(schema)
    assert again.columns == data().columns
    with pytest.raises(DataError, match="missing: holidays=DE; unknown to it: holidays=FR"):
        data(holidays="FR").follow(schema)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("Germany", "must be a country such as DE.*got 'Germany'"),
        ("XX", "must be a country such as DE.*got 'XX'"),
        ("DE-XX", "must name a part of DE, one of BB, BE, BW, .*got 'XX'"),
        ("de", "must be a country .*got 'de'"),
    ],
)
def test_what_is_no_place(place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        data(holidays=place)
    assert error.value.key == "holidays"


def test_without_time_stamps_or_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = TableData.of(np.sin(np.arange(300.0)), look_back=14, horizon=10, holidays="DE")
    with pytest.raises(DataError, match="`calendar` and `holidays` need time stamps"):
        rows.setup("fit")
    monkeypatch.setitem(sys.modules, "holidays", None)
    with pytest.raises(ConfigError, match=r"pip install 'dream-memory\[holidays\]'"):
        data()
