"""Rows as programs hand them over: texts of a CSV file, other columns, and values that are no numbers."""

from __future__ import annotations

import csv
import io
import math
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DataError, DREAMConfig, DREAMWarning
from lightning_modules.learners import DREAMAnomalyDetector, DREAMClassifier, DREAMForecaster, DREAMRegressor
from lightning_modules.learners.values import number
from tests.lightning_modules.learners.test_calls import facts

LAYER = DREAMConfig(hidden_dim=8, rank=2)
ASK: dict[type, Any] = {
    DREAMClassifier: lambda model, x: model.predict_one(x),
    DREAMRegressor: lambda model, x: model.predict_one(x),
    DREAMForecaster: lambda model, x: model.learn_one(0.0, x),
    DREAMAnomalyDetector: lambda model, x: model.score_one(x),
}
LEARN: dict[type, Any] = {
    DREAMClassifier: lambda model, x: model.learn_one(x, "p"),
    DREAMRegressor: lambda model, x: model.learn_one(x, 1.0),
    DREAMForecaster: lambda model, x: model.learn_one(1.0, x),
    DREAMAnomalyDetector: lambda model, x: model.learn_one(x),
}


@pytest.mark.parametrize(
    "value",
    [
        *(
            1,
            True,
            np.float32(1),
            np.int8(1),
            np.bool_(True),
            np.array(1.0),
            torch.tensor(1),
            torch.tensor(True),
        ),
        *(Decimal("1.0"), Fraction(1), "1", " 1.0 ", "+1e0", "True", pd.Series([1.0], dtype="Float64")[0]),
    ],
)
def test_what_is_a_number(value: object) -> None:
    assert number("x", value) == 1.0
    assert type(number("x", value)) is float


@pytest.mark.parametrize(
    "value",
    [
        *(None, math.nan, np.float32("nan"), pd.NA, pd.NaT, np.array(np.nan), torch.tensor(math.nan)),
        *(Decimal("NaN"), Decimal("sNaN"), "", "  ", "NA", "nan", "NULL", "None"),
    ],
)
def test_what_is_missing(value: object) -> None:
    assert math.isnan(number("x", value))


@pytest.mark.parametrize(
    "value",
    [
        *(math.inf, 10**400, 1e30, Decimal("1e400"), "inf", "1e30", 1j, [1.0], np.array([1.0]), b"1"),
        *("red", "1,5", "1_000", pd.Timestamp("2024-01-01"), np.datetime64("2024"), pd.Timedelta(1)),
    ],
)
def test_what_is_refused(value: object) -> None:
    words = isinstance(value, str)
    with pytest.raises(DataError, match="`x` must be a finite.*" + "Write a number as 1234.5" * words):
        number("x", value)


@pytest.mark.parametrize("value", ["red", 1e30])
@pytest.mark.parametrize("kind", LEARN)
def test_a_refusal_names_the_column_and_changes_nothing(kind: Any, value: object) -> None:
    model = kind(LAYER)
    with pytest.raises(DataError, match=r"`x\['b'\]` must be a finite number"):
        LEARN[kind](model, {"a": 1.0, "b": value})
    assert (model.columns, model.learner) == ([], None)
    for k in range(3):
        LEARN[kind](model, {"a": 1.0, "b": float(k)})
    before = facts(model)
    for call in (LEARN[kind], ASK[kind]):
        with pytest.raises(DataError, match=r"`x\['b'\]`"):
            call(model, {"a": 1.0, "b": value})
    assert facts(model) == before
    LEARN[kind](model, {"a": 1.0, "b": 2.0})


@pytest.mark.parametrize("kind", LEARN)
def test_a_new_column_is_left_out_with_one_warning(kind: Any) -> None:
    model, other = kind(LAYER), kind(LAYER)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(12):
            row = {"first": 1.0, "second": float(k)}
            LEARN[kind](other, row)
            more = {"seconds": "text", "first": 1.0, "second": k, 7: object()} if k > 3 else row
            LEARN[kind](model, more)
            if kind is not DREAMForecaster:
                assert ASK[kind](model, more) == ASK[kind](other, row)
    assert facts(model) == facts(other)
    said = [str(warning.message) for warning in caught if warning.category is DREAMWarning]
    assert len(said) == 2
    assert "`seconds` is left out" in said[0]
    assert "Did you mean `second`?" in said[0]
    assert "`7` is left out" in said[1]
    assert {warning.filename for warning in caught} == {__file__}


def test_warnings_come_to_an_end() -> None:
    model = DREAMAnomalyDetector(LAYER).learn_one({"a": 1.0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(40):
            model.learn_one({"a": 1.0, f"stamp {k}": 1.0})
    assert len(caught) == 20


def test_a_warning_that_is_an_error_changes_nothing() -> None:
    model = DREAMRegressor(LAYER).learn_one({"a": 1.0}, 1.0)
    before = facts(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DREAMWarning)
        with pytest.raises(DREAMWarning):
            model.learn_one({"a": 1.0, "b": 1.0}, 1.0)
    assert facts(model) == before
    with pytest.warns(DREAMWarning, match="`b` is left out"):
        model.learn_one({"a": 1.0, "b": 1.0}, 1.0)


def test_rows_of_a_csv_file() -> None:
    """`csv.DictReader` gives texts, "" for an empty cell, None for what a short row lacks."""
    text = "a,b,y\n1,2.5,3\n2,,4\n3\n4,-1e-3,5\n"
    plain = [(1.0, 2.5, 3.0), (2.0, None, 4.0), (3.0, None, None), (4.0, -0.001, 5.0)]
    read, known = DREAMForecaster(LAYER), DREAMForecaster(LAYER)
    for row, (a, b, y) in zip(csv.DictReader(io.StringIO(text)), plain, strict=True):
        read.learn_one(row.pop("y"), row)
        known.learn_one(y, {"a": a, "b": b})
    assert facts(read) == facts(known)
    table = DREAMAnomalyDetector(LAYER).learn_many(csv.DictReader(io.StringIO(text)))
    frame = DREAMAnomalyDetector(LAYER).learn_many(pd.read_csv(io.StringIO(text), dtype=str))
    assert facts(table) == facts(frame)
    assert facts(frame) == facts(DREAMAnomalyDetector(LAYER).learn_many(pd.read_csv(io.StringIO(text))))


@pytest.mark.parametrize("labels", [(True, 1, 1.0), (0, False, np.float64(0))])
def test_equal_labels_are_one_class_with_a_warning(labels: tuple[Any, ...]) -> None:
    one, many = DREAMClassifier(LAYER), DREAMClassifier(LAYER)
    one.learn_one({"a": 1.0}, labels[0])
    for label in labels[1:]:
        with pytest.warns(DREAMWarning, match="is read as the class"):
            one.learn_one({"a": 1.0}, label)
    with pytest.warns(DREAMWarning, match="is read as the class"):
        many.learn_many([{"a": 1.0}] * 3, labels)
    assert one.labels == many.labels == [labels[0]]
    with pytest.raises(DataError, match="`y` must be a text, a finite number"):
        many.learn_many([{"a": 1.0}], [["a list"]])
