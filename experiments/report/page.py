"""Parts of a report's page: pictures, texts, remarks, tables and charts."""

from __future__ import annotations

import base64
import csv
import io
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dream import sums
from dream.formulas import unescaped
from experiments.report.charts import Charts
from experiments.report.curves import Groups, learning_curves, test_layers, training_layers, trial_curves
from experiments.report.folder import ComparisonFolder, Reader, RunFolder, SweepFolder
from experiments.report.tables import UNKNOWN, comparison_table, facts, run_table, series_table, trial_table

FIGURES_FOLDER = "figures"
ROWS = 12  # of a table that are shown
TEXT = 2000  # characters of a text that are shown
MOST = 100_000  # characters of a table that are read
FIGURES = {
    "forecasts": "Forecasts beside what came: look for where they leave the truth, and whether they are late "
    "or too flat.",
    "adaptation": "Error, surprise and |U| over the test: after a change surprise should jump, and the error "
    "fall again.",
    "stream": "Error of every mode and rival over the stream: after a change, the mode that falls back first "
    "adapts best.",
    "anomalies": "Data, score and threshold: alarms should stand on the shaded anomalies, and nowhere else.",
    "text": "Loss over the test text: the further a line lies above the model's own, the more its fast "
    "weights are worth.",
    "instances": "Accuracy by how often a class has come up in its sequence: the steeper the rise, the "
    "faster a model learns what is new.",
    "systems": "Error as a new system is read: the sooner a line falls below the grey ones, the faster its "
    "model learns what is new.",
    "utterance": "One utterance: features, surprise, |U| and what the model believes as it listens.",
    "confusion": "What is taken for what: everything off the diagonal is a mistake.",
    "sweep": "Every trial: look for settings at which good trials gather, and for a best one at the edge of "
    "what was tried.",
    "comparison": "Every run as a point, the mean as a bar: models whose points overlap are not told apart "
    "by these seeds.",
}


@dataclass(frozen=True)
class Picture:
    """A picture that a run left."""

    name: str
    caption: str
    data: str
    width: int
    height: int


def pictures(reader: Reader, paths: Iterable[Path], of: str = "") -> list[Picture]:
    """The PNG files `paths` that `reader` can read; `of` stands before the names of a run's own."""
    made: list[Picture] = []
    for path in paths:
        content = reader.bytes(path)
        if content is None:
            continue
        if not content.startswith(b"\x89PNG\r\n\x1a\n") or not content.endswith(b"IEND\xaeB`\x82"):
            reader.refused.append(f"{path} is damaged, it is no PNG.")
            continue
        width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
        caption = FIGURES.get(path.stem.rstrip("_0123456789"), "A figure that the run left.")
        name = of + path.stem if path.parent.name == FIGURES_FOLDER else path.stem
        made.append(Picture(name, caption, base64.b64encode(content).decode(), width, height))
    return made


def figures(run: RunFolder, of: str = "") -> list[Picture]:
    """Figures of a run."""
    return pictures(run.reader, run.reader.files("*.png", FIGURES_FOLDER), of)


def files(run: RunFolder, of: str = "") -> list[dict[str, Any]]:
    """Beginnings of the texts and tables that a test or a prediction left; `of` stands before their names."""
    made: list[dict[str, Any]] = [
        {"name": of + path.name, "text": text[:TEXT], "more": len(text) > TEXT}
        for path in run.reader.files("*.txt")
        if (text := run.reader.text(path, TEXT + 1)) is not None
    ]
    for path in run.reader.files("*.csv"):
        text = run.reader.text(path, MOST) or ""
        try:
            rows = list(islice(csv.reader(io.StringIO(text)), ROWS + 2))
        except csv.Error as error:
            run.reader.refused.append(f"{path} is damaged, it is no CSV: {error}.")
            continue
        if rows:
            made += [
                {
                    "name": of + path.name,
                    "columns": [unescaped(cell) for cell in rows[0]],
                    "rows": [[unescaped(cell) for cell in row] for row in rows[1 : ROWS + 1]],
                    "more": len(rows) > ROWS + 1,
                }
            ]
    return made


def remarks(groups: Groups) -> dict[tuple[str, ...], list[str]]:
    """Remarks of the advisor, and the names of the runs that got them."""
    found: dict[tuple[str, ...], list[str]] = {}
    for run in chain.from_iterable(groups.values()):
        found.setdefault(tuple(remarks_on(run)), []).append(run.path.name)
    return found


def remarks_on(run: RunFolder) -> list[str]:
    """Remarks of the advisor on a run, a sentence each."""
    said = run.remarks.get("remarks")
    if said is None:
        return ["Not recorded: the advisor watches DREAM layers while they train."]
    window = run.remarks.get("window")
    if not said and window is not None and len(run.metrics.get("train/loss", ())) < window:
        few = f"None: the run had fewer logging steps than the {window} that a symptom must last."
        return [f"{few} A smaller `trainer.log_every_n_steps` gives more."]
    made = [f"Step {one['step']}: {one['symptom']}. Try: {one['adjustment']}." for one in said]
    return made or ["None: none of the guide's five symptoms was seen."]


def run_page(run: RunFolder) -> dict[str, Any]:
    """Parts of the page of a run."""
    groups, charts = {"": [run]}, Charts()
    return {
        "title": str(run.ended.get("experiment") or run.path.name),
        "kind": "run",
        "folder": run.path.name,
        "ended": bool(run.ended),
        **sealing([run.path]),
        "facts": facts(run),
        "table": run_table(run),
        "series": series_table(run),
        "pictures": figures(run),
        "files": files(run),
        "config": run.config,
        **shared_parts(groups, charts),
        "refused": run.reader.refused,
    }


def comparison_page(folder: ComparisonFolder) -> dict[str, Any]:
    """Parts of the page of a comparison."""
    groups: dict[str, list[RunFolder]] = {}
    for (model, _), run in folder.runs.items():
        groups.setdefault(model, []).append(run)
    done = list(folder.done.values())
    first = done[0] if done else None
    of = f"{first.path.name}: " if first else ""
    own = dict(facts(first)) if first else {}
    flags = folder.plan.get("flags")
    said = {
        "experiment": str(first.ended.get("experiment")) if first else UNKNOWN,
        "runs": f"{len(done)} of {len(folder.asked)} have ended",
        "models": ", ".join(groups) or UNKNOWN,
        "seeds": ", ".join(str(seed) for seed in sorted({seed for _, seed in folder.runs})) or UNKNOWN,
        "settings": UNKNOWN if flags is None else shlex.join(flags) or "none beside the experiment's",
        "started": next(
            (str(run.facts["started"]) for run in folder.runs.values() if "started" in run.facts), UNKNOWN
        ),
        "commits": ", ".join(sorted({str(run.ended.get("commit") or UNKNOWN) for run in done})) or UNKNOWN,
        **{name: own.get(name, UNKNOWN) for name in ("versions", "device")},
    }
    return {
        "title": folder.path.name,
        "kind": "comparison",
        "folder": folder.path.name,
        "ended": bool(done) and bool(folder.ended) and len(done) == len(folder.asked),
        **sealing([folder.path, *(run.path for run in folder.runs.values())]),
        "facts": list(said.items()),
        "table": comparison_table(folder),
        "pictures": [
            *pictures(folder.reader, folder.reader.files("comparison.png")),
            *(figures(first, of) if first else []),
        ],
        "files": files(first, of) if first else [],
        "config": first.config if first else None,
        **shared_parts(groups, Charts()),
        "refused": refused(folder.reader, *(run.reader for run in folder.runs.values())),
    }


def sweep_page(folder: SweepFolder) -> dict[str, Any]:
    """Parts of the page of a sweep; charts, remarks and settings are those of its best trial."""
    best, charts = folder.best, Charts()
    own = dict(facts(best)) if best else {}
    flags = folder.plan.get("flags")
    states = Counter(str(trial.get("state")) for trial in folder.trials)
    weights = folder.ended.get("importance")
    said = {
        "experiment": str(best.ended.get("experiment")) if best else UNKNOWN,
        "trials": ", ".join(f"{count} {state}" for state, count in states.items()) or UNKNOWN,
        "best": best.path.name if best else UNKNOWN,
        "settings": UNKNOWN if flags is None else shlex.join(flags) or "none beside the experiment's",
        "importance": ", ".join(f"{name} {share:.2f}" for name, share in weights.items())
        if weights
        else UNKNOWN,
        **{name: own.get(name, UNKNOWN) for name in ("commit", "versions", "device")},
    }
    parts = shared_parts({"": [best]} if best else {}, charts)
    return {
        "title": folder.path.name,
        "kind": "sweep",
        "folder": folder.path.name,
        "ended": bool(folder.trials) and "unfinished" not in states,
        **sealing([folder.path, *([best.path] if best else [])]),
        "facts": list(said.items()),
        "table": trial_table(folder),
        "pictures": pictures(folder.reader, folder.reader.files("sweep.png")),
        "files": [],
        "config": best.config if best else None,
        **parts,
        "of": f"the best trial, {best.path.name}" if best else "",
        "learning": [*trial_curves(folder, charts), *parts["learning"]],
        "refused": refused(folder.reader, *([best.reader] if best else [])),
    }


def sealing(folders: list[Path]) -> dict[str, Any]:
    """Names of the files that are not as they were written, and of the folders where nobody can tell."""
    first = folders[0]
    names = [
        (folder.relative_to(first) / name).as_posix() for folder in folders for name in sums.differing(folder)
    ]
    unsealed = [folder.name for folder in folders if not (folder / sums.SUMS).exists()]
    return {"altered": names, "unsealed": unsealed}


def refused(*readers: Reader) -> list[str]:
    """Sentences about the files that could not be read."""
    return [sentence for reader in readers for sentence in reader.refused]


def shared_parts(groups: Groups, charts: Charts) -> dict[str, Any]:
    """Parts that every page has."""
    return {
        "of": "",
        "learning": learning_curves(groups, charts),
        "lost": sum((run.lost for run in chain.from_iterable(groups.values())), Counter()),
        "training": training_layers(groups, charts),
        "test": test_layers(groups, charts),
        "remarks": remarks(groups),
    }
