"""Values that are too large, as they stand or standardised, are refused by file, column and row; the largest
legal pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DataError, DREAMConfig
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.base import TaskData
from lightning_modules.forecasting import TableData
from lightning_modules.learners import DREAMAnomalyDetector, DREAMForecaster
from lightning_modules.online import TableStream
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from tests.lightning_modules.support import small_data, small_module

READERS: dict[str, Callable[[str], TaskData]] = {
    "forecasting": lambda path: TableData(path, look_back=12, horizon=2, season=4),
    "anomaly": AnomalyTable,
    "online": lambda path: TableStream(path, crop=16, context=4),
    "regression": lambda path: TableStream(path, targets=["b"], task="regression", crop=16, context=4),
}


def write(folder: Path, change: Callable[[np.ndarray], None], columns: str = "ab") -> str:
    values = np.random.default_rng(0).standard_normal((600, len(columns)))
    change(values)
    path = folder / "table.csv"
    pd.DataFrame(values, columns=list(columns)).to_csv(path, index=False, na_rep="nan")
    return str(path)


@pytest.mark.parametrize("task", READERS)
@pytest.mark.parametrize(("value", "shown"), [(1.9e19, r"1\.9e\+19"), (-np.inf, "-inf"), (1e300, r"1e\+300")])
def test_a_value_whose_square_overflows(task: str, value: float, shown: str, tmp_path: Path) -> None:
    def change(values: np.ndarray) -> None:
        values[17, 1] = value

    data = READERS[task](write(tmp_path, change))
    with pytest.raises(DataError, match=rf"table\.csv: column `b` must be finite.* row 17 holds {shown} "):
        data.setup("fit")


@pytest.mark.parametrize("task", ["forecasting", "online", "regression"])
def test_a_value_out_of_all_proportion_to_the_training_rows(task: str, tmp_path: Path) -> None:
    def change(values: np.ndarray) -> None:
        values[:, 1] *= 1e-9
        values[450, 1] = 1e8

    data = READERS[task](write(tmp_path, change))
    with pytest.raises(
        DataError, match=r"table\.csv: column `b` must lie within 1e\+15 deviations .* row 450 holds 1e\+08"
    ):
        data.setup("fit")


def test_a_known_covariate_after_the_last_target(tmp_path: Path) -> None:
    def change(values: np.ndarray) -> None:
        values[:, 1] *= 1e-9
        values[590:, 0] = np.nan
        values[595, 1] = 1e8

    data = TableData(write(tmp_path, change), look_back=12, horizon=8, season=4, known_covariates=["b"])
    with pytest.raises(DataError, match=r"column `b` must lie within .* row 595 holds 1e\+08"):
        data.setup("fit")


@pytest.mark.parametrize("task", READERS)
def test_the_largest_legal_values_pass(task: str, tmp_path: Path) -> None:
    def change(values: np.ndarray) -> None:
        values *= 1.8e19 / np.abs(values).max()

    data = READERS[task](write(tmp_path, change))
    data.setup("fit")
    for batch in (next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))):
        for part in batch:
            if isinstance(part, torch.Tensor) and part.is_floating_point():
                assert part.abs().nan_to_num().max() < np.inf


def test_a_deviation_whose_square_vanishes(tmp_path: Path) -> None:
    def change(values: np.ndarray) -> None:
        values[:, 1] = np.arange(600) % 2 * 1e-200

    data = READERS["forecasting"](write(tmp_path, change))
    data.setup("fit")
    assert torch.isfinite(next(iter(data.train_dataloader())).past).all()


def test_a_forecaster_of_the_farthest_values_is_finite() -> None:
    """1e15 training deviations are the most that the readers let through."""
    data = small_data()
    data.setup()
    module = small_module(data)
    batch = next(iter(data.train_dataloader()))
    batch.past[3, -5:] = 1e15
    batch.past[4, ::2] = -1e15
    loss = module.losses(batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_the_rows_of_a_learner() -> None:
    network = StreamNetwork(Shape("forecasting", 2, 2), Reading(), DREAMConfig(hidden_dim=8, rank=2))
    learner = StreamLearner(network, Updates())
    learner.process(torch.randn(30, 2, dtype=torch.float64))
    rows = torch.randn(10, 2, dtype=torch.float64)
    rows[4, 1] = 1.9e19
    with pytest.raises(DataError, match=r"`rows` must hold .*; row 34 of the stream holds 1\.9e\+19"):
        learner.process(rows)
    rows[4, 1] = 1.8e19
    assert learner.process(rows).predictions.isfinite().all()  # nothing of the refused chunk was read


@pytest.mark.parametrize("make", [DREAMForecaster, DREAMAnomalyDetector])
def test_the_largest_values_of_a_learner(make: type[DREAMForecaster] | type[DREAMAnomalyDetector]) -> None:
    model = make(config=DREAMConfig(hidden_dim=8, rank=2))
    for k in range(60):
        model.learn_one({"a": 1.8e19 * (-1) ** k})
    said = (
        model.score_one({"a": 0.0}) if isinstance(model, DREAMAnomalyDetector) else model.forecast()[0]["a"]
    )
    assert np.isfinite(said)
