"""Spoken digits by speakers that training never heard: every speaker of the set held out once.

``python -m experiments.benchmarks.speakers`` runs ``dream compare -c speech_fsdd --data.split=speaker=NAME``
for each of the six speakers, prints the accuracy of every model on every speaker, mean over the seeds, with
the mean over the speakers, and writes it as JSON. What is done is not run again: the same command goes on
where it was stopped. Words it does not know are settings of every run, as in ``dream fit``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.speakers")

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console

from experiments import compare
from experiments.ending import say
from experiments.summary import table
from lightning_modules.run.tracking import write_results

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


def folds(records: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The accuracy of each model on each speaker, and the mean over the speakers, from the results of the
    folds."""
    models = next(iter(records.values()))
    found = {}
    for model in models:
        by_speaker = {speaker: record[model]["accuracy"] for speaker, record in records.items()}
        found[model] = {**by_speaker, "mean": statistics.fmean(by_speaker.values())}
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the folds; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.speakers", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--models", nargs="+", default=["dream", "lstm", "gru"], help="see `dream compare`")
    parser.add_argument("--seeds", type=int, default=1, help="of each fold (default: 1)")
    parser.add_argument("--folder", type=Path, default=Path("runs/speakers"), help="where everything goes")
    arguments, settings = parser.parse_known_args(argv)
    asked = ["--models", *arguments.models, f"--seeds={arguments.seeds}"]
    records = {}
    for number, speaker in enumerate(SPEAKERS, 1):
        say(f"speaker {number} of {len(SPEAKERS)}: {speaker}")
        folder = arguments.folder / speaker
        fold = [
            "-c",
            "speech_fsdd",
            f"--data.split=speaker={speaker}",
            *asked,
            f"--folder={folder}",
            *settings,
        ]
        code = compare.main(fold)
        if code:
            return code
        records[speaker] = json.loads((folder / "comparison.json").read_text())["results"]
    results = folds(records)
    console = Console()
    cells = {model: {name: f"{value:.4f}" for name, value in row.items()} for model, row in results.items()}
    console.print(table(cells, f"accuracy on a speaker held out, mean of {arguments.seeds} seeds", console))
    out = arguments.folder / "speakers.json"
    write_results(out, results, seeds=list(range(arguments.seeds)), settings=settings)
    console.print(f"every figure: {out}; every run: {arguments.folder}")
    return 0
