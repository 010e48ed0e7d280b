"""Tables of one's own with their roles of columns, and the ETT sets in their protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.forecasting import ETTData, TableData


@pytest.fixture
def path(tmp_path: Path) -> str:
    time = pd.date_range("2024-01-01", periods=100, freq="h")
    row = np.arange(100.0)
    frame = pd.DataFrame({"date": time, "load": row, "heat": -row, "place": "north", "wind": row**2})
    frame.to_csv(tmp_path / "table.csv", index=False)
    return str(tmp_path / "table.csv")


def make(path: str, **options: Any) -> TableData:
    return TableData(path, **{"look_back": 5, "horizon": 3, "batch_size": 4, **options})


def test_all_numbers_are_targets(path: str) -> None:
    data = make(path)
    assert data.columns == data.target_columns == ("load", "heat", "wind")
    assert [part.stop for part in data.parts] == [70, 80, 100]


def test_targets_come_first_then_covariates(path: str) -> None:
    data = make(path, targets=["wind"], covariates=["load"])
    assert (data.columns, data.target_columns) == (("wind", "load"), ("wind",))
    assert (data.shape.inputs, data.channels) == (2, 1)
    batch = next(iter(data.test_dataloader()))
    assert batch.past.shape == (4, 5, 2)
    np.testing.assert_allclose(data.unscale(batch.future)[0, :, 0], np.arange(80, 83) ** 2, rtol=1e-5)
    assert data.times(batch.origin)[0] == np.datetime64("2024-01-04T08:00")


def test_covariates_leave_the_rest_as_targets(path: str) -> None:
    data = make(path, covariates=["load"])
    assert (data.columns, data.target_columns) == (("heat", "wind", "load"), ("heat", "wind"))


def test_split_by_dates(path: str) -> None:
    split = make(path, split=["2024-01-03", "2024-01-04"]).parts
    assert [part.stop for part in split] == [48, 72, 100]


def test_missing_values(path: str) -> None:
    text = Path(path).read_text().replace(",3.0,-3.0,", ",,-3.0,")
    Path(path).write_text(text)
    with pytest.raises(DataError, match=r"\(load 1\).*--data.missing=ffill"):
        make(path).setup()
    data = make(path, missing="ffill")
    np.testing.assert_allclose(data.unscale(data.prepared.values[3]), [2, -3, 9], rtol=1e-5)
    assert dict(data.describe())["missing"] == "load 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": []}, "`targets` must name at least one column"),
        ({"targets": ["load", "load"]}, "column `load` must be used once"),
        ({"targets": ["load"], "covariates": ["load"]}, "column `load` must be used once"),
        ({"time_column": "date", "targets": ["date"]}, "column `date` must be used once"),
    ],
)
def test_refuses_columns_in_two_roles(path: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(path, **options)


def test_unknown_column(path: str) -> None:
    with pytest.raises(DataError, match=r"no column `lod`. Did you mean `load`?"):
        _ = make(path, targets=["lod"]).channels
    with pytest.raises(DataError, match="no column to predict holds numbers"):
        _ = make(path, covariates=["load", "heat", "wind"]).channels


def real(name: str) -> ETTData:
    folder = os.environ.get("DREAM_DATA")
    if not folder or not (Path(folder) / "ett" / f"{name}.csv").is_file():
        pytest.skip(f"DREAM_DATA names no folder with ett/{name}.csv")
    return ETTData(name, batch_size=512)  # type: ignore[arg-type]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mse", "mae"), [("ETTh1", 1.294, 0.713), ("ETTh2", 0.432, 0.422), ("ETTm1", 1.214, 0.665)]
)
def test_repeating_the_last_value_scores_as_published(name: str, mse: float, mae: float) -> None:
    data = real(name)
    squared = absolute = 0.0
    for batch in data.test_dataloader():
        error = (batch.past[:, -1:] - batch.future).double()
        squared, absolute = squared + float(error.square().sum()), absolute + float(error.abs().sum())
    count = (data.parts.test.stop - data.parts.test.start - 95) * 96 * 7
    assert round(squared / count, 3) == mse
    assert round(absolute / count, 3) == mae


@pytest.mark.data
def test_protocol() -> None:
    data = real("ETTh1")
    assert [(part.start, part.stop) for part in data.parts] == [
        (0, 8640),
        (8640, 11520),
        (11520, 14400),
    ]
    assert data.target_columns == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert str(data.times(next(iter(data.test_dataloader())).origin)[0]).startswith("2017-10-24T00:00")


@pytest.mark.parametrize(("name", "season", "rows"), [("ETTh2", 24, 8640), ("ETTm1", 96, 34560)])
def test_settings(name: str, season: int, rows: int) -> None:
    data = ETTData(name)  # type: ignore[arg-type]
    assert (data.look_back, data.horizon, data.season) == (96, 96, season)
    assert data.split == [rows, rows // 3, rows // 3]


def test_missing_file_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=r"ETTh1\.csv is not there: run `dream data get ett`, or set DREAM_DATA"
    ):
        _ = ETTData("ETTh1").channels


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"`name` must be ETTh1, ETTh2 or ETTm1; got 'ETTm2'"):
        ETTData("ETTm2")  # type: ignore[arg-type]
