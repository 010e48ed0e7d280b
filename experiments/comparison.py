"""Results of a comparison: mean and spread over the seeds, never the best seed."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from rich.console import Console

from dream import sums
from dream.errors import CheckpointError
from dream.files import inside
from experiments import records
from experiments.folders import CONFIG, RESULTS, settings_of
from experiments.summary import table

COMPARISON = "comparison.json"
"""Results of all runs so far."""


@dataclass
class Row:
    """One model of the table, with every value of its runs."""

    parameters: int | None
    """Trainable ones; None for what a run computes beside its own model."""
    seconds: list[float] = field(default_factory=list)
    """Wall time of each run, training and test."""
    values: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics by seed."""

    def of(self, metric: str) -> list[float]:
        """Values of `metric`, one for each seed that has it."""
        return [values[metric] for values in self.values.values() if metric in values]

    def cells(self, metrics: Sequence[str]) -> dict[str, str]:
        """Cells of the printed table, by column."""
        shown = {metric: written(values) for metric in metrics if (values := self.of(metric))}
        if self.parameters is not None:
            shown |= {
                "parameters": f"{self.parameters:,}",
                "seconds": f"{mean(self.seconds):.0f}",
            }
        return shown


def cell_folder(folder: Path, model: str, seed: int) -> Path:
    """Folder of one run of a comparison.

    Raises:
        OSError: it is a link.
    """
    return inside(folder, f"{model}-seed{seed}")


def record(folder: Path, model: str, seed: int) -> dict[str, Any] | None:
    """Content of the `results.json` of a run; None where it has not ended, or its files are damaged.

    Raises:
        OSError: the folder of the run is a link.
        CheckpointError: it was changed since it was written.
    """
    cell = cell_folder(folder, model, seed)
    if not (cell / CONFIG).is_file():
        return None
    try:
        sums.altered(cell, [RESULTS])
    except CheckpointError as error:
        raise CheckpointError(f"{error} Or delete {cell}: the same command runs it again.") from None
    try:
        return records.read(cell / RESULTS, records.Ended)
    except (FileNotFoundError, CheckpointError):
        return None


def headline(record: dict[str, Any]) -> str:
    """Metrics of the trained model of a run, in one line."""
    name, metrics = next(iter(record["results"].items()))
    values = "  ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
    return f"      {name}: {values}  ({record['seconds']:.0f} s)"


def written(values: Sequence[float]) -> str:
    """Mean and spread, or the value where all seeds agree."""
    return f"{mean(values):.4g} ± {spread(values):.2g}" if spread(values) > 0 else f"{mean(values):.4g}"


def mean(values: Sequence[float]) -> float:
    """Mean of values that may be large, or not finite."""
    if not all(map(math.isfinite, values)):
        return sum(values) / len(values)
    return statistics.mean(values)  # exact, where a sum of floats overflows


def gather(records: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Row]:
    """Rows of all runs, given as (seed, content of `results.json`): trained models first.

    A row that several runs of a seed have, such as repeat-last, is taken once.
    """
    rows: dict[str, Row] = {}
    for seed, record in records:
        for place, (name, metrics) in enumerate(record["results"].items()):
            row = rows.setdefault(name, Row(None if place else record["parameters"]))
            if seed not in row.values:
                row.values[seed] = metrics
                row.seconds.append(record["seconds"])
    return dict(sorted(rows.items(), key=lambda item: item[1].parameters is None))


def spread(values: Sequence[float]) -> float:
    """Standard deviation (of a sample) over the seeds; 0 for one, NaN where a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values) if len(values) > 1 else 0.0


def show(folder: Path, cells: Sequence[tuple[str, int]], **facts: Any) -> None:
    """Print the table of the runs that have ended; write and track `comparison.json` and `comparison.png`."""
    # these load all tasks, which those who only read the rows don't need
    from experiments.comparison_plot import comparison
    from lightning_modules.run import tracking

    console = Console()
    done = {cell: found for cell in cells if (found := record(folder, *cell)) is not None}
    rows = gather([(seed, found) for (_, seed), found in done.items()])
    metrics = list(
        dict.fromkeys(metric for row in rows.values() for values in row.values.values() for metric in values)
    )
    seeds = sorted({seed for _, seed in done})
    console.print(
        table(
            {name: row.cells(metrics) for name, row in rows.items()},
            f"mean ± deviation over seeds {seeds}",
            console,
        )
    )
    if len(done) < len(cells):
        console.print(f"{len(done)} of {len(cells)} runs are done; the same command does the others.")
    means = {name: {m: mean(v) for m in metrics if (v := row.of(m))} for name, row in rows.items()}
    path, picture = folder / COMPARISON, folder / "comparison.png"
    facts = {
        "seeds": seeds,
        "cells": list(cells),
        "rows": {name: vars(row) for name, row in rows.items()},
        **facts,
    }
    tracking.write_results(path, means, **facts)
    drawn = BytesIO()
    comparison({name: row.of(metrics[0]) for name, row in rows.items()}, metrics[0]).savefig(drawn, dpi=120)
    sums.write_atomic(folder, picture.name, drawn.getvalue())
    console.print(f"      comparison  {path}\n          figure  {picture}", soft_wrap=True, highlight=False)
    settings = settings_of(cell_folder(folder, *next(iter(done))))
    mode = settings.wandb or os.environ.get("WANDB_MODE") or "offline"
    if mode != "disabled":
        logger = tracking.wandb_logger(folder, settings.project, mode, group=folder.name)
        tracking.log_table(logger, means)
        logger.log_image("figures/comparison", [str(picture)])
        logger.experiment.finish()
