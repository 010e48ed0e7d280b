"""Tables of polars and pyarrow: read as those of pandas, and answered in kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dream import DREAMConfig
from lightning_modules import (
    AnomalyModule,
    DREAMAnomalyDetector,
    DREAMClassifier,
    DREAMForecaster,
    DREAMRegressor,
    ForecastingModule,
    OnlineModule,
)
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.frames import as_pandas, in_kind, kind_of
from lightning_modules.forecasting import TableData
from lightning_modules.online import TableStream
from tests.lightning_modules.support import small_trainer

polars = pytest.importorskip("polars")
ROWS = 260
FRAME = pd.DataFrame(
    {
        "time": pd.date_range("2024-01-01", periods=ROWS, freq="h", tz="Europe/Berlin"),
        "a": np.sin(np.arange(ROWS) / 5),
        "b": np.arange(ROWS) % 7,
        "up": np.arange(ROWS) % 3 == 0,
        "place": np.array(["north", "south"])[np.arange(ROWS) % 2],
    }
)
KINDS: dict[str, tuple[Callable[[pd.DataFrame], Any], type]] = {
    "pandas": (lambda table: table, pd.DataFrame),
    "polars": (polars.from_pandas, polars.DataFrame),
    "lazy": (lambda table: polars.from_pandas(table).lazy(), polars.DataFrame),
    "pyarrow": (pa.Table.from_pandas, pa.Table),
}
SMALL = DREAMConfig(hidden_dim=8, rank=2)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str) -> None:
    make, answer = KINDS[kind]
    there = as_pandas(make(FRAME))
    pd.testing.assert_frame_equal(there, FRAME, check_dtype=False)
    back = in_kind(there, kind_of(make(FRAME)))
    assert isinstance(back, answer)
    pd.testing.assert_frame_equal(as_pandas(back), FRAME, check_dtype=False)


def test_anything_else_stays() -> None:
    for value in ([1, 2], np.arange(3), {"a": 1}, None):
        assert as_pandas(value) is value
        assert kind_of(value) == "pandas"
    assert as_pandas(polars.Series([1.0, None])).isna().tolist() == [False, True]


TASKS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "windows": lambda table: (
        data := TableData.of(table, look_back=24, horizon=4, known_covariates=None, targets=["a"]),
        ForecastingModule.for_data(data, config=SMALL, patch=4),
    ),
    "online": lambda table: (
        data := TableStream.of(table, crop=24, context=8, crops=16, targets=["a"]),
        OnlineModule.for_data(data, config=SMALL),
    ),
    "classes": lambda table: (
        data := TableStream.of(table, crop=24, context=8, crops=16, targets=["up"]),
        OnlineModule.for_data(data, config=SMALL),
    ),
    "anomalies": lambda table: (
        data := AnomalyTable.of(table, training=120, columns=["a", "b"]),
        AnomalyModule.for_data(data, config=SMALL),
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_answered_in_kind(task: str, tmp_path: Path) -> None:
    answers = {}
    for kind in ("pandas", "polars", "pyarrow"):
        make, answer = KINDS[kind]
        data, module = TASKS[task](make(FRAME))
        for parameter in module.parameters():  # the same weights each time, without a fit
            parameter.data.fill_(0.01)
        if task == "anomalies":
            small_trainer(tmp_path).fit(module, data)
        answers[kind] = module.prediction_table(small_trainer(tmp_path).predict(module, data))
        assert isinstance(answers[kind], answer)
        assert module.predictions_text(small_trainer(tmp_path).predict(module, data)).count("\n") > 1
    for kind in ("polars", "pyarrow"):
        found = as_pandas(answers[kind])
        assert list(found.columns) == list(answers["pandas"].columns)
        numbers = found.select_dtypes("number").columns
        assert len(found) == len(answers["pandas"])
        if task != "anomalies":
            np.testing.assert_allclose(found[numbers], answers["pandas"][numbers])


@pytest.mark.parametrize("kind", ["polars", "lazy", "pyarrow"])
def test_row_objects_learn_many(kind: str) -> None:
    make, _ = KINDS[kind]
    inputs = FRAME[["a", "b"]]
    column = {
        "polars": polars.from_pandas,
        "lazy": polars.from_pandas,
        "pyarrow": lambda series: pa.chunked_array([pa.array(series)]),
    }[kind]

    def learnt(convert: Callable[[Any], Any], series: Callable[[Any], Any]) -> list[Any]:
        forecaster = DREAMForecaster(horizon=2).learn_many(convert(FRAME[["a"]]), convert(FRAME[["b"]]))
        lone = DREAMForecaster().learn_many(series(FRAME["a"]))
        classifier = DREAMClassifier().learn_many(convert(inputs), series(FRAME["place"]))
        regressor = DREAMRegressor().learn_many(convert(inputs), series(FRAME["a"]))
        detector = DREAMAnomalyDetector().learn_many(convert(inputs))
        row = {"a": 0.5, "b": 3.0}
        return [
            forecaster.forecast(),
            lone.forecast(),
            classifier.predict_proba_one(row),
            regressor.predict_one(row),
            detector.score_one(row),
        ]

    assert learnt(make, column) == learnt(lambda table: table, lambda series: series)
