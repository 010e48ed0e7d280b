"""Cost of one row that is predicted and learnt, beside nn.LSTMCell and river.

``python -m experiments.benchmarks.rows`` prints the table and writes every single timing as JSON. The models
take 50 rows each in turn in one process, so that what else the machine does hits them alike, and each finds
its own numbers in the cache. A figure is the median over the rows, a ratio that of two medians. River is
timed where it is installed.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.rows")

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from dream import DREAMConfig
from lightning_modules import (
    AnomalyModule,
    DREAMAnomalyDetector,
    DREAMClassifier,
    DREAMForecaster,
    DREAMRegressor,
)
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.run.tracking import write_results
from lightning_modules.waiting import waiting

Row = dict[str, float]
Step = Callable[[Row, bool], object]
CELL = "nn.LSTMCell, no learning"
OF_RUN = "DREAMAnomalyDetector of a run"
WARM_UP = 100  # rows that are not counted
BLOCK = 50  # rows that one model takes before the next does
TABLE, TABLES = 2000, 10  # rows of a table, and how many of them count


def detector_of_module(columns: int) -> DREAMAnomalyDetector:
    """A detector of a run of as many units; what its weights are costs nothing."""
    frame = pd.DataFrame(np.zeros((200, columns)), columns=[f"x{k}" for k in range(columns)])
    data = AnomalyTable.of(frame, training=100)
    module = AnomalyModule.for_data(
        data, config=DREAMConfig.preset("anomaly_detection", hidden_dim=64, rank=8)
    )
    module.prepare(data)
    (stream,) = data.streams
    module.thresholds, module.training_rows = {stream.name: 0.4}, {stream.name: stream.training}
    return DREAMAnomalyDetector.from_run(module, "fresh")


def steps(columns: int) -> dict[str, Step]:
    """Function for each model that predicts a row, then learns it."""
    classifier, regressor, forecaster = DREAMClassifier(), DREAMRegressor(), DREAMForecaster()
    detector, cell = DREAMAnomalyDetector(), nn.LSTMCell(columns, 64)
    trained = detector_of_module(columns)
    state = torch.zeros(1, 64), torch.zeros(1, 64)

    def forgets(x: Row, y: bool) -> None:
        nonlocal state
        with torch.no_grad():
            state = cell(torch.tensor([list(x.values())]), state)

    made: dict[str, Step] = {
        CELL: forgets,
        "DREAMClassifier": lambda x, y: (classifier.predict_one(x), classifier.learn_one(x, y)),
        "DREAMRegressor": lambda x, y: (regressor.predict_one(x), regressor.learn_one(x, float(y))),
        "DREAMForecaster": lambda x, y: (forecaster.learn_one(x), forecaster.forecast()),
        "DREAMAnomalyDetector": lambda x, y: (detector.score_one(x), detector.learn_one(x)),
        OF_RUN: lambda x, y: (trained.score_one(x), trained.learn_one(x)),
    }
    try:
        from river import forest, linear_model, preprocessing
    except ImportError:
        return made
    trees = forest.ARFClassifier(seed=0)
    logistic = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    return made | {
        "river ARFClassifier": lambda x, y: (trees.predict_one(x), trees.learn_one(x, y)),
        "river LogisticRegression": lambda x, y: (logistic.predict_one(x), logistic.learn_one(x, y)),
    }


def tables(values: np.ndarray, labels: list[bool]) -> dict[str, float]:
    """Milliseconds a row that `learn_many` takes: the least of `TABLES` tables after the first one.

    Of the processor's time, since a table, unlike a row, is long enough to be interrupted by other work.
    """
    named = pd.DataFrame(values, columns=[f"x{k}" for k in range(values.shape[1])])
    models: dict[str, tuple[Any, list[Any] | None]] = {
        "DREAMClassifier": (DREAMClassifier(), labels),
        "DREAMRegressor": (DREAMRegressor(), [float(label) for label in labels]),
        "DREAMForecaster": (DREAMForecaster(), None),
        "DREAMAnomalyDetector": (DREAMAnomalyDetector(), None),
        OF_RUN: (detector_of_module(values.shape[1]), None),
    }
    found: dict[str, list[float]] = {name: [] for name in models}
    for start in range(0, len(values), TABLE):
        part = slice(start, start + TABLE)
        for name, (model, known) in models.items():
            begun = time.process_time()
            model.learn_many(named[part], *([] if known is None else [known[part]]))
            found[name].append(1e3 * (time.process_time() - begun) / TABLE)
    return {name: min(taken[1:]) for name, taken in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Time every model on the same rows; print the table and write the timings."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.rows", description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/rows.json"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    length = max(WARM_UP + arguments.rows, (TABLES + 1) * TABLE)
    values = draw.standard_normal((length, arguments.columns)).cumsum(0)
    labels = (values[:, 0] > values[:, -1]).tolist()
    made = steps(arguments.columns)
    timings: dict[str, list[float]] = {name: [] for name in made}
    with waiting("timing") as tell:
        total = WARM_UP + arguments.rows
        for start in range(0, total, BLOCK):
            tell(start / total)
            part = slice(start, min(start + BLOCK, total))
            rows = [
                {f"x{column}": value for column, value in enumerate(row)} for row in values[part].tolist()
            ]
            for name, step in made.items():
                for row, label in zip(rows, labels[part], strict=True):
                    begun = time.perf_counter()
                    step(row, label)
                    timings[name].append(1e3 * (time.perf_counter() - begun))
    medians = {name: statistics.median(taken[WARM_UP:]) for name, taken in timings.items()}
    whole = (TABLES + 1) * TABLE
    many = tables(values[:whole], labels[:whole])
    table = Table(title=f"One row of {arguments.columns} columns, predicted and learnt: median on one thread")
    for title in ("", "ms", f"ratio to {CELL}", "learn_many, ms a row", "times faster"):
        table.add_column(title, justify="right" if title else "left")
    for name, median in medians.items():
        in_table = [f"{many[name]:.4f}", f"{median / many[name]:.0f}"] if name in many else ["", ""]
        table.add_row(name, f"{median:.3f}", f"{median / medians[CELL]:.2f}", *in_table)
    Console().print(table)
    if not any(name.startswith("river") for name in made):
        Console().print("river is not installed, so that it is not timed")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    ratios = {name: {CELL: median / medians[CELL]} for name, median in medians.items()}
    write_results(arguments.out, ratios, seed=0, milliseconds=timings, tables=many)
    Console().print(f"every timing: {arguments.out}")
    return 0
