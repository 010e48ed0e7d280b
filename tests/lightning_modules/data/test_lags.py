"""`lags`: the last values of a single column as further columns, in every task and row object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig
from dream.errors import ConfigError, DREAMError
from lightning_modules import AnomalyModule, ForecastingModule, OnlineModule
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.columns import lagged
from lightning_modules.forecasting import TableData
from lightning_modules.learners import DREAMAnomalyDetector, DREAMClassifier, DREAMForecaster, DREAMRegressor
from lightning_modules.online import TableStream
from lightning_modules.stream import Reading, Shape, StreamNetwork
from tests.lightning_modules.support import small_trainer

VALUES = np.random.default_rng(0).normal(size=400).cumsum()
SMALL = DREAMConfig(hidden_dim=8, rank=4)
GAPS = [5, 6, 40, 250]
FORECAST = dict(look_back=12, horizon=4, season=4, batch_size=16)
ONLINE = dict(warm_up=200, validation=60, crop=48, context=8, batch_size=8, crops=16)
TASKS: dict[str, Any] = {
    "forecasting": (TableData, ForecastingModule, FORECAST, {"patch": 4}),
    "anomaly": (AnomalyTable, AnomalyModule, {"training": 200, "train_chunk": 40}, {}),
    "online": (TableStream, OnlineModule, ONLINE, {}),
}


def gappy() -> np.ndarray:
    values = VALUES.copy()
    values[GAPS] = np.nan
    return values


def test_lagged_by_hand() -> None:
    values = torch.arange(1.0, 5.0).view(1, 4, 1)
    past, before = lagged(values, torch.tensor([-2.0, -1.0]).view(1, 2, 1))
    assert past[0].tolist() == [[-1, -2], [1, -1], [2, 1], [3, 2]]
    assert before.flatten().tolist() == [3, 4]
    short, kept = lagged(values[:, :1], torch.tensor([-2.0, -1.0]).view(1, 2, 1))
    assert (short.tolist(), kept.flatten().tolist()) == ([[[-1, -2]]], [-1, 1])


@pytest.mark.parametrize("missing", ["error", "mask", "model"])
def test_a_forecaster_reads_columns_of_past_values(missing: str) -> None:
    values = VALUES if missing == "error" else gappy()
    plain, data = (TableData.of(values, missing=missing, lags=lags, **FORECAST) for lags in (1, 3))
    assert data.columns == ("column_1", "column_1_lag1", "column_1_lag2")
    assert (data.channels, data.target_columns, data.shape.covariates) == (1, ("column_1",), 2)
    own, table = plain.prepared.tables, data.prepared.tables
    assert torch.equal(table.values[:, 0], own.values[:, 0])
    torch.testing.assert_close(table.targets, own.targets, equal_nan=True)
    raw = data.scaler.inverse(table.values[:, :3].double(), slice(3))
    for lag in (1, 2):
        torch.testing.assert_close(raw[lag:, lag], raw[:-lag, 0], rtol=1e-4, atol=1e-4)
    if missing == "error":
        assert raw[:2, 2].tolist() == pytest.approx([VALUES[0]] * 2, rel=1e-4)  # before the first row
    elif missing == "mask":
        ages = table.values[:, 3:]
        assert ages.shape[1] == 3
        assert torch.equal(ages[2:, 2], ages[:-2, 0])
        assert ages[:2, 2].tolist() == [1, 1]
    else:
        assert (~table.observed[:, 0]).nonzero().flatten().tolist() == GAPS
        assert (~table.observed[:, 2]).nonzero().flatten().tolist() == [0, 1, *(row + 2 for row in GAPS)]


def test_a_forecasters_calendar_comes_after_them(tmp_path: Path) -> None:
    time = pd.date_range("2024-01-01", periods=400, freq="h")
    frame = pd.DataFrame({"time": time, "load": VALUES})
    data = TableData.of(frame, lags=2, calendar=["hour"], **FORECAST)
    assert data.columns == ("load", "load_lag1", "hour_sin", "hour_cos")
    (batch,) = data.predict_dataloader()
    assert batch.known.shape == (1, 4, 2)
    frame.to_parquet(tmp_path / "table.parquet")
    stored = TableData(str(tmp_path / "table.parquet"), lags=2, calendar=["hour"], mapped=True, **FORECAST)
    assert torch.equal(stored.prepared.values, data.prepared.values)


@pytest.mark.parametrize("core", ["dream", "lstm"])
def test_the_engine_reads_what_it_read_before(core: Any) -> None:
    torch.manual_seed(0)
    shape = Shape("forecasting", 1, 1, lags=4)
    network = StreamNetwork(shape, Reading("running", 0.05), SMALL, core).eval()
    assert network.config.input_dim == 4
    rows = torch.from_numpy(gappy())[:80, None]
    relative, state = network.relate(rows[None], network.init_state())
    seen = relative.seen[0, :, 0]
    unread = torch.nan if core == "dream" else 0.0
    for lag in (1, 2, 3):
        torch.testing.assert_close(seen[lag:, lag], seen[:-lag, 0], equal_nan=True)
        torch.testing.assert_close(seen[:lag, lag], torch.full((lag,), unread).double(), equal_nan=True)
    carried, parts = network.init_state(), []
    for part in rows.split([1, 2, 50, 27]):
        made, carried = network.relate(part[None], carried)
        parts.append(made.seen)
    torch.testing.assert_close(torch.cat(parts, 1), relative.seen, equal_nan=True)
    torch.testing.assert_close(carried.recent, state.recent, equal_nan=True)


@pytest.mark.parametrize("core", ["dream", "lstm"])
def test_a_detector_reads_past_levels(core: Any) -> None:
    whole, cut = (AnomalyTable.of(gappy(), training=200, missing="model", lags=3, chunk=c) for c in (400, 7))
    torch.manual_seed(0)
    module = AnomalyModule.for_data(whole, config=SMALL, core=core)
    module.prepare(whole)
    inputs = []
    for data in (whole, cut):
        made = [module.relative(batch)[0].inputs for batch in data.test_dataloader()]
        inputs.append(torch.from_numpy(np.concatenate(made, 1)[0]))
    torch.testing.assert_close(inputs[0], inputs[1], equal_nan=True)
    x = inputs[0]
    assert x.shape == (400, 4)
    for lag in (1, 2):
        torch.testing.assert_close(x[lag:, 1 + lag], x[:-lag, 0], equal_nan=True)
        assert not x[:lag, 1 + lag].any()


@pytest.mark.parametrize("core", ["dream", "gru"])
@pytest.mark.parametrize("task", TASKS)
def test_a_whole_run(task: str, core: Any, tmp_path: Path) -> None:
    kind, model, facts, settings = TASKS[task]
    data = kind.of(gappy(), missing="model", lags=4, **facts)
    torch.manual_seed(0)
    module = model.for_data(data, config=SMALL, core=core, **settings)
    module.prepare(data)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert all(np.isfinite(value) for row in module.results.values() for value in row.values())
    assert len(module.prediction_table(trainer.predict(module, data)))


@pytest.mark.parametrize("task", TASKS)
def test_several_columns_are_refused(task: str) -> None:
    kind, _, facts, _ = TASKS[task]
    with pytest.raises(
        ConfigError, match=r"`lags` must be 1 for several columns; got 4 for column_1, column_2"
    ):
        _ = kind.of(np.stack([VALUES, VALUES + 1], 1), lags=4, **facts).shape
    with pytest.raises(ConfigError, match="`lags` must be"):
        kind.of(VALUES, lags=0, **facts)


@pytest.mark.parametrize("kind", [DREAMClassifier, DREAMRegressor, DREAMForecaster, DREAMAnomalyDetector])
def test_row_objects_offer_them(kind: Any, tmp_path: Path) -> None:
    def learn(model: Any, x: Any, k: int) -> None:
        model.learn_one(
            x, *([bool(k % 2)] if kind is DREAMClassifier else [k] if kind is DREAMRegressor else [])
        )

    model = kind(SMALL, lags=5)
    for k, value in enumerate(VALUES[:30]):
        learn(model, {"a": value}, k)
    feedback = {DREAMClassifier: 10, DREAMRegressor: 1}.get(kind, 0)
    assert model.learner.network.config.input_dim == 5 + feedback
    model.save(tmp_path / "model")
    other = kind.load(tmp_path / "model")
    assert other.lags == 5
    for k, value in enumerate(VALUES[30:40]):
        learn(model, {"a": value if k else None}, k)
        learn(other, {"a": value if k else None}, k)
    for name, one in model.learner.tensors().items():
        assert torch.equal(one.nan_to_num(), other.learner.tensors()[name].nan_to_num()), name
    model = kind(SMALL, lags=5)
    with pytest.raises(DREAMError, match="`lags` must be 1 for several columns; got 5 for a, b"):
        learn(model, {"a": 1.0, "b": 2.0}, 0)
    learn(model, {"a": 1.0}, 0)  # nothing had changed
