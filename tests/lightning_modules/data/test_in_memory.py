"""Tables in memory, read as files are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dream import DREAMConfig
from dream.errors import ConfigError, DataError
from experiments.invocation.explain import settings
from lightning_modules import AnomalyModule, ForecastingModule, OnlineModule
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.in_memory import InMemory
from lightning_modules.forecasting import ForecastingShape, TableData
from lightning_modules.online import TableStream

ROWS = 400
SETTINGS = {
    TableData: {"targets": ["b"], "known_covariates": ["a"], "look_back": 24, "horizon": 4},
    AnomalyTable: {"label_column": "odd", "training": 100.0},
    TableStream: {"targets": ["odd"], "task": "regression", "crop": 32, "context": 8},
}


def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    values = {
        "a": random.standard_normal(ROWS),
        "b": np.arange(ROWS) / 7,
        "odd": (np.arange(ROWS) > 390).astype(int),
    }
    return pd.DataFrame(values, index=pd.date_range("2026-01-01", periods=ROWS, freq="h", name="when"))


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_it_is_read_as_from_a_file(kind: type[InMemory], tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "table.csv")
    here, there = kind.of(frame(), **SETTINGS[kind]), kind(path=str(tmp_path / "table.csv"), **SETTINGS[kind])
    for data in (here, there):
        data.setup()  # type: ignore[attr-defined]
    mine, theirs = (next(iter(data.test_dataloader())) for data in (here, there))  # type: ignore[attr-defined]
    for own, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(*(np.asarray(part, dtype=float) for part in (own, other)))
    assert "the table" in here.describe()[0][1]  # type: ignore[attr-defined]


def test_arrays_and_series_are_tables_too() -> None:
    array = TableData.of(np.random.default_rng(0).standard_normal((ROWS, 2)), look_back=24, horizon=4)
    assert array.target_columns == ("column_1", "column_2")
    assert array.series.time is None
    one = TableData.of(np.arange(ROWS), look_back=24, horizon=4)
    np.testing.assert_array_equal(one.series.values[:, 0], np.arange(ROWS))
    series = TableData.of(frame()["b"], look_back=24, horizon=4)
    assert series.target_columns == ("b",)
    assert series.series.time is not None
    assert series.series.time[0] == np.datetime64("2026-01-01")


def test_an_index_that_is_no_time_is_left_out() -> None:
    shifted = frame().reset_index(drop=True)[10:]
    assert TableData.of(shifted, look_back=24, horizon=4).target_columns == ("a", "b", "odd")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1, 2], "`table` must be a DataFrame, a Series or an array (rows, columns); got list."),
        (np.zeros((2, 2, 2)), "got ndarray."),
        (pd.DataFrame({"a": []}), "the table: there are column names but no rows."),
        (pd.DataFrame({"a": [1.0, np.inf] * 200}), "the table: column `a` must be finite"),
        (pd.DataFrame({"a": [1.0, None] * 200}), "the table: values are missing (a 200)."),
    ],
)
def test_what_is_no_table_is_refused(table: object, message: str) -> None:
    with pytest.raises(DataError) as said:
        TableData.of(table, look_back=24, horizon=4).setup()  # type: ignore[arg-type]
    assert message in str(said.value)


def test_a_module_takes_from_its_data_what_they_know() -> None:
    data = TableData.of(frame(), **SETTINGS[TableData], season=12, calendar=["hour"])
    model = ForecastingModule.for_data(data, config=DREAMConfig(hidden_dim=8, rank=2), lr=2e-3)
    known = ForecastingShape(channels=1, known=3, calendar=2, look_back=24, horizon=4, season=12)
    assert model.shape == known
    assert model.hparams["shape"] == asdict(known)
    assert model.settings.lr == 2e-3
    assert AnomalyModule.for_data(AnomalyTable.of(frame(), **SETTINGS[AnomalyTable])).shape.channels == 2
    online = OnlineModule.for_data(TableStream.of(frame(), **SETTINGS[TableStream]))
    assert (online.shape.task, online.shape.inputs) == ("regression", 2)
    with pytest.raises(ConfigError, match="`horizon` is given by the data; leave it out here"):
        ForecastingModule.for_data(data, horizon=3)


def test_so_does_one_that_is_derived() -> None:
    class Mine(ForecastingModule):
        def __init__(self, wide: bool = False, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type]
            self.wide = wide

    data = TableData.of(frame(), **SETTINGS[TableData])
    model = Mine.for_data(data, patch=4, wide=True)
    assert (model.shape.horizon, model.settings.patch, model.wide) == (4, 4, True)


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_what_is_passed_on_is_still_known_as_a_setting(kind: type[InMemory]) -> None:
    common = {TableData: "look_back", AnomalyTable: "train_chunk", TableStream: "horizon"}[kind]
    assert {"path", common} <= set(settings(kind))
