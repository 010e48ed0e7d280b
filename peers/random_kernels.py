"""Public sets of labelled sequences as tables, and what MiniRocket reaches on them.

Run in an environment with the packages of ``peers/aeon.txt``, by ``make peers-aeon``:

    python peers/random_kernels.py sets FOLDER            # NAME.csv.gz: unique_id, part, label, columns
    python peers/random_kernels.py reference FOLDER FILE  # accuracy and macro F1 of every table, as JSON

MiniRocket: Dempster, Schmidt and Webb, MiniRocket: a very fast (almost) deterministic transform for time
series classification, 2021, with aeon's ridge classifier on top. Its kernels need as many steps in every
sequence, 9 or more: shorter sequences go on at their last row.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from aeon.classification.convolution_based import MiniRocketClassifier
from aeon.datasets import load_classification
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestCentroid

NAMES = ("BasicMotions", "JapaneseVowels", "ItalyPowerDemand", "GunPoint", "ArrowHead")
SEEDS = (0, 1, 2)
LEAST = 9
TRAINED = 1000  # of the 1797 digits


def long(sequences: list[np.ndarray], labels: list[str], parts: list[str]) -> pd.DataFrame:
    """A table with a row for each step of `sequences`, each (T, F)."""
    lengths = [len(one) for one in sequences]
    names = [f"column_{k}" for k in range(1, sequences[0].shape[1] + 1)]
    table = pd.DataFrame(np.concatenate(sequences), columns=names)
    table.insert(0, "unique_id", np.repeat(np.arange(len(sequences)), lengths))
    table.insert(1, "part", np.repeat(parts, lengths))
    table.insert(2, "label", np.repeat(labels, lengths))
    return table


def public(name: str) -> pd.DataFrame:
    """A set inside of aeon, in its own parts."""
    sequences, labels, parts = [], [], []
    for part in ("train", "test"):
        found, classes = load_classification(name, split=part)
        sequences += [np.asarray(one, dtype=np.float64).T for one in found]
        labels += [str(label) for label in classes]
        parts += [part] * len(found)
    return long(sequences, labels, parts)


def digits() -> pd.DataFrame:
    """Digits of 8 x 8 pixels, a row of pixels for each step; the last 797 are the test part."""
    found = load_digits()
    parts = np.where(np.arange(len(found.images)) < TRAINED, "train", "test")
    return long(list(found.images), [str(label) for label in found.target], list(parts))


def arrays(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sequences (N, F, T) and classes (N,) of each part, all of the longest length."""
    columns = [name for name in table.columns if name not in ("unique_id", "part", "label", "group")]
    longest = max(LEAST, table.groupby("unique_id").size().max())
    found: dict[str, tuple[list[np.ndarray], list[str]]] = {"train": ([], []), "test": ([], [])}
    for _, rows in table.groupby("unique_id", sort=False):
        values = rows[columns].to_numpy(np.float64)
        values = np.concatenate([values, np.repeat(values[-1:], longest - len(values), axis=0)])
        sequences, labels = found[rows["part"].iloc[0]]
        sequences.append(values.T)
        labels.append(str(rows["label"].iloc[0]))
    return {part: (np.stack(sequences), np.array(labels)) for part, (sequences, labels) in found.items()}


def reached(table: pd.DataFrame) -> list[dict[str, float]]:
    """Accuracy and macro F1 on the test part, by seed."""
    (known, labels), (asked, truth) = arrays(table).values()
    found = []
    for seed in SEEDS:
        guesses = MiniRocketClassifier(random_state=seed).fit(known, labels).predict(asked)
        f1 = f1_score(truth, guesses, average="macro")
        found.append({"accuracy": float((guesses == truth).mean()), "macro_f1": float(f1)})
    return found


def centroids(table: pd.DataFrame) -> dict[str, object]:
    """A small set, and the classes that the nearest centroid gives its test part in units of the deviation
    within classes: the test of our own nearest mean."""
    (known, labels), (asked, truth) = arrays(table).values()
    flat, places = known.reshape(len(known), -1), asked.reshape(len(asked), -1)
    means = {label: flat[labels == label].mean(0) for label in np.unique(labels)}
    within = (flat - np.stack([means[label] for label in labels])).std(0)
    model = NearestCentroid().fit(flat / within, labels)
    return {
        "training": {"values": known[:, 0].tolist(), "labels": labels.tolist()},
        "test": {"values": asked[:, 0].tolist(), "labels": truth.tolist()},
        "nearest_centroid": model.predict(places / within).tolist(),
    }


def main() -> None:
    """Do what the words say; see the module."""
    kind, folder, *rest = sys.argv[1:]
    if kind == "sets":
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            public(name).to_csv(Path(folder) / f"{name}.csv.gz", index=False)
        digits().to_csv(Path(folder) / "Digits.csv.gz", index=False)
        return
    tables = {path.name.split(".")[0]: path for path in sorted(Path(folder).glob("*.csv.gz"))}
    rows = {name: reached(pd.read_csv(path, dtype={"label": str})) for name, path in tables.items()}
    content = {
        "command": "make peers-aeon",
        "aeon": version("aeon"),
        "seeds": list(SEEDS),
        "minirocket": rows,
        "unit_test": centroids(public("UnitTest")),
    }
    Path(rest[0]).write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
