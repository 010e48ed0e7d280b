"""A long table of many streams: a state, head and scale for each, as from a table each; one core for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DataError, DREAMConfig
from lightning_modules import OnlineModule
from lightning_modules.data.place import ONLY, Place
from lightning_modules.online import TableStream
from lightning_modules.stream import Reading, Updates
from tests.lightning_modules.data.test_long_table import shuffled
from tests.lightning_modules.support import small_trainer

ROWS = {"pump 1": 200, "pump 2": 160, "pump 3": 180}
TASKS: dict[str, dict[str, Any]] = {
    "forecasting": {"horizon": 2, "targets": ["load"]},
    "regression": {"targets": ["load"], "task": "regression"},
    "classification": {"targets": ["state"]},
}


def long_table(rows: dict[str, int] = ROWS) -> pd.DataFrame:
    """Waves of other size and level, what drives them, and whether they rise in words."""
    draw = np.random.default_rng(0)
    parts = []
    for number, (name, count) in enumerate(rows.items()):
        drive = draw.normal(size=count)
        wave = np.sin(np.arange(count) / (3 + number)) + 0.3 * drive
        time = pd.date_range("2024-01-01", periods=count, freq="min")
        state = np.where(np.gradient(wave) > 0, "up", "down")
        values = {"load": 10.0**number * (wave + 5), "drive": drive, "state": state}
        parts.append(pd.DataFrame({"pump": name, "at": time, **values}))
    return pd.concat(parts, ignore_index=True)


def data(table: pd.DataFrame, **options: Any) -> TableStream:
    small = dict(warm_up=0.3, validation=0.1, crop=32, context=8, crops=16, batch_size=8, chunk=64)
    return TableStream.of(table, **small | options)


def module_for(streams: TableStream, **options: Any) -> OnlineModule:
    return OnlineModule.for_data(
        streams,
        config=DREAMConfig(hidden_dim=8, rank=2),
        reading=Reading("running", 0.05, lags=2),
        updates=Updates("least_squares", every=4),
        **options,
    )


def one(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[table["pump"] == name].drop(columns="pump").reset_index(drop=True)


@pytest.mark.parametrize("task", list(TASKS))
def test_each_series_is_read_as_by_itself(tmp_path: Path, task: str) -> None:
    table, trainer = long_table(), small_trainer(tmp_path)
    table = table.drop(columns="state") if task != "classification" else table
    many = data(shuffled(table), id="pump", **TASKS[task])
    module = module_for(many)
    trainer.fit(module, many)
    trainer.test(module, many, verbose=False)
    assert list(module.by_series) == list(ROWS)
    assert not module.ends
    assert set(module.figures()) == {"stream"}
    found = module.prediction_table(trainer.predict(module, many)).set_index("unique_id")
    own_rows = []
    for name in ROWS:
        alone = data(one(table, name), **TASKS[task])
        single = module_for(alone)
        single.load_state_dict(module.state_dict())
        trainer.test(single, alone, verbose=False)
        own_rows.append(single.results)
        assert module.by_series[name] == pytest.approx(next(iter(single.results.values())), rel=1e-4)
        expected = single.prediction_table(trainer.predict(single, alone))
        if task == "forecasting":
            assert found.columns.tolist() == ["ds", "yhat"]
            expected = expected.rename(columns={"time": "ds", "load": "yhat"})
        here = found.loc[name]
        assert here.columns.tolist() == expected.columns.tolist()
        for column in expected:
            if expected[column].dtype == float:
                np.testing.assert_allclose(here[column], expected[column], rtol=1e-4, atol=1e-5)
            else:
                assert here[column].tolist() == expected[column].tolist()
    for model, metrics in module.results.items():
        for metric, value in metrics.items():
            mean = np.mean([row[model][metric] for row in own_rows])
            assert value == pytest.approx(mean, rel=1e-4), (model, metric)


@pytest.mark.parametrize("options", [{"missing": "ffill"}, {"missing": "model"}, {"warm_up": 0}])
def test_gaps_and_no_training_are_as_by_itself(tmp_path: Path, options: dict[str, Any]) -> None:
    table, trainer = long_table().drop(columns="state"), small_trainer(tmp_path)
    if "missing" in options:
        table.loc[[0, 30, 200, 300], "load"] = np.nan
    many = data(table, id="pump", targets=["load"], **options)
    module = module_for(many, modes=["fast weights + head"])
    trainer.test(module, many, verbose=False)
    for name in ROWS:
        alone = data(one(table, name), targets=["load"], **options)
        single = module_for(alone, modes=["fast weights + head"])
        single.load_state_dict(module.state_dict())
        trainer.test(single, alone, verbose=False)
        assert module.by_series[name] == pytest.approx(next(iter(single.results.values())), rel=1e-4)


def test_crops_hold_rows_of_one_series() -> None:
    table = long_table().drop(columns="state")
    many = data(table, id="pump", targets=["load"], crops=64)
    many.setup()
    seen = set()
    for loader in (many.train_dataloader(), many.val_dataloader()):
        for batch in loader:
            for rows, start, number in zip(batch.rows, batch.start, batch.number, strict=True):
                member = many.members[int(number)]
                warm_up, stop, _ = member.borders
                assert torch.equal(rows, member.values[0][int(start) : int(start) + len(rows)])
                assert int(start) + len(rows) <= (stop if loader is not many.train_dataloader() else warm_up)
                seen.add(int(number))
    assert seen == {0, 1, 2}


def test_a_short_series_is_not_trained_on_but_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {**ROWS, "new": 12}
    table = long_table(rows).drop(columns="state")
    many, trainer = data(table, id="pump", targets=["load"], horizon=2), small_trainer(tmp_path)
    module = module_for(many)
    trainer.fit(module, many)
    trainer.test(module, many, verbose=False)
    assert "1 of 4 series have fewer than 34 warm-up rows, and are not trained on: new" in caplog.text
    assert set(module.by_series) == set(rows)
    assert len(module.prediction_table(trainer.predict(module, many))) == 2 * 4
    with pytest.raises(ConfigError, match=r"of 200 rows of the longest series, pump 1, which leaves 0"):
        data(table, id="pump", warm_up=190, validation=10).setup()


def test_a_checkpoint_serves_series_that_training_never_saw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, trainer = long_table().drop(columns="state"), small_trainer(tmp_path)
    options: dict[str, Any] = {"targets": ["load"], "horizon": 2}
    many = data(table, id="pump", **options)
    module = module_for(many)
    trainer.fit(module, many)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    trainer.test(module, many, verbose=False)
    loaded = OnlineModule.load_from_checkpoint(tmp_path / "some.ckpt")
    new = table.replace({"pump": {"pump 1": "other"}})
    rows = data(new, **options)  # told apart by the column that the run knows
    trainer.test(loaded, rows, verbose=False)
    assert "1 of 3 series were not in the training (other); each is scaled by its own" in caplog.text
    assert loaded.by_series["other"] == pytest.approx(module.by_series["pump 1"], rel=1e-4)
    assert loaded.by_series["pump 2"] == pytest.approx(module.by_series["pump 2"], rel=1e-4)
    single = module_for(alone := data(one(table, "pump 1"), **options))
    small_trainer(tmp_path).fit(single, alone)
    with pytest.raises(DataError, match=r"trained on a single series reads one; .* told apart by `pump`"):
        trainer.test(single, data(table, id="pump", **options), verbose=False)


def test_an_interrupted_test_goes_on_within_the_series(tmp_path: Path) -> None:
    table, trainer = long_table().drop(columns="state"), small_trainer(tmp_path)
    many = data(table, id="pump", targets=["load"])
    whole, half = module_for(many), module_for(many)
    half.load_state_dict(whole.state_dict())
    trainer.test(whole, many, verbose=False)
    batches = list(many.test_dataloader())
    half.prepare(many)
    half.on_test_epoch_start()
    for batch in batches[:5]:
        half.test_step(batch, 0)
    saved = half.save_test()
    half.resume_test(saved)
    half.on_test_epoch_start()
    for batch in batches[5:]:
        half.test_step(batch, 0)
    half._finish_series()
    found = {name: results["DREAM, fast weights + head"] for name, results in half._finished.items()}
    assert found == whole.by_series


def test_a_guessed_form_a_folder_and_refusals(tmp_path: Path) -> None:
    table = long_table().drop(columns="state")
    guessed = data(table.rename(columns={"pump": "unique_id", "at": "ds", "load": "y"}))
    assert (guessed.stream.targets, guessed.stream.series.columns) == (("y",), ("y",))
    for name in ROWS:
        one(table, name).to_csv(tmp_path / f"{name}.csv", index=False)
    folder = TableStream(str(tmp_path), targets=["load"], warm_up=0.3, validation=0.1, crop=32, context=8)
    assert [member.name for member in folder.members] == list(ROWS)
    assert folder.stream.series.columns == ("load", "drive")
    with pytest.raises(
        ConfigError, match="`--learn` must be given for a run of one stream; this one is of sev"
    ):
        folder.go_on({ONLY: Place(5)})
    with pytest.raises(ConfigError, match="`categories` must be left out for several series"):
        _ = data(table, id="pump", targets=["load"], categories=["word"]).streams
    with pytest.raises(DataError, match="no column `lod`"):
        _ = data(table, id="pump", targets=["lod"]).streams


def test_stamps_with_a_zone_where_the_training_had_none_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = long_table().drop(columns="state")
    first = data(table, id="pump", targets=["load"])
    assert first.schema.time_column == "at"
    other = data(table.assign(at=table["at"].dt.tz_localize("UTC")), targets=["load"])
    other.follow(first.schema)
    assert {member.clock.zone for member in other.members} == {"UTC"}
    assert caplog.text.count("are in UTC, those of the training were without a zone") == 1
