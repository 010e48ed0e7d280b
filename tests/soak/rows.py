"""Streams of a million rows, one at a time and in tables: `python -m tests.soak.rows`.

Every object reads a stream that drifts, jumps, rests and has gaps, once row by row and once as tables. What
the two predict must stay finite, and memory must not grow. They must agree to rounding for as long as that
means anything: the core of an untrained object on such a stream parts from itself, after some 100,000 rows,
when one early value is changed by a millionth. So the limit is the distance to a twin which read that."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lightning_modules import DREAMAnomalyDetector, DREAMClassifier, DREAMForecaster, DREAMRegressor
from tests.soak.memory import MIB, memory

MAKE: dict[str, Callable[[], Any]] = {
    "forecaster": lambda: DREAMForecaster(horizon=3),
    "classifier": DREAMClassifier,
    "regressor": DREAMRegressor,
    "detector": DREAMAnomalyDetector,
}
APART = 0.02  # of the usual size of a prediction, that row by row and tables may differ
TWIN = 1e-6  # by which one early value of the twin is another


def stream(start: int, rows: int) -> np.ndarray:
    """Rows `start` to `start + rows`, (rows, 2), NaN where a value is missing."""
    draw = np.random.default_rng(start)
    number = np.arange(start, start + rows)
    values = np.sin(number[:, None] / np.array([7.0, 31.0])) + 0.1 * draw.standard_normal((rows, 2))
    values += 3 * np.sin(number / 20_000)[:, None]
    if (block := start // rows) % 7 == 3:
        values *= 10.0 ** (block % 5)
    if block % 11 == 5:
        values[rows // 2 :] = values[rows // 2]
    values[draw.random(values.shape) < 0.05] = np.nan
    return values


def predicted(model: Any, row: dict[str, float]) -> list[float]:
    """What `model` says, of a row where it takes one."""
    if isinstance(model, DREAMForecaster):
        return [value for ahead in model.forecast() for value in ahead.values()]
    if isinstance(model, DREAMClassifier):
        return list(model.predict_proba_one(row).values())
    return [model.score_one(row) if isinstance(model, DREAMAnomalyDetector) else model.predict_one(row)]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Read the streams; print and return the figures.

    Raises:
        SystemExit: a prediction is not finite, row by row and tables differ by more than twins do, or memory
            grows.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak.rows", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="*", choices=MAKE, default=list(MAKE))
    parser.add_argument("--quick", action="store_true", help="6 tables of 150 rows")
    arguments = parser.parse_args(argv)
    size = 150 if arguments.quick else 1000  # of a table
    total, figures = 6 * size if arguments.quick else arguments.rows, {}
    for kind in arguments.kinds:
        one, many, twin = (MAKE[kind]() for _ in range(3))
        worst, apart, resident = 0.0, 0.0, []
        seconds = {"one": 0.0, "many": 0.0}
        for start in range(0, total, size):
            table = pd.DataFrame(stream(start, size), columns=["a", "b"])
            truth = np.nan_to_num(table["a"].to_numpy()).tolist()
            labels = [value > 0 for value in truth] if kind == "classifier" else truth
            known = kind in ("classifier", "regressor")
            begun = time.monotonic()
            many.learn_many(table, *([labels] if known else []))
            seconds["many"] += time.monotonic() - begun
            if start == 0:
                table = table.mul(np.where(np.arange(size) == 10, 1 + TWIN, 1), axis=0)
            twin.learn_many(table, *([labels] if known else []))
            table = pd.DataFrame(stream(start, size), columns=["a", "b"])
            begun = time.monotonic()
            for row, label in zip(table.to_dict("records"), labels, strict=True):
                one.learn_one(row, *([label] if known else []))
            seconds["one"] += time.monotonic() - begun
            row = {"a": 0.5, "b": 0.1}
            said, other, third = (np.array(predicted(model, row)) for model in (one, many, twin))
            if not (np.isfinite(said).all() and np.isfinite(other).all()):
                raise SystemExit(f"the {kind} is not finite at row {start + size}")
            worst = max(worst, float(np.abs(said - other).max() / (1 + np.abs(said).max())))
            apart = max(apart, float(np.abs(third - other).max() / (1 + np.abs(other).max())))
            if worst > APART + 2 * apart or not math.isfinite(worst):
                raise SystemExit(
                    f"the {kind} differs by {worst:.1e} row by row and in tables at row {start + size}, "
                    f"and by {apart:.1e} from its twin"
                )
            resident.append(memory()["resident"] / MIB)
        half = resident[len(resident) // 2 :]
        figures[kind] = {
            "rows": total,
            "largest difference": worst,
            "of twins": apart,
            "us a row": round(1e6 * seconds["one"] / total, 1),
            "us a row of a table": round(1e6 * seconds["many"] / total, 1),
            "MiB": round(max(half)),
        }
        print(kind, figures[kind], flush=True)  # noqa: T201
        if max(half) > half[0] + 16:
            raise SystemExit(f"memory grew from {half[0]:.0f} to {max(half):.0f} MiB")
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
