"""Contents of the folder of a run, comparison or sweep, read without the packages that made it.

Files may be missing, old, unfinished or cut off in the middle of a line: what there is is read, and what is
missing is None.

Everything here may be old, unfinished or cut off in the middle of a line: a reader says what is there.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress
from rich.console import Console

from dream.errors import ConfigError
from experiments.comparison import COMPARISON, Row, gather
from experiments.folders import CONFIG, PLAN, RESULTS, RUN

METRICS = "metrics.jsonl"
LAYERS = "layers.json"
REMARKS = "remarks.json"
SWEEP = "sweep.json"
POINTS = 400  # of a line, and up to twice as many
LONG = 20_000_000  # bytes of a file whose reading shows a bar
CHUNK = 1_000_000  # bytes that are read at once
Line = list[tuple[float, float]]


@dataclass
class Curve:
    """Values of a metric over steps, as means of neighbours, so that a long run needs no more points."""

    width: int = 1
    points: list[list[float]] = field(default_factory=list)
    """Sum of the steps, sum of the values, number of them."""

    def add(self, step: float, value: float) -> None:
        """Enter a value."""
        if self.points and (last := self.points[-1])[2] < self.width:
            last[0] += step
            last[1] += value
            last[2] += 1
            return
        self.points.append([step, value, 1])
        if len(self.points) > 2 * POINTS:
            pairs = zip_longest(self.points[::2], self.points[1::2], fillvalue=[0.0, 0.0, 0])
            self.points = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]
            self.width *= 2

    @property
    def line(self) -> Line:
        """Step and value of each point."""
        return [(steps / number, values / number) for steps, values, number in self.points]


def read_json(path: Path) -> dict[str, Any]:
    """Return the dictionary in a file; empty where there is none, or the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_text(path: Path, most: int) -> str | None:
    """Return the first `most` characters of a file; None where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(most)
    except OSError:
        return None


def read_metrics(path: Path) -> tuple[dict[str, Line], Counter[str]]:
    """Return every metric of `metrics.jsonl` over its steps, and the number of values left out of each.

    Those are the ones that are not finite. Lines that are cut off are left out, too.
    """
    series: dict[str, Curve] = {}
    lost: Counter[str] = Counter()
    try:
        console = Console(stderr=True)
        short = path.stat().st_size < LONG or not console.is_terminal
        with progress.open(
            path, "rb", description=path.name, console=console, transient=True, disable=short
        ) as file:
            while some := file.readlines(CHUNK):
                for text in some:
                    enter(text, series, lost)
    except OSError:
        pass
    return {name: one.line for name, one in series.items()}, lost


def enter(text: bytes, series: dict[str, Curve], lost: Counter[str]) -> None:
    """Enter a line of `metrics.jsonl`."""
    try:
        row = json.loads(text)
    except ValueError:
        return
    step = number(row.pop("step", None)) if isinstance(row, dict) else None
    if step is None:
        return
    for name, value in row.items():
        if (known := number(value)) is None:
            lost[name] += 1
        elif name in series:
            series[name].add(step, known)
        else:
            series[name] = Curve(points=[[step, known, 1]])


def number(value: object) -> float | None:
    """A finite number, or None: a logger writes others as text, and JSON knows NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


@dataclass
class RunFolder:
    """A run's folder."""

    path: Path

    def __post_init__(self) -> None:
        self.facts = read_json(self.path / RUN)
        """Command and start."""
        self.ended = read_json(self.path / RESULTS)
        """Results and what gave them; empty before the end."""
        self.metrics, self.lost = read_metrics(self.path / METRICS)
        self.remarks = read_json(self.path / REMARKS)
        self.config = read_text(self.path / CONFIG, 200_000)
        found = read_json(self.path / LAYERS)
        self.places = str(found.get("places", "steps"))
        layers = found.get("layers")
        self.layers = (
            [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
        )

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """The table: model, metric, value."""
        table = self.ended.get("results")
        rows = table.items() if isinstance(table, dict) else ()
        return {model: values for model, values in rows if isinstance(values, dict)}

    @property
    def monitor(self) -> str | None:
        """Validation metric that picks the best checkpoint; the first one if it was not recorded."""
        named = self.ended.get("monitor")
        return named or next((name for name in self.metrics if name.startswith("val/")), None)


@dataclass
class ComparisonFolder:
    """A comparison's folder."""

    path: Path

    def __post_init__(self) -> None:
        self.plan = read_json(self.path / PLAN)
        self.runs: dict[tuple[str, int], RunFolder] = {}
        """By model and seed, in the order in which they ran."""
        found = []
        for folder in sorted(path.parent for path in self.path.glob(f"*-seed*/{RUN}")):
            model, _, seed = folder.name.rpartition("-seed")
            if seed.isdecimal():
                run = RunFolder(folder)
                found.append((int(seed), str(run.facts.get("started", "")), model, run))
        for seed_number, _, model, run in sorted(found, key=lambda item: item[:3]):
            self.runs[model, seed_number] = run
        self.ended = read_json(self.path / COMPARISON)
        """Written when the command ends, whatever is done by then."""

    @property
    def done(self) -> dict[tuple[str, int], RunFolder]:
        """Runs that have ended."""
        return {cell: run for cell, run in self.runs.items() if run.results}

    @property
    def asked(self) -> set[tuple[str, int]]:
        """Runs that were started or asked for."""
        cells = self.ended.get("cells")
        pairs = [cell for cell in cells if isinstance(cell, list)] if isinstance(cells, list) else []
        return {*self.runs, *((str(model), int(seed)) for model, seed in pairs)}

    @property
    def rows(self) -> dict[str, Row]:
        """The table; see `experiments.comparison.gather`."""
        records = [
            (seed, {"parameters": None, "seconds": math.nan, **run.ended})
            for (_, seed), run in self.done.items()
        ]
        return gather(records)


@dataclass
class SweepFolder:
    """A sweep's folder."""

    path: Path

    def __post_init__(self) -> None:
        self.plan = read_json(self.path / PLAN)
        self.ended = read_json(self.path / SWEEP)
        """Its trials and what gave them; empty before there was one."""
        trials = self.ended.get("trials")
        self.trials = (
            [trial for trial in trials if isinstance(trial, dict)] if isinstance(trials, list) else []
        )
        sign = -1 if self.ended.get("mode") == "max" else 1
        self.trials.sort(
            key=lambda trial: math.inf if (value := number(trial.get("value"))) is None else sign * value
        )
        found = [trial for trial in self.trials if number(trial.get("value")) is not None]
        self.best = RunFolder(self.path / str(found[0].get("folder"))) if found else None


def open_folder(path: Path) -> RunFolder | ComparisonFolder | SweepFolder:
    """Return the run, comparison or sweep in a folder.

    Raises:
        ConfigError: it is none of them.
    """
    if (path / SWEEP).is_file() or "space" in read_json(path / PLAN):
        return SweepFolder(path)
    if (path / PLAN).is_file():
        return ComparisonFolder(path)
    if any((path / name).is_file() for name in (RUN, RESULTS, METRICS)):
        return RunFolder(path)
    what = (
        "is empty or holds something else"
        if path.is_dir()
        else "is a file"
        if path.exists()
        else "is not there"
    )
    home = path if path.is_dir() else path.parent
    near = [found.parent for place in ("", "*/") for name in (PLAN, RUN) for found in home.glob(place + name)]
    such = max(
        near,
        key=lambda found: (found == home, found.stat().st_mtime),
        default="runs/forecasting-2026-01-31_12-00-00",
    )
    raise ConfigError(
        f"`dream report` takes the folder of a run, a comparison or a sweep, such as {such}; {path} {what}."
    )


def mean_line(lines: Iterable[Line]) -> Line:
    """Mean over `lines` where all of them go, at the steps of the first; straight between points."""
    parts = [np.array(line, dtype=float).T for line in lines if line]
    if not parts:
        return []
    first, last = max(steps[0] for steps, _ in parts), min(steps[-1] for steps, _ in parts)
    shared = parts[0][0][(first <= parts[0][0]) & (parts[0][0] <= last)]
    mean = np.mean([np.interp(shared, *part) for part in parts], axis=0)
    return list(zip(shared.tolist(), mean.tolist(), strict=True))
