"""Facts of a run, and tables of results in which the best values are marked."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from experiments.comparison import mean, written
from experiments.report.folder import ComparisonFolder, RunFolder, SweepFolder

UNKNOWN = "not recorded"
TRIALS = 30  # trials that are shown
WORST = 10  # series that are shown


@dataclass(frozen=True)
class Cell:
    """A value in a table."""

    text: str
    best: bool = False
    exact: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table with a name for every row."""

    columns: list[str]
    rows: dict[str, list[Cell]]
    note: str
    head: str = "model"
    """Name of what a row is."""


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """Facts of a run, as (name, text) pairs."""
    ended = run.ended
    started = run.facts.get("command")
    command = ended.get("command") or (None if started is None else ["dream", *started])
    versions, parameters = ended.get("versions"), ended.get("parameters")
    known = {
        "command": None if command is None else shlex.join(command),
        "seed": ended.get("seed"),
        "started": run.facts.get("started"),
        "seconds": ended.get("seconds"),
        "epochs": ended.get("epochs"),
        "parameters": None if parameters is None else f"{parameters:,}",
        "commit": ended.get("commit"),
        "versions": None
        if versions is None
        else ", ".join(f"{name} {text}" for name, text in versions.items()),
        "device": ended.get("device"),
    }
    return [(name, UNKNOWN if value is None else str(value)) for name, value in known.items()]


def direction(metric: str, ended: Mapping[str, Any]) -> str:
    """``up`` if more of a metric is better, ``down`` if less, nothing where that is not known."""
    if "higher_is_better" not in ended or metric in ended.get("unranked", ()):
        return ""
    return "up" if metric in ended["higher_is_better"] else "down"


def table(
    cells: Mapping[str, Mapping[str, tuple[float, str]]], ended: Mapping[str, Any], extra: Sequence[str] = ()
) -> ReportTable:
    """`cells` by row and metric, a number and its text each; the best number of a metric is marked."""
    metrics = list(dict.fromkeys(chain.from_iterable(cells.values())))
    best = {}
    for metric in metrics:
        known = [
            cell[metric][0] for cell in cells.values() if metric in cell and math.isfinite(cell[metric][0])
        ]
        way = direction(metric, ended) if metric not in extra else ""
        if way and len(known) > 1:
            best[metric] = max(known) if way == "up" else min(known)
    arrows = {"up": " ↑", "down": " ↓", "": ""}
    columns = [
        metric + (arrows[direction(metric, ended)] if metric not in extra else "") for metric in metrics
    ]

    def made(row: Mapping[str, tuple[float, str]], metric: str) -> Cell:
        value, text = row.get(metric, (math.nan, "-"))
        return Cell(text, value == best.get(metric), repr(value) if metric in row else "")

    rows = {name: [made(row, metric) for metric in metrics] for name, row in cells.items()}
    note = "Whether more or less of a metric is better was not recorded, so none is marked as the best."
    if "higher_is_better" in ended:
        note = "Arrows: more (↑) or less (↓) is better." + (" Bold: the best of its column." if best else "")
    if ended.get("part") == "validation":
        note = f"Of the validation part: nothing was tested. {note}"
    return ReportTable(columns, rows, note)


def run_table(run: RunFolder) -> ReportTable | None:
    """Results of a run."""
    cells = {
        model: {name: (value, f"{value:.4g}") for name, value in values.items()}
        for model, values in run.results.items()
    }
    return table(cells, run.ended) if cells else None


def series_table(run: RunFolder) -> ReportTable | None:
    """The series of a run with the worst results: by MASE, by the metric that picked the checkpoint, or
    by the first that has a direction."""
    found: dict[str, dict[str, float]] = run.ended.get("series", {})
    metrics = list(dict.fromkeys(chain.from_iterable(found.values())))
    monitor = str(run.ended.get("monitor")).rpartition("/")[2]
    ranked = [name for name in ("mase", monitor, *metrics) if name in metrics and direction(name, run.ended)]
    if not ranked:
        return None
    metric, sign = ranked[0], -1 if direction(ranked[0], run.ended) == "down" else 1
    known = [name for name in found if metric in found[name]]
    worst = sorted(known, key=lambda name: sign * found[name][metric])[:WORST]

    def made(value: float | None) -> Cell:
        return Cell("-") if value is None else Cell(f"{value:.4g}", exact=repr(value))

    rows = {name: [made(found[name].get(each)) for each in metrics] for name in worst}
    note = f"The worst first, by {metric}: {len(worst)} of {len(found)}. All are in results.json."
    return ReportTable(metrics, rows, note, "series")


def comparison_table(folder: ComparisonFolder) -> ReportTable | None:
    """Mean and deviation over the seeds of every row."""
    rows = folder.rows
    if not rows:
        return None
    metrics = list(
        dict.fromkeys(name for row in rows.values() for values in row.values.values() for name in values)
    )
    cells: dict[str, dict[str, tuple[float, str]]] = {}
    for model, row in rows.items():
        cells[model] = {metric: (mean(v), written(v)) for metric in metrics if (v := row.of(metric))}
        if row.parameters is not None:
            seconds = mean(row.seconds)
            cells[model] |= {
                "parameters": (row.parameters, f"{row.parameters:,}"),
                "seconds": (seconds, f"{seconds:.0f}"),
            }
    made = table(cells, next(iter(folder.done.values())).ended, ("parameters", "seconds"))
    return replace(made, note=f"{made.note} Mean ± standard deviation over the seeds; never the best seed.")


def trial_table(folder: SweepFolder) -> ReportTable | None:
    """Best trials with their settings."""
    if not folder.trials:
        return None
    monitor = str(folder.ended.get("monitor"))
    names = list(dict.fromkeys(name for trial in folder.trials for name in trial.get("params") or {}))

    def made(value: object, best: bool = False) -> Cell:
        text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        return Cell(text, best, str(value))

    rows = {}
    for place, trial in enumerate(folder.trials[:TRIALS]):
        params = trial.get("params") or {}
        first = made(trial.get("value"), best=place == 0 and folder.best is not None)
        rows[str(trial.get("trial"))] = [
            first,
            made(trial.get("state")),
            *(made(params.get(name)) for name in names),
            made(trial.get("seconds")),
        ]
    way = "↑" if folder.ended.get("mode") == "max" else "↓"
    note = "The best trials first, by validation: no trial has looked at the test part."
    if len(folder.trials) > TRIALS:
        note += f" These are {TRIALS} of {len(folder.trials)}; all are in sweep.json."
    return ReportTable([f"{monitor} {way}", "state", *names, "seconds"], rows, note, "trial")
