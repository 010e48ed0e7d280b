"""The numbers of every object that learns row by row, against those of its first implementation.

`numbers.json` beside this file holds what the objects returned before their rows were read in NumPy;
the detector's are newer, since a measure near its tail's quantile counts in part.
``python -m tests.lightning_modules.learners.test_numbers`` writes it; do so only where numbers should change.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dream import DREAMConfig
from lightning_modules.learners import DREAMAnomalyDetector, DREAMClassifier, DREAMForecaster, DREAMRegressor
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates

FILE = Path(__file__).with_name("numbers.json")
ROWS = 90
KEPT = 5  # of so many rows one is compared
SMALL = DREAMConfig(hidden_dim=8, rank=2)


def values(columns: int, gaps: bool = False) -> np.ndarray:
    """(ROWS, columns) random walks, which a column without a change and a jump are part of."""
    random = np.random.default_rng(columns)
    walks = random.standard_normal((ROWS, columns)).cumsum(0) * 0.3 + np.sin(np.arange(ROWS) / 3)[:, None]
    walks[40:46, -1] = 2.0
    walks[60:] += 50.0
    if gaps:
        walks[random.random(walks.shape) < 0.2] = np.nan
        walks[[0, 30, 31]] = np.nan
    return walks


def named(row: np.ndarray, first: int = 0) -> dict[str, float | None]:
    return {f"c{first + k}": None if math.isnan(value) else float(value) for k, value in enumerate(row)}


def forecasts(
    columns: int, covariates: int = 0, gaps: bool = False, **settings: Any
) -> Iterator[list[float]]:
    model = DREAMForecaster(**settings)
    for row in values(columns + covariates, gaps):
        if columns == 1 and not covariates:
            model.learn_one(None if math.isnan(row[0]) else float(row[0]))
            yield model.forecast()
        else:
            model.learn_one(named(row[:columns]), named(row[columns:], columns))
            yield [value for ahead in model.forecast() for value in ahead.values()]


def classes(columns: int, gaps: bool = False, **settings: Any) -> Iterator[list[float]]:
    model = DREAMClassifier(**settings)
    for k, (row, truth) in enumerate(zip(values(columns, gaps), values(columns), strict=True)):
        shares = model.predict_proba_one(named(row))
        yield [shares.get(label, 0.0) for label in ("low", "high", "odd")]
        model.learn_one(named(row), "odd" if k % 7 == 0 else "high" if truth[0] > truth[-1] / 2 else "low")


def targets(columns: int, gaps: bool = False, **settings: Any) -> Iterator[list[float]]:
    model = DREAMRegressor(**settings)
    for row, truth in zip(values(columns, gaps), values(columns), strict=True):
        yield [model.predict_one(named(row))]
        model.learn_one(named(row), 2 * truth[0] - truth[-1] + 1)


def scores(columns: int, gaps: bool = False, **settings: Any) -> Iterator[list[float]]:
    model = DREAMAnomalyDetector(**settings)
    for row in values(columns, gaps):
        yield [model.score_one(named(row)), model.score_one(named(row + 3))]
        model.learn_one(named(row))


def late(task: Any, updates: Updates, plasticity: bool = True) -> Iterator[list[float]]:
    """Targets that come 3 rows late, some of them missing, to the engine itself."""
    torch.manual_seed(3)
    shape = Shape(task, 2, 2, season=5)
    network = StreamNetwork(
        shape, Reading("running", 0.05, lags=[0, 2], means=[4]), SMALL, hidden_dims=[8, 6]
    )
    learner = StreamLearner(network, updates, plasticity=plasticity, delay=3)
    rows, truth = (torch.from_numpy(values(2, gaps)) for gaps in (True, False))
    if task == "regression":
        truth = truth * 2 + 1
        truth[[20, 21, 50], 0] = math.nan
        truth[21, 1] = math.nan
    else:
        truth = (truth[:, 0] > truth[:, 1]).long()
    for k in range(ROWS):
        expected = learner.peek(rows[k])
        steps = learner.process(rows[k : k + 1], truth[k : k + 1])
        assert torch.equal(expected, steps.predictions[0])
        yield [*expected.flatten().tolist(), steps.surprise.item(), steps.u_norm.item()]


SEASONAL = Reading("differences", 0.02, True, lags=[0, 1, 5], means=[3, 6], profile_rate=0.2)
SQUARES = Updates("least_squares", forgetting=0.99, trust=0.95)
RUNS: dict[str, Callable[[], Iterator[list[float]]]] = {
    "forecaster": lambda: forecasts(1),
    "forecaster, gaps": lambda: forecasts(1, gaps=True, horizon=3),
    "forecaster, lags of the layer": lambda: forecasts(1, gaps=True, horizon=2, lags=4),
    "forecaster, columns and covariates": lambda: forecasts(2, 2, gaps=True, config=SMALL),
    "forecaster, channels": lambda: forecasts(
        2, 1, True, config=SMALL, reading=SEASONAL, updates=SQUARES, horizon=3, season=6
    ),
    "forecaster, profile": lambda: forecasts(
        2, 1, True, config=SMALL, reading=Reading(profile_rate=0.1, output=False), horizon=2, season=4
    ),
    "forecaster, adam": lambda: forecasts(
        2, config=SMALL, updates=Updates("adam", every=2, replay=6, lr=0.01)
    ),
    "classifier": lambda: classes(3),
    "classifier, gaps": lambda: classes(
        3, True, config=SMALL, updates=Updates("sgd", replay=4, steps=2, lr=0.05)
    ),
    "classifier, least squares": lambda: classes(2, config=SMALL, updates=Updates("least_squares", every=3)),
    "classifier, adam": lambda: classes(2, True, config=SMALL, updates=Updates("adam", lr=0.02)),
    "classifier, all weights": lambda: classes(
        2, config=SMALL, updates=Updates("adam", every=10, replay=20, lr=0.01), moves="all"
    ),
    "regressor": lambda: targets(2),
    "regressor, gaps": lambda: targets(2, True, config=SMALL, reading=Reading("differences", 0.01)),
    "regressor, as it is": lambda: targets(1, True, config=SMALL, reading=Reading("none"), lags=3),
    "regressor, sgd": lambda: targets(2, config=SMALL, updates=Updates("sgd", replay=3, lr=0.005)),
    "detector": lambda: scores(1),
    "detector, gaps": lambda: scores(3, True, config=SMALL, window=40),
    "late numbers": lambda: late("regression", Updates("least_squares", forgetting=0.98, trust=0.9)),
    "late numbers, adam": lambda: late("regression", Updates("adam", every=2, lr=0.01), plasticity=False),
    "late classes": lambda: late("classification", Updates("sgd", replay=8, lr=0.05)),
}


def numbers(name: str) -> np.ndarray:
    """(ROWS / KEPT, ...) numbers of one run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that are not advised
        return np.array([row for k, row in enumerate(RUNS[name]()) if k % KEPT == KEPT - 1])


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_are_those_of_the_first_implementation(name: str) -> None:
    """To the rounding of the layer's float32, which a head that learns carries on."""
    expected = np.array(json.loads(FILE.read_text(encoding="utf-8"))[name])
    np.testing.assert_allclose(numbers(name), expected, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    found = {
        name: [[float(f"{value:.7g}") for value in row] for row in numbers(name).tolist()] for name in RUNS
    }
    FILE.write_text(
        json.dumps(found, indent=None, separators=(",", ":")).replace("]],", "]],\n") + "\n", encoding="utf-8"
    )
