"""What the page of a report holds, part by part, beside its tables and charts: pictures, texts, remarks."""

from __future__ import annotations

import base64
import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from experiments.folders import RESULTS
from experiments.report.charts import Charts
from experiments.report.curves import Groups, learning_curves, test_layers, training_layers
from experiments.report.folder import ComparisonFolder, RunFolder, read_text
from experiments.report.tables import UNKNOWN, comparison_table, facts, run_table

ROWS, TEXT = 12, 2000  # rows of a table, and characters of a text, that are shown of a file
MOST = 100_000  # characters of a table that are read
FIGURES = {
    "forecasts": "Forecasts beside what came: look for where they leave the truth, and whether they are late or too flat.",
    "adaptation": "Error, surprise and |U| over the test: after a change surprise should jump, and the error fall again.",
    "stream": "Error of every mode and rival over the stream: after a change, the mode that falls back first adapts best.",
    "anomalies": "Data, score and threshold: alarms should stand on the shaded anomalies, and nowhere else.",
    "text": "Loss over the test text: the further a line lies above the model's own, the more its fast weights are worth.",
    "utterance": "One utterance: features, surprise, |U| and what the model believes as it listens.",
    "confusion": "What is taken for what: everything off the diagonal is a mistake.",
    "comparison": "Every run as a point, the mean as a bar: models whose points overlap are not told apart by these seeds.",
}


@dataclass(frozen=True)
class Picture:
    """A picture that a run left."""

    name: str
    caption: str
    data: str
    width: int
    height: int


def pictures(paths: Sequence[Path]) -> list[Picture]:
    """The PNG files among `paths` that are whole enough to have a size."""
    made = []
    for path in paths:
        content = path.read_bytes()
        if not content.startswith(b"\x89PNG\r\n\x1a\n") or not content.endswith(b"IEND\xaeB`\x82"):
            continue
        width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
        caption = FIGURES.get(path.stem.rstrip("_0123456789"), "A figure that the run left.")
        made.append(Picture(path.stem, caption, base64.b64encode(content).decode(), width, height))
    return made


def files(run: RunFolder) -> list[dict[str, Any]]:
    """The beginnings of the texts and tables that a test or a prediction left."""
    made: list[dict[str, Any]] = []
    if (text := read_text(run.path / "text.txt", TEXT + 1)) is not None:
        made.append({"name": "text.txt", "text": text[:TEXT], "more": len(text) > TEXT})
    for name in ("transcripts.csv", "labels.csv", "forecast.csv", "predictions.csv", "scores.csv"):
        rows = list(islice(csv.reader(io.StringIO(read_text(run.path / name, MOST) or "")), ROWS + 2))
        if rows:
            made += [{"name": name, "columns": rows[0], "rows": rows[1 : ROWS + 1], "more": len(rows) > ROWS + 1}]
    return made


def remarks(groups: Groups) -> dict[tuple[str, ...], list[str]]:
    """What the advisor said, and the names of the runs of which it said so."""
    found: dict[tuple[str, ...], list[str]] = {}
    for run in chain.from_iterable(groups.values()):
        found.setdefault(tuple(remarks_on(run)), []).append(run.path.name)
    return found


def remarks_on(run: RunFolder) -> list[str]:
    """What the advisor said of a run, a sentence each."""
    said = run.remarks.get("remarks")
    if not isinstance(said, list):
        return ["Not recorded: the advisor watches DREAM layers while they train."]
    window = run.remarks.get("window")
    if not said and isinstance(window, int) and len(run.metrics.get("train/loss", ())) < window:
        return [f"None: the run had fewer logging steps than the {window} that a symptom must last."]
    made = [f"Step {one.get('step')}: {one.get('symptom')}. Try: {one.get('adjustment')}." for one in said]
    return made or ["None: none of the guide's five symptoms was seen."]


def run_page(run: RunFolder) -> dict[str, Any]:
    """The parts of the page of a run."""
    groups, charts = {"": [run]}, Charts()
    return {
        "title": str(run.ended.get("experiment") or run.path.name),
        "kind": "run",
        "folder": run.path.name,
        "ended": bool(run.ended),
        "facts": facts(run),
        "table": run_table(run),
        "pictures": pictures(sorted((run.path / "figures").glob("*.png"))),
        "files": files(run),
        "config": run.config,
        **shared_parts(groups, charts),
    }


def comparison_page(folder: ComparisonFolder) -> dict[str, Any]:
    """The parts of the page of a comparison."""
    groups: dict[str, list[RunFolder]] = {}
    for (model, _), run in folder.runs.items():
        groups.setdefault(model, []).append(run)
    done = list(folder.done.values())
    first = done[0] if done else None
    own = dict(facts(first)) if first else {}
    flags = folder.plan.get("flags")
    said = {
        "experiment": str(first.ended.get("experiment")) if first else UNKNOWN,
        "runs": f"{len(done)} of {len(folder.runs)} that were started have ended",
        "models": ", ".join(groups) or UNKNOWN,
        "seeds": ", ".join(str(seed) for seed in sorted({seed for _, seed in folder.runs})) or UNKNOWN,
        "settings": (shlex.join(map(str, flags)) or "none beside the experiment's") if isinstance(flags, list) else UNKNOWN,
        "started": next((str(run.facts["started"]) for run in folder.runs.values() if "started" in run.facts), UNKNOWN),
        "commits": ", ".join(sorted({str(run.ended.get("commit") or UNKNOWN) for run in done})) or UNKNOWN,
        **{name: own.get(name, UNKNOWN) for name in ("versions", "device")},
    }
    return {
        "title": folder.path.name,
        "kind": "comparison",
        "folder": folder.path.name,
        "ended": bool(done) and len(done) == len(folder.runs),
        "facts": list(said.items()),
        "table": comparison_table(folder),
        "pictures": pictures(sorted(folder.path.glob("comparison.png"))),
        "files": [],
        "config": first.config if first else None,
        **shared_parts(groups, Charts()),
    }


def shared_parts(groups: Groups, charts: Charts) -> dict[str, Any]:
    """The parts that runs and comparisons have."""
    return {
        "learning": learning_curves(groups, charts),
        "training": training_layers(groups, charts),
        "test": test_layers(groups, charts),
        "remarks": remarks(groups),
        "results_file": RESULTS,
    }
