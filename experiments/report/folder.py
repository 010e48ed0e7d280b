"""Contents of the folder of a run, comparison or sweep, read without the packages that made it.

Files may be missing, old, unfinished or cut off in the middle of a line: what there is is read, and what is
missing is None. A file that is damaged, or a link, is not read, and a sentence says so.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress
from rich.console import Console

from dream.errors import CheckpointError, ConfigError
from dream.files import MOST, inside, lines, opened, read_bytes
from experiments import records
from experiments.comparison import COMPARISON, Row, gather
from experiments.folders import CONFIG, PLAN, RESULTS, RUN

METRICS = "metrics.jsonl"
LAYERS = "layers.json"
REMARKS = "remarks.json"
SWEEP = "sweep.json"
STORE = "sweep.db"
LARGEST = 1e300  # an axis goes a little further
POINTS = 400  # of a line, and up to twice as many
LONG = 20_000_000  # bytes of a file whose reading shows a bar
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


class Reader:
    """Reader of the files in a folder. Nothing is read through a link.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: list[str] = []
        """A sentence for each file that could not be read."""

    def json(self, name: str, schema: Any) -> dict[str, Any]:
        """Return the content of a JSON file; empty where there is none, or it is refused."""
        try:
            return records.read(self.folder / name, schema)
        except FileNotFoundError:
            return {}
        except CheckpointError as error:
            self.refused.append(str(error))
            return {}

    def bytes(self, path: Path, most: int = MOST) -> bytes | None:
        """Return the content of a file; None where there is none, or it is refused."""
        with self.naming(path):
            return read_bytes(path, most)
        return None

    def text(self, path: Path, most: int) -> str | None:
        """Return the first `most` characters of a file; None where there is none, or it is refused."""
        with self.naming(path), opened(path) as file:
            return file.read(4 * most).decode(errors="replace")[:most]
        return None

    def metrics(self) -> tuple[dict[str, Line], Counter[str]]:
        """Return every metric of `metrics.jsonl` over its steps, and the number of values left out of each.

        Those are the ones that are not finite. A last line that is cut off is left out, too.
        """
        path = self.folder / METRICS
        series: dict[str, Curve] = {}
        lost: Counter[str] = Counter()
        damaged: list[int] = []
        console = Console(stderr=True)
        with self.naming(path), opened(path) as file:
            length = os.fstat(file.fileno()).st_size
            short = length < LONG or not console.is_terminal
            with progress.Progress(console=console, transient=True, disable=short) as bar:
                task = bar.add_task(path.name, total=length)
                for number, text in enumerate(lines(file), 1):
                    if not enter(text, series, lost) and text.endswith(b"\n"):
                        damaged.append(number)
                    bar.advance(task, len(text))
        if damaged:
            self.refused.append(f"{path} is damaged: {len(damaged)} lines, first line {damaged[0]}.")
        return {name: one.line for name, one in series.items()}, lost

    def files(self, pattern: str, *names: str) -> list[Path]:
        """Return the files of this pattern in the folder, or in the one below it that is called `names`."""
        with self.naming(self.folder.joinpath(*names)):
            return sorted(inside(self.folder, *names).glob(pattern))
        return []

    @contextmanager
    def naming(self, path: Path) -> Iterator[None]:
        """Refuse `path` where it cannot be read, unless there is none."""
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as error:
            self.refused.append(f"{error.filename or path} could not be read: {error.strerror}.")


def enter(text: bytes, series: dict[str, Curve], lost: Counter[str]) -> bool:
    """Enter a line of `metrics.jsonl`; return whether it is one."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return False
    step = number(row.pop("step", None)) if isinstance(row, dict) else None
    if step is None:
        return False
    for name, value in row.items():
        if (known := number(value)) is None:
            lost[name] += 1
        elif name in series:
            series[name].add(step, known)
        else:
            series[name] = Curve(points=[[step, known, 1]])
    return True


def number(value: object) -> float | None:
    """A finite number that can be drawn, or None: a logger writes others as text, and JSON knows NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LARGEST else None


@dataclass
class RunFolder:
    """A run's folder."""

    path: Path

    def __post_init__(self) -> None:
        self.reader = Reader(self.path)
        self.facts = self.reader.json(RUN, records.Run)
        """Command and start."""
        self.ended = self.reader.json(RESULTS, records.Results)
        """Results and what gave them; empty before the end."""
        self.metrics, self.lost = self.reader.metrics()
        self.remarks = self.reader.json(REMARKS, records.Remarks)
        self.config = self.reader.text(self.path / CONFIG, 200_000)
        found = self.reader.json(LAYERS, records.Layers)
        self.places: str = found.get("places", "steps")
        self.layers: list[dict[str, Any]] = found.get("layers", [])

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """The table: model, metric, value."""
        return self.ended.get("results", {})

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
        self.reader = Reader(self.path)
        self.plan = self.reader.json(PLAN, records.Plan)
        self.runs: dict[tuple[str, int], RunFolder] = {}
        """By model and seed, in the order in which they ran."""
        found = []
        for folder in self.reader.files("*-seed*"):
            model, _, seed = folder.name.rpartition("-seed")
            if seed.isdecimal() and len(seed) < 20 and (run := entered(self.reader, folder.name)):
                found.append((int(seed), str(run.facts.get("started", "")), model, run))
        for seed_number, _, model, run in sorted(found, key=lambda item: item[:3]):
            self.runs[model, seed_number] = run
        self.ended = self.reader.json(COMPARISON, records.Comparison)
        """Written when the command ends, whatever is done by then."""

    @property
    def done(self) -> dict[tuple[str, int], RunFolder]:
        """Runs that have ended."""
        return {cell: run for cell, run in self.runs.items() if run.results}

    @property
    def asked(self) -> set[tuple[str, int]]:
        """Runs that were started or asked for."""
        return {*self.runs, *self.ended.get("cells", ())}

    @property
    def rows(self) -> dict[str, Row]:
        """The table; see `experiments.comparison.gather`."""
        found = [
            (seed, {"parameters": None, "seconds": math.nan, **run.ended})
            for (_, seed), run in self.done.items()
        ]
        return gather(found)


@dataclass
class SweepFolder:
    """A sweep's folder."""

    path: Path

    def __post_init__(self) -> None:
        self.reader = Reader(self.path)
        self.plan = self.reader.json(PLAN, records.Plan)
        self.ended = self.reader.json(SWEEP, records.Sweep)
        """Its trials and what gave them; empty before there was one."""
        sign = -1 if self.ended.get("mode") == "max" else 1
        self.trials: list[dict[str, Any]] = sorted(
            self.ended.get("trials", ()),
            key=lambda trial: math.inf if trial.get("value") is None else sign * trial["value"],
        )
        first = self.trials[0] if self.trials else {}
        there = first.get("value") is not None and "folder" in first
        self.best = entered(self.reader, first["folder"]) if there else None


def entered(reader: Reader, name: str) -> RunFolder | None:
    """Return the run in a folder of a comparison or a sweep; None where there is none, or it is a link."""
    with reader.naming(reader.folder / name):
        path = inside(reader.folder, name)
        if any((path / known).exists() for known in (RUN, RESULTS)):
            return RunFolder(path)
    return None


def open_folder(path: Path) -> RunFolder | ComparisonFolder | SweepFolder:
    """Return the run, comparison or sweep in a folder.

    Raises:
        ConfigError: it is none of them.
    """
    if (path / SWEEP).exists() or "space" in Reader(path).json(PLAN, records.Plan):
        return SweepFolder(path)
    if (path / PLAN).exists():
        return SweepFolder(path) if (path / STORE).exists() else ComparisonFolder(path)
    if any((path / name).exists() for name in (RUN, RESULTS, METRICS)):
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
