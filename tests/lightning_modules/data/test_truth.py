"""Targets that may be classes, and columns that tell the anomalies: said, with the flags that decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dream.errors import DataError, DREAMWarning
from lightning_modules import DREAMAnomalyDetector
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.truth import class_like, is_truth
from lightning_modules.forecasting import TableData
from lightning_modules.online import TableStream

ROWS = 300
COUNT = np.arange(ROWS)


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"a": np.sin(COUNT / 7), **columns})


def test_few_whole_numbers() -> None:
    columns = {
        "two": COUNT % 2,
        "shifted": COUNT % 2 + 4.0,
        "five": COUNT % 5,
        "six": COUNT % 6,
        "halves": COUNT % 2 / 2,
        "constant": COUNT * 0 + 1,
        "with gaps": np.where(COUNT % 7, COUNT % 3, np.nan),
        "counted": COUNT,
    }
    found = class_like(np.stack([np.asarray(c, float) for c in columns.values()], 1), list(columns))
    assert found == {"two": [0, 1], "shifted": [4, 5], "five": [0, 1, 2, 3, 4], "with gaps": [0, 1, 2]}


def test_windows_tell_targets_that_may_be_classes(caplog: pytest.LogCaptureFixture) -> None:
    data = TableData.of(table(state=COUNT // 9 % 2), look_back=24, horizon=4)
    data.setup("fit")
    assert "`state` holds only 0 and 1, forecast as numbers" in caplog.text
    assert "`dream fit -c online_csv --data.task=classification --data.targets=[NAME]`" in caplog.text
    caplog.clear()
    again = TableData.of(table(state=COUNT // 9 % 2), look_back=24, horizon=4)
    again.follow(data.schema)
    again.setup("test")
    TableData.of(table(state=COUNT // 9 % 2), look_back=24, horizon=4, covariates=["state"]).setup("fit")
    assert "holds only" not in caplog.text


def test_a_stream_tells_them_until_the_task_is_stated(caplog: pytest.LogCaptureFixture) -> None:
    frame = table(state=COUNT // 9 % 3)
    for targets in (None, ["state"]):
        assert TableStream.of(frame, targets=targets).task == "forecasting"
        assert "`state` holds only 0, 1 and 2, forecast as numbers" in caplog.text
        assert "--data.task=classification` predicts one as classes; `--data.task=forecasting`" in caplog.text
        caplog.clear()
    assert TableStream.of(frame, targets=["state"], task="forecasting").task == "forecasting"
    assert TableStream.of(frame, targets=["state"], task="classification").task == "classification"
    assert "holds only" not in caplog.text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *((name, True) for name in ("label", "Anomaly", "is_anomaly", "isAnomaly", "target", "Is Outlier")),
        *((name, False) for name in ("a", "labelled_flow", "anomaly_score", "targeted", "pressure")),
    ],
)
def test_names_of_the_truth(name: str, told: bool) -> None:
    assert is_truth(name) == told


def test_the_truth_is_not_watched(tmp_path: Path) -> None:
    frame = table(label=(COUNT > 250).astype(int))
    with pytest.raises(DataError, match=r"`label` holds 0 and 1 .*label_column=label`.*columns=\[a\]`"):
        AnomalyTable.of(frame, training=150).setup()
    assert AnomalyTable.of(frame, training=150, label_column="label").columns == ("a",)
    assert AnomalyTable.of(frame, training=150, columns=["a"]).columns == ("a",)
    assert AnomalyTable.of(frame, training=150, columns=["a", "label"]).columns == ("a", "label")
    assert AnomalyTable.of(table(label=COUNT / 3), training=150).columns == ("a", "label")


def test_it_is_not_watched_in_a_later_file_either() -> None:
    learned = AnomalyTable.of(table(), training=150).schema
    later = AnomalyTable.of(table(anomaly=COUNT % 2), training=150)
    later.follow(learned)
    with pytest.raises(DataError, match=r"--data\.label_column=anomaly"):
        later.setup()
    both = AnomalyTable.of(table(label=COUNT % 2), training=150, columns=["a", "label"])
    again = AnomalyTable.of(table(label=COUNT % 2), training=150)
    again.follow(both.schema)  # of a run that was told to watch it
    assert again.columns == ("a", "label")


def test_a_row_object_tells_it() -> None:
    detector = DREAMAnomalyDetector()
    with pytest.warns(DREAMWarning, match="column `is_anomaly` is watched like any other"):
        detector.learn_one({"a": 1.0, "is_anomaly": 0})
