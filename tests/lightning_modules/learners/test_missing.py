"""Rows of which something was not observed: None, NaN or an absent column."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DataError, DREAMConfig, DREAMWarning
from lightning_modules.learners import DREAMAnomalyDetector, DREAMClassifier, DREAMForecaster, DREAMRegressor
from lightning_modules.stream import Reading

LAYER = DREAMConfig(hidden_dim=8, rank=2)
VALUES = np.random.default_rng(4).standard_normal((80, 2)).cumsum(0)
VALUES[[0, 20, 21, 40], 0] = np.nan
VALUES[[30, 31, 40], 1] = np.nan  # row 40 holds nothing
KINDS = (DREAMClassifier, DREAMRegressor, DREAMForecaster, DREAMAnomalyDetector)
SPELLINGS = {
    "None": lambda row: {name: None if math.isnan(value) else value for name, value in row.items()},
    "pandas": lambda row: pd.Series({n: pd.NA if math.isnan(v) else v for n, v in row.items()}, dtype=object),
    "NaT": lambda row: {name: pd.NaT if math.isnan(value) else value for name, value in row.items()},
    "absent": lambda row: {name: value for name, value in row.items() if not math.isnan(value)},
    "NumPy": lambda row: {name: np.array(value) for name, value in row.items()},
    "torch": lambda row: {n: torch.tensor(v, dtype=torch.float64) for n, v in row.items()},
    "Decimal": lambda row: {name: Decimal(repr(value)) for name, value in row.items()},
    "text": lambda row: {name: "" if math.isnan(value) else f" {value!r}" for name, value in row.items()},
    "more columns": lambda row: row | {"of text": "none of ours"},
}


def row(k: int) -> dict[str, float]:
    return {"a": float(VALUES[k, 0]), "b": float(VALUES[k, 1])}


def learn(model: Any, x: Any, k: int) -> None:
    if isinstance(model, DREAMClassifier):
        model.learn_one(x, "up" if k % 3 else "down")
    elif isinstance(model, DREAMRegressor):
        model.learn_one(x, k / 10)
    else:
        model.learn_one(x)


def asked(model: Any, x: Any) -> Any:
    if isinstance(model, DREAMForecaster):
        return model.forecast()
    if isinstance(model, DREAMClassifier):
        return model.predict_proba_one(x)
    return model.score_one(x) if isinstance(model, DREAMAnomalyDetector) else model.predict_one(x)


@pytest.mark.parametrize("kind", KINDS)
class TestEvery:
    def test_all_spellings_are_the_same(self, kind: Any) -> None:
        plain, models = kind(LAYER), {name: kind(LAYER) for name in SPELLINGS}
        for k in range(45):
            expected = asked(plain, row(k))
            learn(plain, row(k), k)
            for name, model in models.items():
                x = SPELLINGS["None" if k == 0 else name](row(k))  # the first row names the columns
                assert asked(model, x) == expected, name
                learn(model, x, k)

    def test_a_file_resumes_bit_for_bit_within_a_gap(self, kind: Any, tmp_path: Path) -> None:
        model = kind(LAYER)
        for k in range(41):
            learn(model, row(k), k)
        model.save(tmp_path / "model")
        other = kind.load(tmp_path / "model")
        for k in range(41, 50):
            assert asked(model, row(k)) == asked(other, row(k))
            learn(model, row(k), k)
            learn(other, row(k), k)

    def test_one_row_at_a_time_is_the_whole(self, kind: Any) -> None:
        """`StreamLearner.process` reads the same rows in one chunk."""
        model, twin = kind(LAYER), kind(LAYER)
        learn(model, row(0), 0)
        learn(twin, row(0), 0)
        for k in range(1, 60):
            learn(model, row(k), k)
        targets = None
        if kind is DREAMClassifier:
            targets = torch.tensor([int(bool(k % 3)) for k in range(1, 60)])
        elif kind is DREAMRegressor:
            targets = torch.arange(1, 60).double().unsqueeze(1) / 10
        twin.learner.process(torch.from_numpy(VALUES[1:60]), targets)
        # to rounding: products of one row and of many differ in the last bits, and a head learns from them
        for (name, one), other in zip(
            model.learner.tensors().items(), twin.learner.tensors().values(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3, equal_nan=True, msg=name)

    def test_nothing_moves_where_nothing_is_observed(self, kind: Any) -> None:
        model = kind(LAYER)
        for k in range(30):
            learn(model, row(k), k)
        before = model.learner.state
        learn(model, {}, 30)
        after = model.learner.state
        for (name, one), (_, other) in zip(before.normalizer.items(), after.normalizer.items(), strict=True):
            assert torch.equal(one, other), name
        core = {
            name: (one, other)
            for (name, one), (_, other) in zip(before.core[0].items(), after.core[0].items(), strict=True)
        }
        assert not torch.equal(*core["h"])  # it is free running
        if kind in (DREAMForecaster, DREAMAnomalyDetector):  # the others have observed their last target
            for name in ("adaptive_tau", "error_mean", "error_var", "avg_surprise"):
                assert torch.equal(*core[name]), name
        assert all(
            value == value
            for value in np.ravel(list(asked(model, {}).values()) if kind is DREAMClassifier else [0.0])
        )

    def test_the_first_row_names_the_columns(self, kind: Any) -> None:
        with pytest.raises(DataError, match=r"in the first row; got \{\}"):
            learn(kind(LAYER), {}, 0)
        model = kind(LAYER)
        learn(model, {"a": None, "b": None}, 0)
        with pytest.warns(DREAMWarning, match="`c` is left out"):
            learn(model, {"c": 1.0}, 1)


def test_a_detector_scores_only_what_it_sees() -> None:
    model = DREAMAnomalyDetector(LAYER, window=40)
    for k in range(80):
        model.learn_one(row(k))
    assert model.score_one({"a": 99.0, "b": VALUES[79, 1]}) > 0.5
    assert model.score_one({"a": None, "b": VALUES[79, 1]}) < 0.5
    assert model.score_one({}) == 0
    scale = model.scale.arrays()
    model.learn_one({})
    assert all(
        np.array_equal(model.scale.arrays()[name], scale[name]) for name in ("rows", "mean", "var", "level")
    )


def test_a_forecaster_goes_on_without_its_column() -> None:
    model = DREAMForecaster(LAYER, horizon=4)
    wave = [0.0, 1.0, 0.0, -1.0]
    for k in range(300):
        model.learn_one(wave[k % 4])
    level = model.forecast()
    model.learn_one(None)
    assert all(math.isfinite(value) for value in model.forecast())
    model.learn_one(wave[301 % 4])
    for k in range(302, 330):
        model.learn_one(wave[k % 4])
    assert model.forecast() == pytest.approx([wave[k % 4] for k in range(330, 334)], abs=0.1)
    assert level == pytest.approx([wave[k % 4] for k in range(300, 304)], abs=0.1)


def test_a_forecaster_of_several_columns() -> None:
    model = DREAMForecaster(LAYER)
    model.learn_one({"a": 1.0, "b": 2.0}, {"c": None})
    model.learn_one({"b": 2.0})
    model.learn_one(None, {"c": 1.0})
    model.learn_one(pd.Series({"a": 1.0}), pd.Series({"c": 3.0}))
    assert list(model.forecast()[0]) == ["a", "b"]
    with pytest.raises(DataError, match="`a` is one of `y`"):
        model.learn_one({"b": 1.0}, {"a": 1.0})
    with pytest.raises(DataError, match="`y` must be of the kind of the first row"):
        model.learn_one(1.0)


def test_a_seasonal_profile_stays_where_a_value_is_missing() -> None:
    reading = Reading("differences", 0.01, lags=4, profile_rate=0.2)
    model = DREAMForecaster(LAYER, reading, horizon=2, season=6)
    for k in range(60):
        model.learn_one(math.sin(k * math.pi / 3))
    before = model.learner.state.seasonal
    model.learn_one(None)
    after = model.learner.state.seasonal
    assert (after.row - before.row).item() == 1
    for name in ("level", "profile", "rows", "visits"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    model.learn_one(math.sin(61 * math.pi / 3))
    assert all(math.isfinite(value) for value in model.forecast())
