"""Tables of rows: what `learn_many` learns is what `learn_one` of each row does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dream import DataError, DREAMConfig
from lightning_modules.learners import (
    DREAMAnomalyDetector,
    DREAMClassifier,
    DREAMForecaster,
    DREAMRegressor,
    base,
)
from lightning_modules.stream import Reading, Updates
from tests.lightning_modules.learners.test_calls import facts

LAYER = DREAMConfig(hidden_dim=8, rank=2)
ROWS = 70
VALUES = np.random.default_rng(4).standard_normal((ROWS, 3)).cumsum(0)
VALUES[[5, 20, 21, 40], 0] = np.nan
VALUES[[0, 30, 40], 1] = np.nan
TABLE = pd.DataFrame(VALUES, columns=["a", "b", "c"])
LABELS = ["up" if value > 0 else "down" for value in np.nan_to_num(VALUES[:, 2])]
NUMBERS = (2 * VALUES[:, 2] + 1).tolist()
SQUARES = Updates("least_squares", every=3, forgetting=0.99)
RECORD = Updates("least_squares", trust=0.99)
PROFILE = Reading("differences", 0.05, True, lags=[0, 1, 5], means=[3], profile_rate=0.2)
MAKE: dict[str, Any] = {
    "forecaster": lambda: DREAMForecaster(LAYER, horizon=3),
    "channels": lambda: DREAMForecaster(LAYER, PROFILE, SQUARES, horizon=2, season=6),
    "record": lambda: DREAMForecaster(LAYER, updates=RECORD, horizon=2),
    "all weights": lambda: DREAMForecaster(LAYER, updates=Updates("adam", every=10, replay=20), moves="all"),
    "classifier": lambda: DREAMClassifier(LAYER),
    "adam": lambda: DREAMClassifier(LAYER, updates=Updates("adam", every=2, replay=5)),
    "shares": lambda: DREAMClassifier(LAYER, updates=SQUARES),
    "regressor": lambda: DREAMRegressor(LAYER),
    "detector": lambda: DREAMAnomalyDetector(LAYER, window=40),
}


def row(k: int, columns: Iterable[str] = "abc") -> dict[str, float]:
    return {name: float(TABLE[name][k]) for name in columns}


def learn(model: Any, start: int, stop: int, many: bool) -> None:
    part, rows = slice(start, stop), range(start, stop)
    if isinstance(model, DREAMForecaster):
        if many:
            model.learn_many(TABLE[["a", "b"]][part], TABLE[["c"]][part])
        else:
            for k in rows:
                model.learn_one(row(k, "ab"), row(k, "c"))
        return
    known = {DREAMClassifier: LABELS, DREAMRegressor: NUMBERS}.get(type(model))
    if many:
        model.learn_many(TABLE[part], *([] if known is None else [known[part]]))
    else:
        for k in rows:
            model.learn_one(row(k), *([] if known is None else [known[k]]))


@pytest.mark.parametrize("name", MAKE)
def test_a_table_is_its_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is carried, to rounding, from the start, in the middle, and where a table is cut."""
    one, many = MAKE[name](), MAKE[name]()
    for start, stop, at_once in ((0, 20, 4096), (20, 21, 4096), (21, ROWS, 19)):
        monkeypatch.setattr(base, "AT_ONCE", at_once)
        monkeypatch.setattr("lightning_modules.learners.detector.AT_ONCE", at_once)
        learn(one, start, stop, many=False)
        learn(many, start, stop, many=True)
        (extra, columns, tensors), (others, same, values) = facts(one), facts(many)
        assert (extra, columns) == (others, same)
        assert tensors.keys() == values.keys()
        held = one.learner.tensors() | one._tensors()
        for key, value in (many.learner.tensors() | many._tensors()).items():
            expected = held[key].double().numpy()
            size = 1 + np.abs(np.nan_to_num(expected)).max(initial=0)
            np.testing.assert_allclose(
                value.double().numpy() / size, expected / size, rtol=0, atol=2e-3, err_msg=key
            )


def test_a_single_column_of_numbers() -> None:
    one, values = DREAMForecaster(LAYER, horizon=2), [*np.sin(np.arange(40) / 3), None, 0.5]
    for value in values:
        one.learn_one(value)
    for given in (values, pd.Series(values), np.array(values, float)):
        many = DREAMForecaster(LAYER, horizon=2).learn_many(given)
        assert many.forecast() == pytest.approx(one.forecast(), abs=1e-3)
        many.learn_one(1.0)


def test_rows_may_come_as_dictionaries_and_objects() -> None:
    rows = [row(k) for k in range(20)]
    named = DREAMRegressor(LAYER).learn_many(rows, iter(NUMBERS[:20]))
    table = TABLE[:20].astype(object).where(TABLE[:20].notna(), None)
    objects = DREAMRegressor(LAYER).learn_many(table, pd.Series(NUMBERS[:20], dtype=object))
    assert named.predict_one(row(20)) == objects.predict_one(row(20))


def test_a_column_that_is_absent_was_not_observed() -> None:
    one, many = DREAMRegressor(LAYER).learn_one(row(0), 1.0), DREAMRegressor(LAYER).learn_one(row(0), 1.0)
    for k in range(1, 9):
        one.learn_one(row(k, "ca"), NUMBERS[k])
    many.learn_many(TABLE[["c", "a"]][1:9], NUMBERS[1:9])
    assert many.predict_one(row(9)) == pytest.approx(one.predict_one(row(9)), abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.learn_many(TABLE[:3], NUMBERS[:2]), "`y` must have one value for each of 3 rows; got 2"),
        (lambda m: m.learn_many(TABLE[:0], []), "`x` must hold at least one row"),
        (lambda m: m.learn_many([], []), "`x` must hold at least one row"),
        (lambda m: m.learn_many({"a": 1.0}, [1.0]), "`x` must be a DataFrame or a list of rows"),
        (lambda m: m.learn_many(TABLE[:2], 1.0), "`y` must be a list or a Series; got 1.0"),
        (lambda m: m.learn_many(TABLE[:2], TABLE[:2]), "`y` must be a list or a Series"),
        (lambda m: m.learn_many(TABLE.rename(columns={"b": "a"})[:2], NUMBERS[:2]), "hold each column once"),
        (lambda m: m.learn_many(TABLE[:2] * 1e30, NUMBERS[:2]), r"`x\['a'\]` must be a finite number"),
        (lambda m: m.learn_many(TABLE[:2], [1.0, None]), "`y` must be a finite number; got nan"),
        (lambda m: m.learn_many(TABLE[:2], ["low", "high"]), "`y` must be a finite number.*'low'"),
    ],
)
def test_a_refusal_leaves_the_object_able_to_go_on(call: Any, message: str) -> None:
    model, other = (DREAMRegressor(LAYER).learn_many(TABLE[:9], NUMBERS[:9]) for _ in range(2))
    with pytest.raises(DataError, match=message):
        call(model)
    assert facts(model) == facts(other)
    model.learn_one(row(9), 1.0)


def test_tables_that_do_not_fit_a_forecaster() -> None:
    model = DREAMForecaster(LAYER).learn_many(TABLE[["a"]], TABLE[["b"]])
    with pytest.raises(DataError, match="`x` must hold other columns than `y`"):
        model.learn_many(TABLE[["a"]], TABLE[["a"]])
    with pytest.raises(DataError, match="`x` must have one value for each of 3 rows; got 2"):
        model.learn_many(TABLE[["a"]][:3], TABLE[["b"]][:2])
    with pytest.raises(DataError, match="`y` must be of the kind of the first row"):
        model.learn_many([1.0, 2.0])
    assert list(model.forecast()[0]) == ["a"]


def test_one_class_too_many() -> None:
    model = DREAMClassifier(LAYER, classes=2)
    with pytest.raises(DataError, match="at most 2 classes; 'third' is one more"):
        model.learn_many(TABLE[:3], ["first", "second", "third"])
    assert (model.labels, model.columns, model.learner) == ([], [], None)
