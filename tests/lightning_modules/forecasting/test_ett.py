from __future__ import annotations

import os
from pathlib import Path

import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.forecasting import ETTData


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
    count = (data.prepared.split.test.stop - data.prepared.split.test.start - 95) * 96 * 7
    assert round(squared / count, 3) == mse
    assert round(absolute / count, 3) == mae


@pytest.mark.data
def test_protocol() -> None:
    data = real("ETTh1")
    assert [(part.start, part.stop) for part in data.prepared.split] == [
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
