"""Absent rows are told in one line by every task that reads a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lightning_modules.anomaly import AnomalyTable
from lightning_modules.forecasting import TableData
from lightning_modules.online import TableStream

ROWS = 300
WHOLE = pd.DataFrame(
    {"time": pd.date_range("2024-01-01", periods=ROWS, freq="h"), "a": np.sin(np.arange(ROWS) / 5)}
)
HOLED = WHOLE.drop(index=[*range(50, 53), 250]).reset_index(drop=True)
SAID = "uneven: 2 gaps, the longest 3 hours"
TASKS = {
    "windows": lambda table: TableData.of(table, look_back=24, horizon=4),
    "online": lambda table: TableStream.of(table, crop=24, context=8),
    "anomalies": lambda table: AnomalyTable.of(table, training=150),
}


@pytest.mark.parametrize("task", TASKS)
def test_absent_rows_are_told(task: str, caplog: pytest.LogCaptureFixture) -> None:
    TASKS[task](WHOLE).setup("fit")
    assert "uneven" not in caplog.text
    data = TASKS[task](HOLED)
    data.setup("fit")
    data.setup("test")
    assert [SAID in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("task", ["online", "anomalies"])
def test_the_remedy_works(task: str, caplog: pytest.LogCaptureFixture) -> None:
    TASKS[task](HOLED).setup("fit")
    assert "Insert absent rows with empty values and read them with `--data.missing=model`" in caplog.text
    caplog.clear()
    filled = HOLED.set_index("time").asfreq("h").reset_index()
    options = dict(crop=24, context=8) if task == "online" else dict(training=150)
    kind = TableStream if task == "online" else AnomalyTable
    kind.of(filled, missing="model", **options).setup("fit")
    assert "uneven" not in caplog.text


def test_a_forecast_tells_gaps_in_the_rows_that_it_is_made_from(caplog: pytest.LogCaptureFixture) -> None:
    schema = TASKS["windows"](WHOLE).schema
    for rows, told in ((slice(None), False), (slice(255), True)):
        caplog.clear()
        data = TASKS["windows"](HOLED[rows])
        data.follow(schema)
        data.predict_dataloader()
        assert ("the rows that the forecast is made from are uneven: 1 gap of 1 hour" in caplog.text) == told
