"""Row objects that go on with a run: the numbers of its own test, had its file been longer."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from dream import CheckpointError, ConfigError, DataError, DREAMConfig, DREAMWarning
from dream.sealed import write_sealed
from lightning_modules import ForecastingModule, OnlineModule, SpeechModule
from lightning_modules.base import TaskModule
from lightning_modules.data.place import ONLY
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
from lightning_modules.learners.loading import load
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
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    case, folder = CASES[request.param], tmp_path_factory.mktemp("run")
    data = stream_of(case, TESTED)
    module = OnlineModule.for_data(data, **{"config": LAYER, "modes": ["fast weights + head"]} | case.model)
    trainer = small_trainer(folder, max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    path = save(module, trainer, folder / "run" / "checkpoints" / "best.ckpt")
    trainer.test(module, datamodule=stream_of(case, ROWS), verbose=False)
    return Trial(case, path, module)


def test_a_service_takes_the_object_of_the_run(run: Trial) -> None:
    for state in ("end", "fresh"):
        with mock.patch.object(checkpoints, "load", wraps=checkpoints.load) as reading:
            read_module(run.path)
            once = reading.call_count
            assert type(load(run.path, state)) is run.case.kind
        assert reading.call_count == 2 * once


def rows_of(case: Case, start: int, stop: int) -> list[Any]:
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
    wanted = dict(run.longer.ends[ONLY].tensors)
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
        y: Any = None if target is None else {"a": row[target], "b": row[target]}
        for outcome in streams.learn_streams({"a": x, "b": x}, y).values():
            guess = outcome.prediction  # type: ignore[union-attr]
            assert guess == (max(wanted, key=wanted.get) if model.kind == "classifier" else wanted)
    streams.close()


def timed(frame: pd.DataFrame, frequency: str = "h", zone: str | None = None) -> pd.DataFrame:
    return frame.assign(
        when=pd.date_range("2026-01-01", periods=len(frame), freq=frequency, tz=zone).astype(str)
    )


WINDOWS: dict[str, tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]] = {
    "plain": (table()[["wind", "load"]], {}, {}),
    "filled": (table("wind", "load")[["load", "wind"]], {"missing": "ffill"}, {"channel_independent": False}),
    "left out": (table("wind", "load")[["load", "wind"]], {"missing": "model"}, {}),
    "with ages": (
        table("load")[["load", "wind"]],
        {"missing": "mask"},
        {"loss": "mae", "quantiles": [0.2, 0.5]},
    ),
    "lags": (table()[["load"]], {"lags": 3}, {}),
    "calendar": (timed(table()[["wind", "load"]]), {"calendar": ["hour", "weekday"]}, {}),
    "business days, timespans": (
        timed(table("wind")[["wind", "load"]], "B", "Europe/Berlin"),
        {"calendar": ["day"], "timespans": True, "missing": "mask"},
        {"channel_independent": False},
    ),
    "uneven": (timed(table()[["wind", "load"]]).drop(index=[60, 137, 138, 145]), {"timespans": True}, {}),
    "known covariates": (
        timed(table().assign(plan=np.arange(ROWS) % 7.0)[["plan", "wind", "load"]]),
        {"known_covariates": ["plan"], "calendar": ["hour"]},
        {},
    ),
    "known, no stamps": (
        table().assign(plan=np.arange(ROWS) % 7.0)[["load", "wind", "plan"]],
        {"known_covariates": ["plan"]},
        {"normalization": "last"},
    ),
}


def windows_of(frame: pd.DataFrame, **options: Any) -> TableData:
    more = {} if "lags" in options else {"covariates": ["wind"]}
    small = {"look_back": 12, "horizon": 3, "season": 4, "split": [90, 25, 25]}
    return TableData.of(frame, **small | more | options)


def trained_windows(folder: Path, frame: pd.DataFrame, data: dict[str, Any], model: dict[str, Any]) -> Path:
    given = windows_of(frame.head(140), **data)
    module = ForecastingModule.for_data(given, config=LAYER, patch=4, **model)
    trainer = small_trainer(folder, max_steps=3)
    trainer.fit(module, datamodule=given)
    trainer.test(module, datamodule=given, verbose=False)
    return save(module, trainer, folder / "best.ckpt")


@pytest.mark.parametrize("name", WINDOWS)
def test_a_forecaster_of_windows_forecasts_as_predict_does_on_the_file_that_ends_there(
    name: str, tmp_path: Path
) -> None:
    frame, data, settings = WINDOWS[name]
    path = trained_windows(tmp_path, frame, data, settings)
    model = DREAMForecaster.from_run(path)
    fresh = DREAMForecaster.from_run(path, state="fresh")
    module, trainer = ForecastingModule.load_from_checkpoint(path), small_trainer(tmp_path)
    known: list[str] = data.get("known_covariates", [])

    def predicted(rows: int) -> np.ndarray:
        ahead = frame.iloc[rows : rows + 3].assign(load=np.nan, wind=np.nan)
        seen = pd.concat([frame.head(rows), ahead]) if known else frame.head(rows)
        found: Any = trainer.predict(module, datamodule=windows_of(seen, **data))
        return found[0][0, :, :, 0].numpy()

    def forecast(model: DREAMForecaster, rows: int) -> list[Any]:
        return model.forecast(known=frame[known].iloc[rows : rows + 3] if known else None)

    np.testing.assert_allclose(flat(forecast(model, 140)), predicted(140).flatten(), rtol=1e-6)
    rows: list[Any] = frame.iloc[140:153].to_dict("records")
    streams = None if known else Streams(model)
    for number, row in enumerate(rows, 141):
        outcome = None if streams is None else streams.learn_streams({"a": row})["a"]
        model.learn_one(row)
        assert (forecast(fresh.learn_one(row), number) == []) == (number < 152)
        if outcome is not None:
            assert outcome.prediction == model.forecast()  # type: ignore[union-attr]
    np.testing.assert_allclose(flat(forecast(model, 153)), predicted(153).flatten(), rtol=1e-6)
    wanted = forecast(model, 153)
    assert forecast(fresh, 153) == wanted
    assert forecast(DREAMForecaster.from_run(path).learn_many(frame.iloc[140:153]), 153) == wanted
    model.save(tmp_path / "model")
    loaded, (row,) = DREAMForecaster.load(tmp_path / "model"), frame.iloc[153:154].to_dict("records")
    assert forecast(loaded.learn_one(row), 154) == forecast(deepcopy(model).learn_one(row), 154)
    assert len(loaded.forecast(2, frame[known].iloc[154:157] if known else None)) == 2
    if "lags" in data or name == "uneven":  # a window of the test knows of the row before it
        return
    batch = list(windows_of(frame.head(140), **data).test_dataloader())[-1]
    with torch.no_grad():
        tested = module.eval().on(batch).future[-1].double()
    at = DREAMForecaster.from_run(path, state="fresh").learn_many(frame.head(137))
    scaled = tested * module.data_schema.scales["load"][1] + module.data_schema.scales["load"][0]
    np.testing.assert_allclose(flat(forecast(at, 137)), scaled.flatten(), rtol=1e-5)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecaster that was fitted and not tested."""
    folder, data = tmp_path_factory.mktemp("run"), stream_of(CASES["forecaster"], TESTED)
    module = OnlineModule.for_data(data, config=LAYER, modes=["frozen"])
    trainer = small_trainer(folder, max_steps=1)
    trainer.fit(module, datamodule=data)
    return save(module, trainer, folder / "best.ckpt")


class TestRefused:
    """Runs, states and rows that no object goes on with."""

    def test_another_class_is_named(self, path: Path) -> None:
        module = read_module(path)
        assert OBJECTS[kind_of(module)] == "DREAMForecaster"
        for kind in (DREAMClassifier, DREAMRegressor, DREAMAnomalyDetector):
            with pytest.raises(ConfigError, match=r"gives a DREAMForecaster. Use DREAMForecaster.from_run"):
                kind.from_run(module)
        for task in ("regression", "classification"):
            frame = CASES["regressor" if task == "regression" else "classifier"]
            module = OnlineModule.for_data(stream_of(frame, TESTED), config=LAYER)
            with pytest.raises(ConfigError, match=rf"Use DREAM{task.title()[:5]}\w+.from_run"):
                DREAMForecaster.from_run(module)

    def test_a_run_that_was_not_tested_has_no_end(self, path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"not tested.*state='fresh'"):
            DREAMForecaster.from_run(path)
        model = DREAMForecaster.from_run(path, state="fresh")
        assert model.forecast() == []
        assert model.learner is not None
        assert not model.learner.learning  # the mode freezes all
        with pytest.raises(ConfigError, match="`state` must be end or fresh; got 'ended'"):
            DREAMForecaster.from_run(path, state="ended")  # type: ignore[arg-type]

    def test_a_checkpoint_of_an_earlier_format(self, path: Path, tmp_path: Path) -> None:
        content = checkpoints.load(path)
        content["dream"]["format"] = 4
        checkpoints.write(content, tmp_path / "old.ckpt")
        with pytest.raises(CheckpointError, match=r"format 4, which holds the weights, but not all"):
            DREAMForecaster.from_run(tmp_path / "old.ckpt", state="fresh")

    def test_what_is_no_run(self, tmp_path: Path) -> None:
        for source in (tmp_path, tmp_path / "none.ckpt", "https://example.org/best.ckpt"):
            with pytest.raises(CheckpointError, match="`source` must be a run's folder"):
                DREAMForecaster.from_run(source)
        with pytest.raises(ConfigError, match=r"`source` must be a run's folder.*got 3"):
            DREAMForecaster.from_run(3)  # type: ignore[arg-type]
        untrained = OnlineModule(config=LAYER)
        with pytest.raises(ConfigError, match=r"knows none\. Fit or test it first"):
            DREAMForecaster.from_run(untrained)
        with pytest.raises(ConfigError, match="this is of SpeechModule"):
            DREAMForecaster.from_run(SpeechModule(config=LAYER))

    def test_a_rival_core_and_several_numbers(self) -> None:
        case = CASES["regressor"]
        data = stream_of(case, TESTED)
        module = OnlineModule.for_data(data, config=LAYER, core="lstm")
        module.prepare(data)
        with pytest.raises(ConfigError, match=r"must have DREAM as its core.*the module has LSTM"):
            DREAMRegressor.from_run(module, state="fresh")
        data = stream_of(case._replace(data=case.data | {"targets": ["price", "wind"]}), TESTED)
        module = OnlineModule.for_data(data, config=LAYER)
        module.prepare(data)
        with pytest.raises(ConfigError, match="predicts price, wind"):
            DREAMRegressor.from_run(module, state="fresh")

    def test_windows_that_read_more_than_rows(self, tmp_path: Path) -> None:
        frame, settings, _ = WINDOWS["known covariates"]
        model = DREAMForecaster.from_run(trained_windows(tmp_path, frame, settings, {}))
        for known, message in (
            (None, "must hold plan of the next 3 rows, which the run knows ahead; got no `plan`"),
            ([{"plan": 1.0}] * 2, "got 2 rows"),
            ([{"plan": None}] * 3, "must hold a number in each place"),
        ):
            with pytest.raises(DataError, match=message):
                model.forecast(known=known)
        row: Any = frame.iloc[140].to_dict()
        before = model.forecast(known=frame.iloc[140:143])
        for stamp, message in (
            (None, r"must hold its time stamp as `when`, .* got none"),
            ("soon", "the stream: time column `when` must hold dates"),
            (frame["when"][139], "the stream: time column `when` must increase"),
        ):
            with pytest.raises(DataError, match=message):
                model.learn_one({**row, "when": stamp})
        assert model.forecast(known=frame.iloc[140:143]) == before
        texts, stamps, numbers = (
            deepcopy(model).learn_one({**row, "when": stamp}).forecast(known=frame.iloc[141:144])
            for stamp in (row["when"], pd.Timestamp(row["when"]), np.datetime64(row["when"]))
        )
        assert texts == stamps == numbers != before
        with pytest.raises(ConfigError, match="known covariates"):
            Streams(model)

        class Own(ForecastingModule):
            """One with a head of its own, say."""

        data = windows_of(table()[["wind", "load"]])
        own = Own.for_data(data, config=LAYER, patch=4)
        own.prepare(data)
        with pytest.raises(ConfigError, match="is a Own"):
            DREAMForecaster.from_run(own, state="fresh")

    def test_rows_that_the_run_would_refuse(self, path: Path) -> None:
        model = DREAMForecaster.from_run(path, state="fresh")
        before = deepcopy(model)
        with pytest.raises(DataError, match=r"the stream: column `wind` must lie within"):
            model.learn_one({"load": 5e4, "wind": 1e17})
        with pytest.raises(DataError, match=r"`y\['load'\]` must be a finite number"):
            model.learn_one({"load": "many", "wind": 0.0})  # type: ignore[dict-item]
        row: Any = {"load": "50000", "wind": "0.5", "date": "2026-01-01"}  # as csv.DictReader gives it
        with pytest.warns(DREAMWarning, match="`date` is left out: the run did not read it"):
            model.learn_one(row)
        assert model.forecast() == before.learn_one({"load": 5e4, "wind": 0.5}).forecast()
        with pytest.warns(DREAMWarning, match=re.escape("the run's data refused (`data.missing=error`)")):
            model.learn_one({"load": 5e4, "wind": None})

    def test_classes_are_those_of_the_run(self) -> None:
        case = CASES["classifier"]
        numbered = case.frame.assign(state=np.where(case.frame["state"] == "high", True, False))
        data = stream_of(case._replace(frame=numbered), TESTED)
        module = OnlineModule.for_data(data, config=LAYER)
        module.prepare(data)
        model = DREAMClassifier.from_run(module, state="fresh")
        x = {"load": 5e4, "wind": 0.0}
        assert set(model.learn_one(x, True).learn_one(x, "False").predict_proba_one(x)) == {"True", "False"}
        with pytest.raises(DataError, match=r"one of the classes .* False, True; got 'high'"):
            model.learn_one(x, "high")

    @pytest.mark.parametrize(
        "damage",
        [
            {"targets": ["price"]},
            {"scales": {"load": [0, -1], "wind": [0, 1]}},
            {"scales": {"load": [0, 1]}},
            {"missing": "by hand"},
            {"hidden_dims": [4]},
        ],
    )
    def test_a_file_with_facts_that_no_run_has(
        self, path: Path, tmp_path: Path, damage: dict[str, Any]
    ) -> None:
        model = DREAMForecaster.from_run(path, state="fresh")
        header, tensors = model.learn_one({"load": 5e4, "wind": 0.0})._sealed()
        settings = json.loads(header["settings"])
        settings["origin"] |= damage
        write_sealed(tmp_path / "model", header | {"settings": json.dumps(settings)}, tensors)
        with pytest.raises(CheckpointError, match="model is inconsistent"):
            DREAMForecaster.load(tmp_path / "model")
