"""Eight sets of labelled sequences: DREAM beside its rivals, and what the docs say of them.

``python -m experiments.benchmarks.sequences`` runs ``dream compare -c classification_csv`` on each set,
prints the accuracy of every model, mean over the seeds, and writes it as JSON with macro F1 and every seed.
What is done is not run again: the same command goes on where it was stopped. Words it does not know are
settings of every run, as in ``dream fit``. The sets of packages are written by ``make peers-aeon``; the two
others are made here, by ``--write`` alone where nothing is to be run.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.sequences")

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from dream.errors import DataError
from experiments import compare
from experiments.ending import say
from experiments.summary import table
from lightning_modules.classification import Motions
from lightning_modules.data.catalogue import data_path
from lightning_modules.run.tracking import write_results

PACKAGED = ("BasicMotions", "JapaneseVowels", "ItalyPowerDemand", "GunPoint", "ArrowHead", "Digits")
SETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PACKAGED, ()),
    "ElectricityDays": (),
    "Motions": ("--data.group=group",),
}
"""Names of the sets, and the settings of their columns."""
READS = {
    "dream": "[last,mean,deviation,attention,error]",
    "lstm": "[last,attention]",
    "gru": "[last,attention]",
}
"""Models, and what the head of each reads: chosen by the mean loss on the validation parts of all sets."""
STEPS = 1000
"""Steps of the optimiser in a run, at most."""
HALF_HOURS = 48
TRAINED = 2 / 3  # of the days, the first ones


def electricity_days() -> pd.DataFrame:
    """Days of price, demand and transfer, whether of a weekday, a Saturday or a Sunday."""
    rows = pd.read_csv(data_path("elec2", "electricity.csv"))
    begun = (rows["period"] == 0).cumsum()
    whole = begun.map(begun.value_counts()) == HALF_HOURS
    rows, number = rows[whole], begun[whole].rank(method="dense").astype(int) - 1
    return pd.DataFrame(
        {
            "unique_id": number,
            "part": np.where(number < round(TRAINED * (number.max() + 1)), "train", "test"),
            "label": rows["day"].map({6: "Saturday", 7: "Sunday"}).fillna("weekday"),
            **{name: rows[name] for name in ("nswprice", "nswdemand", "transfer")},
        }
    )


def motions() -> pd.DataFrame:
    """`Motions` as a table, with a column `group` for its people."""
    data = Motions()
    facts = {
        name: [getattr(one, field) for one in data.read() for _ in one.values]
        for name, field in (("unique_id", "name"), ("part", "part"), ("label", "label"), ("group", "group"))
    }
    values = pd.DataFrame(np.concatenate([one.values for one in data.read()]), columns=list(data.columns))
    return pd.concat([pd.DataFrame(facts), values], axis=1)


def write_made(folder: Path) -> None:
    """Write the two sets that are in no package."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("ElectricityDays", electricity_days), ("Motions", motions)):
        if not (path := folder / f"{name}.csv.gz").is_file():
            make().to_csv(path, index=False)


def gathered(records: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Accuracy of each model on each set, mean over the seeds, from the comparisons of each set."""
    found: dict[str, dict[str, float]] = {}
    for name, comparisons in records.items():
        for model, metrics in (row for one in comparisons for row in one["results"].items()):
            found.setdefault(model, {})[name] = metrics["accuracy"]
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the sets; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.sequences", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--models", nargs="+", default=list(READS), choices=READS, help="default: all")
    parser.add_argument("--names", nargs="+", default=list(SETS), choices=SETS, help="sets (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="of each set (default: 3)")
    parser.add_argument("--sets", type=Path, default=Path("build/peers/sequences"), help="folder of tables")
    parser.add_argument("--folder", type=Path, default=Path("runs/sequences"), help="where everything goes")
    parser.add_argument("--write", action="store_true", help="write the tables that are made here, and end")
    arguments, settings = parser.parse_known_args(argv)
    write_made(arguments.sets)
    if arguments.write:
        return 0
    records: dict[str, list[dict[str, Any]]] = {}
    for number, name in enumerate(arguments.names, 1):
        say(f"set {number} of {len(arguments.names)}: {name}")
        if not (path := arguments.sets / f"{name}.csv.gz").is_file():
            raise DataError(f"{path} is not there: run `make peers-aeon`, or name other sets with `--names`.")
        records[name] = []
        for model in arguments.models:
            folder = arguments.folder / name / model
            words = ["-c", "classification_csv", f"--data.path={path}", "--data.part=part", *SETS[name]]
            words += ["--models", model, f"--model.reads={READS[model]}", f"--seeds={arguments.seeds}"]
            words.append(f"--trainer.max_steps={STEPS}")
            if code := compare.main([*words, f"--folder={folder}", *settings]):
                return code
            records[name].append(json.loads((folder / "comparison.json").read_text()))
    results = gathered(records)
    console = Console()
    cells = {model: {name: f"{value:.3f}" for name, value in row.items()} for model, row in results.items()}
    console.print(table(cells, f"accuracy, mean of {arguments.seeds} seeds", console))
    out = arguments.folder / "sequences.json"
    rows = {name: [one["rows"] for one in comparisons] for name, comparisons in records.items()}
    write_results(out, results, rows=rows, seeds=list(range(arguments.seeds)), settings=settings)
    console.print(f"every figure: {out}; every run: {arguments.folder}")
    return 0
