"""Row objects that go on with a run: the numbers of its own test, had its file been longer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from dream import CheckpointError, ConfigError, DataError, DREAMConfig, DREAMWarning
from lightning_modules import ForecastingModule, OnlineModule, SpeechModule
from lightning_modules.base import TaskModule
from lightning_modules.forecasting.sets import TableData
from lightning_modules.learners import (
    DREAMAnomalyDetector,
    DREAMClassifier,
    DREAMForecaster,
    DREAMRegressor,
    Streams,
)
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.from_run import OBJECTS, kind_of, read_module
from lightning_modules.online import TableStream
from lightning_modules.online.module import NEWEST
from lightning_modules.run import checkpoints
from lightning_modules.stream import Reading, Updates
from tests.lightning_modules.support import small_trainer

TESTED, ROWS = 150, 190  # rows of the run's own file, and of the longer one
LAYER = DREAMConfig(hidden_dim=6, rank=2)
HEAD = Updates("least_squares", forgetting=0.99)


def table(*gaps: str) -> pd.DataFrame:
    """A load in watts, the wind, and what depends on both; every ninth row of `gaps` is missing."""
    draw = np.random.default_rng(7)
    load = 5e4 + 3e3 * (np.sin(np.arange(ROWS) / 3) + draw.standard_normal(ROWS).cumsum() / 9)
    wind = draw.standard_normal(ROWS).cumsum()
    frame = pd.DataFrame({"wind": wind, "load": load, "price": load / 1e3 - wind})
    frame["state"] = np.where(frame["price"] > frame["price"].median(), "high", "low")
    for place, name in enumerate(gaps):
        frame.loc[np.arange(4 + place, ROWS, 9), name] = np.nan
    return frame


class Case(NamedTuple):
    """A run of the online task."""

    kind: type[OnlineObject]
    frame: pd.DataFrame
    data: dict[str, Any]
    model: dict[str, Any]


_FORECAST = dict(targets=["load"], horizon=3, season=5)
CASES = {
    "forecaster": Case(DREAMForecaster, table()[["wind", "load"]], _FORECAST, {"updates": HEAD}),
    "gaps are left out, the record shrinks": Case(
        DREAMForecaster,
        table("load", "wind")[["wind", "load"]],
        _FORECAST | {"missing": "model", "label_delay": 2},
        {"updates": Updates("least_squares", trust=0.99), "reading": Reading(profile_rate=0.1, lags=2)},
    ),
    "gaps are filled, the head rests": Case(
        DREAMForecaster,
        table("load", "wind")[["wind", "load"]],
        {"missing": "ffill", "horizon": 2},
        {"modes": ["fast weights"], "hidden_dims": [6, 5]},
    ),
    "all weights, lags": Case(
        DREAMForecaster,
        table()[["load"]],
        {"horizon": 2, "lags": 3},
        {"modes": ["all weights"], "all_updates": Updates(every=8, replay=8)},
    ),
    "regressor": Case(
        DREAMRegressor,
        table("wind", "price")[["wind", "load", "price"]],
        {"targets": ["price"], "task": "regression", "missing": "model"},
        {"updates": HEAD, "modes": ["head"]},
    ),
    "classifier": Case(
        DREAMClassifier,
        table()[["load", "state", "wind"]],
        {"targets": ["state"], "label_delay": 2},
        {"updates": Updates("sgd", lr=0.05)},
    ),
}


def stream_of(case: Case, rows: int) -> TableStream:
    small = dict(warm_up=80, validation=20, crop=32, context=8, crops=16, batch_size=8)
    return TableStream.of(case.frame.head(rows), **small | case.data)


class Trial(NamedTuple):
    """A run that was tested on its own file, its checkpoint, and the same weights after the longer file."""

    case: Case
    path: Path
    longer: OnlineModule


def save(module: TaskModule, trainer: Any, path: Path) -> Path:
    """Write a checkpoint as ``dream fit`` does."""
    trainer.save_checkpoint(path.with_suffix(".plain"))
    content = checkpoints.load(path.with_suffix(".plain"))
    checkpoints.write(content | {"dream": checkpoints.identity(type(module).__name__)}, path)
    return path


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    case, folder = CASES[request.param], tmp_path_factory.mktemp("run")
    data = stream_of(case, TESTED)
    module = OnlineModule.for_data(data, **{"config": LAYER, "modes": ["fast weights + head"]} | case.model)
    trainer = small_trainer(folder, max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    path = save(module, trainer, folder / "run" / "checkpoints" / "best.ckpt")
    trainer.test(module, datamodule=stream_of(case, ROWS), verbose=False)
    yield Trial(case, path, module)


def rows_of(case: Case, start: int, stop: int) -> list[dict[str, Any]]:
    return case.frame.iloc[start:stop].to_dict("records")


def feed(model: Any, row: dict[str, Any]) -> Any:
    """Let the object learn a row of the file; returns the prediction that the test scores."""
    if isinstance(model, DREAMForecaster):
        return model.learn_one(row).forecast()
    target = "price" if isinstance(model, DREAMRegressor) else "state"
    x, y = {name: value for name, value in row.items() if name != target}, row[target]
    if isinstance(model, DREAMRegressor):
        guess: Any = model.predict_one(x)
    else:
        guess = model.predict_proba_one(x)
    model.learn_one(x, y)
    return guess


def flat(prediction: Any) -> list[float]:
    parts = prediction if isinstance(prediction, list) else [prediction]
    return [value for part in parts for value in (part.values() if isinstance(part, dict) else [part])]


def test_rows_get_the_numbers_of_a_test_on_the_longer_file(run: Trial) -> None:
    model = run.case.kind.from_run(run.path)
    for row in rows_of(run.case, TESTED, ROWS):
        newest = feed(model, row)
    assert run.longer.end is not None
    wanted = dict(run.longer.end.tensors)
    np.testing.assert_allclose(flat(newest), wanted.pop(NEWEST).flatten(), rtol=1e-5)
    assert model.learner is not None
    found = model.learner.tensors()  # state, memory, weights, and what updates them
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


def test_a_table_is_read_as_its_rows_are(run: Trial) -> None:
    by_row, by_table = run.case.kind.from_run(run.path), run.case.kind.from_run(run.path)
    for row in rows_of(run.case, TESTED, ROWS - 1):
        feed(by_row, row)
    frame = run.case.frame.iloc[TESTED : ROWS - 1]
    if isinstance(by_table, DREAMForecaster):
        by_table.learn_many(frame)
    else:
        target = run.case.data["targets"][0]
        by_table.learn_many(frame.drop(columns=target), frame[target])  # type: ignore[attr-defined]
    last = rows_of(run.case, ROWS - 1, ROWS)[0]
    np.testing.assert_allclose(flat(feed(by_table, last)), flat(feed(by_row, last)), rtol=1e-5)


def test_a_new_stream_is_that_of_a_prediction_from_the_first_row(run: Trial) -> None:
    model = run.case.kind.from_run(run.longer, state="fresh")
    module = OnlineModule.load_from_checkpoint(run.path)
    learner = module.make_learner(module.modes[0])
    learner.learning = module.modes[0] != "fast weights"  # what the mode lets learn
    module.prepare(data := stream_of(run.case, ROWS))
    inputs, targets = data.values
    steps = learner.process(inputs, None if model.kind == "forecaster" else targets)
    wanted = module._shown(steps.predictions)
    for row, expected in zip(rows_of(run.case, 0, 60), wanted, strict=False):
        np.testing.assert_allclose(flat(feed(model, row)), expected.flatten(), rtol=2e-5, atol=1e-6)


def test_it_is_saved_copied_and_gives_many_streams(run: Trial, tmp_path: Path) -> None:
    model = run.case.kind.from_run(run.path.parents[1])
    given = rows_of(run.case, TESTED, ROWS)
    target = {"regressor": "price", "classifier": "state"}.get(model.kind)
    for row in given[:10]:
        feed(model, row)
    model.save(tmp_path / "model")
    own, loaded = deepcopy(model), run.case.kind.load(tmp_path / "model")
    streams = Streams(model, tmp_path / "streams", most=1)
    for place, row in enumerate(given[10:16]):
        if place == 3:
            streams.close()
            streams = Streams(model, tmp_path / "streams", most=1)
        wanted = feed(own, row)
        assert feed(loaded, row) == wanted
        x = {name: value for name, value in row.items() if name != target}
        y = None if target is None else {"a": row[target], "b": row[target]}
        for outcome in streams.learn_streams({"a": x, "b": x}, y).values():
            guess = outcome.prediction  # type: ignore[union-attr]
            assert guess == (max(wanted, key=wanted.get) if model.kind == "classifier" else wanted)
    streams.close()
