"""The objects that learn row by row: the task's numbers, files that resume, and refusals."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dream import CheckpointError, ConfigError, DataError, DREAMConfig
from lightning_modules.learners import DREAMAnomalyDetector, DREAMClassifier, DREAMForecaster, DREAMRegressor
from lightning_modules.stream import Reading, Updates

LAYER = DREAMConfig(hidden_dim=8, rank=2)
RANDOM = np.random.default_rng(4)
VALUES = RANDOM.standard_normal((90, 2))
ROWS = [{"a": float(a), "b": float(b)} for a, b in VALUES]
MAKE: dict[str, Any] = {
    "classifier": lambda: DREAMClassifier(LAYER),
    "all weights": lambda: DREAMClassifier(LAYER, updates=Updates("adam", every=10, replay=20), moves="all"),
    "adam": lambda: DREAMClassifier(LAYER, updates=Updates("adam", replay=5)),
    "regressor": lambda: DREAMRegressor(LAYER),
    "forecaster": lambda: DREAMForecaster(LAYER, horizon=3, updates=Updates("least_squares", trust=0.99)),
    "detector": lambda: DREAMAnomalyDetector(LAYER, window=40),
}


def learn(model: Any, start: int, stop: int) -> None:
    for x in ROWS[start:stop]:
        if isinstance(model, DREAMClassifier):
            model.learn_one(x, "up" if x["a"] > 0 else "down")
        elif isinstance(model, DREAMRegressor):
            model.learn_one(x, 2 * x["a"] - 1)
        else:
            model.learn_one(x)


def say(model: Any, x: dict[str, float]) -> Any:
    if isinstance(model, DREAMClassifier):
        return model.predict_proba_one(x)
    if isinstance(model, DREAMForecaster):
        return model.forecast()
    return model.score_one(x) if isinstance(model, DREAMAnomalyDetector) else model.predict_one(x)


@pytest.mark.parametrize("name", MAKE)
class TestEvery:
    def test_it_goes_on_from_a_file_bit_for_bit(self, name: str, tmp_path: Path) -> None:
        model = MAKE[name]()
        learn(model, 0, 30)
        model.save(tmp_path / "model.safetensors")
        other = type(model).load(tmp_path / "model.safetensors")
        for k in range(30, 55):
            assert say(model, ROWS[k]) == say(other, ROWS[k])
            learn(model, k, k + 1)
            learn(other, k, k + 1)

    def test_asking_changes_nothing(self, name: str) -> None:
        quiet, asked = MAKE[name](), MAKE[name]()
        for k in range(30):
            say(asked, {"b": 3.0, "a": float(k)})
            learn(quiet, k, k + 1)
            learn(asked, k, k + 1)
        assert say(quiet, ROWS[30]) == say(asked, ROWS[30])

    def test_a_file_before_the_first_row(self, name: str, tmp_path: Path) -> None:
        model = MAKE[name]()
        model.save(tmp_path / "model")
        other = type(model).load(tmp_path / "model")
        learn(model, 0, 20)
        learn(other, 0, 20)
        assert say(model, ROWS[20]) == say(other, ROWS[20])

    def test_random_numbers_of_others_are_not_disturbed(self, name: str) -> None:
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        learn(MAKE[name](), 0, 2)
        assert torch.equal(torch.rand(3), expected)

    def test_damaged_or_other_files_are_refused(self, name: str, tmp_path: Path) -> None:
        model = MAKE[name]()
        path = tmp_path / "model"
        with pytest.raises(CheckpointError, match="does not exist"):
            type(model).load(path)
        learn(model, 0, 3)
        model.save(path)
        stranger = DREAMRegressor if not isinstance(model, DREAMRegressor) else DREAMClassifier
        with pytest.raises(CheckpointError, match=f"of a {stranger.__name__}"):
            stranger.load(path)
        whole = path.read_bytes()
        settings, values = whole.index(b"normalization"), len(whole) - 1
        for damaged in (
            whole[:100],
            *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (settings, values)),
        ):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match="is damaged"):
                type(model).load(path)


def test_a_classifier_says_what_the_tasks_engine_says() -> None:
    model = DREAMClassifier(LAYER, classes=2)
    learn(model, 0, 1)
    twin = DREAMClassifier(LAYER, classes=2)
    twin.columns = ["a", "b"]
    first = "up" if ROWS[0]["a"] > 0 else "down"
    labels = torch.tensor([int(("up" if x["a"] > 0 else "down") != first) for x in ROWS])
    said = twin._start().process(torch.from_numpy(VALUES), labels).predictions[:, 0].softmax(-1)
    for k in range(1, 60):
        shares = model.predict_proba_one(ROWS[k])
        assert next(iter(shares.values())) == pytest.approx(
            float(said[k, 0] if len(shares) == 2 else 1.0), abs=1e-4
        )
        learn(model, k, k + 1)


def test_cold_starts() -> None:
    assert DREAMClassifier(LAYER).predict_one({"a": 1.0}) is None
    assert DREAMClassifier(LAYER).predict_proba_one({"a": 1.0}) == {}
    assert DREAMRegressor(LAYER).predict_one({"a": 1.0}) == 0.0
    assert DREAMForecaster(LAYER).forecast() == []
    assert DREAMAnomalyDetector(LAYER).score_one({"a": 1.0}) == 0
    assert DREAMClassifier(LAYER).learn_one({"a": 1.0}, True).predict_one({"a": 2.0}) is True


def test_they_learn() -> None:
    classifier, regressor = DREAMClassifier(LAYER), DREAMRegressor(LAYER)
    right, squares = 0, []
    for k, x in enumerate(ROWS):
        if k >= 60:
            right += classifier.predict_one(x) == ("up" if x["a"] > 0 else "down")
            squares.append((regressor.predict_one(x) - (2 * x["a"] - 1)) ** 2)
        learn(classifier, k, k + 1)
        learn(regressor, k, k + 1)
    assert right >= 25  # of 30
    assert math.sqrt(np.mean(squares)) < 0.4  # of a deviation of 2


def test_a_detector_scores_as_the_anomaly_task_and_keeps_it_in_a_file(tmp_path: Path) -> None:
    model = MAKE["detector"]()
    learn(model, 0, 70)
    model.learn_one({"a": None, "b": 0.1})
    model.save(tmp_path / "model")
    other = DREAMAnomalyDetector.load(tmp_path / "model")
    for k in range(70, 80):
        usual, odd, unknown = ({"a": a, "b": ROWS[k]["b"]} for a in (ROWS[k]["a"], 12.0, None))
        scores = [model.score_one(x) for x in (usual, odd, unknown)]
        assert scores == [other.score_one(x) for x in (usual, odd, unknown)]
        assert scores[1] > 0.3 > max(scores[0], scores[2]) > 0
        learn(model, k, k + 1)
        learn(other, k, k + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: DREAMRegressor(LAYER).learn_one({"a": "high"}, 1.0),
            r"`x\['a'\]` must be a finite number.*'high'",
        ),
        (lambda: DREAMRegressor(LAYER).learn_one({}, 1.0), "`x` must be a dictionary"),
        (lambda: DREAMRegressor(LAYER).learn_one({"a": 1.0}, None), "`y` must be a finite number; got None"),  # type: ignore[arg-type]
        (
            lambda: DREAMClassifier(LAYER).learn_one({"a": 1.0}, (1, 2)),
            "`y` must be a text, a finite number, True or False",
        ),
        (
            lambda: DREAMClassifier(LAYER).learn_one({"a": 1.0}, math.inf),
            "`y` must be a text, a finite number",
        ),
        (lambda: DREAMForecaster(LAYER).learn_one(math.inf), "`y` must be a finite number"),
        (
            lambda: DREAMRegressor(LAYER).learn_one({"a": 10**5000}, 1.0),
            r"`x\['a'\]` must be .*; got a number too long to print",
        ),
        (
            lambda: DREAMForecaster(LAYER).learn_one(10**5000),
            "`y` must be a finite number.*; got a number too long to print",
        ),
        (
            lambda: DREAMRegressor(LAYER).learn_one(10**5000, 1.0),
            "`x` must be a dictionary.*too long to print",
        ),  # type: ignore[arg-type]
        (
            lambda: DREAMClassifier(LAYER).learn_one({"a": 1.0}, 10**5000),
            "`y` must be a number of at most 4,300 digits",
        ),
        (
            lambda: DREAMRegressor(LAYER).learn_one({"a": 1.0}, 10**400),
            "`y` must be a finite number of at most 1.8e.19",
        ),
        (
            lambda: DREAMRegressor(LAYER).learn_one({"a": -1.9e19}, 1.0),
            r"`x\['a'\]` must be .* of at most 1.8e.19 in size",
        ),
        (
            lambda: DREAMClassifier(LAYER).learn_one({"a": 1.0}, math.nan),
            "`y` must be a text, a finite number.*got nan",
        ),
        (lambda: DREAMClassifier(LAYER).learn_one({"a": 1.0}, VALUES), "`y` must be a text, a finite number"),  # type: ignore[arg-type]
        (lambda: DREAMForecaster(LAYER).learn_one({"a": 1.0}, {"a": 2.0}), "`a` is one of `y`"),
    ],
)
def test_what_is_no_row_is_refused(call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()


def test_columns_may_be_numbered() -> None:
    named, numbered = DREAMRegressor(LAYER), DREAMRegressor(LAYER)
    named.learn_one({"0": 1.0, "1": 2.0}, 3.0)
    numbered.learn_one({0: 1.0, 1: 2.0}, 3.0)  # type: ignore[dict-item]
    assert numbered.predict_one({1: 4.0, 0: 0.0}) == named.predict_one({"0": 0.0, "1": 4.0})  # type: ignore[dict-item]


def test_limits_are_said() -> None:
    model = DREAMClassifier(LAYER, classes=2).learn_one({"a": 1.0}, 0).learn_one({"a": 2.0}, 1)
    with pytest.raises(DataError, match=r"at most 2 classes; 2 is one more\. Raise `classes`"):
        model.learn_one({"a": 1.0}, 2)
    with pytest.raises(ConfigError, match="`horizon` must be from 1 to 2; got 3"):
        DREAMForecaster(LAYER, horizon=2).forecast(3)


def test_forecasts_have_the_form_of_the_rows() -> None:
    model = DREAMForecaster(LAYER, horizon=2)
    for x in ROWS[:10]:
        model.learn_one({"a": x["a"]}, {"b": x["b"]})
    assert [list(row) for row in model.forecast()] == [["a"], ["a"]]
    assert len(model.forecast(1)) == 1


@pytest.mark.parametrize("kind", ["running", "differences"])
def test_the_measurement_unit_changes_no_forecast(kind: Any) -> None:
    small, large = (DREAMForecaster(LAYER, Reading(kind, 0.01)) for _ in range(2))
    for k in range(60):
        value = 3.0 + math.sin(k / 3) + 0.1 * VALUES[k, 0]
        small.learn_one(value)
        large.learn_one(2.0**20 * value)
        assert large.forecast() == [2.0**20 * small.forecast()[0]]
        assert k or small.forecast() == [value]  # without a scale the level stays


def test_a_regression_learns_in_any_measurement_unit() -> None:
    small, large = DREAMRegressor(LAYER), DREAMRegressor(LAYER)
    for x in ROWS[:60]:
        small.learn_one(x, x["a"] + 0.5)
        large.learn_one(x, 2.0**20 * (x["a"] + 0.5))
    assert large.predict_one(ROWS[60]) == 2.0**20 * small.predict_one(ROWS[60])


@pytest.mark.parametrize("columns", [1, 2, 6])
def test_the_layer_that_is_not_chosen_suits_the_columns(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dream.config._warned", set())
    rows = [{f"x{k}": float(np.sin(t + k)) for k in range(columns)} for t in range(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # among them the one of a rank above the width
        regressor, forecaster = DREAMRegressor(), DREAMForecaster()
        for row in rows:
            regressor.learn_one(row, 1.0)
            forecaster.learn_one(row)
    for model in (regressor, forecaster):
        assert model.learner is not None
        config = model.learner.network.config
        assert config.rank == min(config.input_dim, 4)
