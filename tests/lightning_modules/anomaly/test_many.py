"""A long table of many series to watch: one state and one threshold for each, as from a table each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dream import DataError, DREAMConfig
from lightning_modules.anomaly import AnomalyModule, AnomalyTable
from tests.lightning_modules.data.test_long_table import shuffled
from tests.lightning_modules.support import small_trainer

ROWS = {"pump 1": 260, "pump 2": 220, "pump 3": 240}


def long_table() -> pd.DataFrame:
    """Waves of other size and level; a jump in each, 20 rows before the end, which is labelled."""
    draw = np.random.default_rng(0)
    parts = []
    for number, (name, rows) in enumerate(ROWS.items()):
        wave = 10.0**number * (np.sin(np.arange(rows) / 3) + 0.1 * draw.normal(size=rows) + 5)
        jump = np.arange(rows) == rows - 20
        time = pd.date_range("2024-01-01", periods=rows, freq="min")
        values = {"pressure": wave * np.where(jump, 3, 1), "broken": jump.astype(int)}
        parts.append(pd.DataFrame({"pump": name, "at": time, **values}))
    return pd.concat(parts, ignore_index=True)


def data(table: pd.DataFrame, **options: object) -> AnomalyTable:
    return AnomalyTable.of(table, **{"training": 0.5, "label_column": "broken", **options})


def module_for(streams: AnomalyTable) -> AnomalyModule:
    return AnomalyModule.for_data(streams, config=DREAMConfig(hidden_dim=8, rank=2))


@pytest.mark.parametrize("missing", ["error", "ffill", "model"])
def test_each_series_is_scored_as_by_itself(tmp_path: Path, missing: str) -> None:
    table, trainer = long_table(), small_trainer(tmp_path)
    if missing != "error":
        table.loc[[30, 31, 300, 500], "pressure"] = np.nan
    many = data(shuffled(table), id="pump", missing=missing)
    assert [stream.name for stream in many.streams] == list(ROWS)
    module = module_for(many)
    trainer.fit(module, many)
    trainer.test(module, many, verbose=False)
    assert set(module.thresholds) == set(module.by_series) == set(ROWS)
    assert set(module.ends) == set(ROWS)
    scores = module.prediction_table(trainer.predict(module, many)).set_index("stream")
    assert len(set(scores["threshold"])) == 3
    for name in ROWS:
        one = data(table[table["pump"] == name].drop(columns="pump"), missing=missing)
        own = module_for(one)
        own.load_state_dict(module.state_dict())
        trainer.test(own, one, verbose=False)
        alone = own.prediction_table(trainer.predict(own, one))
        for column in ("score", "threshold"):
            np.testing.assert_allclose(scores.loc[name, column], alone[column], rtol=1e-4, atol=1e-6)
        assert scores.loc[name, "time"].tolist() == alone["time"].tolist()
        assert module.by_series[name] == pytest.approx(own.results[own.title], rel=1e-3)


def test_series_that_are_too_short_are_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    table = long_table()
    few = table[(table["pump"] != "pump 2") | (table["at"] < "2024-01-01 02:00")]
    assert [stream.name for stream in data(few, id="pump").streams] == ["pump 1", "pump 3"]
    assert "1 of 3 series are left out, in which `training` does not give 100 rows" in caplog.text
    with pytest.raises(DataError, match="none of 3 has"):
        _ = data(table, id="pump", training=0.1).streams


def test_a_checkpoint_knows_that_streams_are_series_and_watches_new_ones(tmp_path: Path) -> None:
    table, trainer = long_table(), small_trainer(tmp_path)
    many = data(table, id="pump")
    module = module_for(many)
    trainer.fit(module, many)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    loaded = AnomalyModule.load_from_checkpoint(tmp_path / "some.ckpt")
    new = table[table["pump"] == "pump 1"].assign(pump="a new one").drop(columns="broken")
    found = loaded.prediction_table(trainer.predict(loaded, data(new)))
    assert set(found["stream"]) == {"a new one"}
    again = module.prediction_table(trainer.predict(module, many)).query("stream == 'pump 1'")
    np.testing.assert_allclose(found["score"], again["score"], rtol=1e-4, atol=1e-6)
