"""Every shipped YAML: it parses, builds, and runs a batch forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import soundfile

from experiments.cli import main
from experiments.invocation import configs
from lightning_modules.cores import CoreName

DEFAULTS = (
    *("forecasting", "anomaly", "online", "language", "speech", "speech_recognition"),
    *("classification", "classification_steps", "systems"),
)
PUBLIC = (
    "etth1",
    "etth2",
    "ettm1",
    "elec2",
    "exchange",
    "wth",
    "nab",
    "skab",
    "shakespeare",
    "wikitext2",
    "fsdd",
    "fsdd_digits",
    "omniglot",
)
MARKS = {name: [pytest.mark.data] for name in configs.shipped() if name.endswith(PUBLIC)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, [])) for name in configs.shipped()]
)
def test_it_runs_a_batch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.chdir(tmp_path)
    flags = []
    if name in ("classification_csv", "classification_steps_csv"):
        steps = np.arange(600)
        own = steps if name == "classification_steps_csv" else steps // 60
        ids = "id" if name == "classification_steps_csv" else "unique_id"
        table = pd.DataFrame({ids: steps // 60, "load": steps % 7, "label": own % 2})
        table.to_csv("steps.csv", index=False)
        flags = ["--data.path=steps.csv"]
    elif name.endswith("_csv"):
        table = pd.DataFrame(
            {"time": pd.date_range("2024-01-01", periods=1500, freq="h"), "load": np.arange(1500) % 24.0}
        )
        table.to_csv("load.csv", index=False)
        flags = ["--data.path=load.csv"]
    if name == "language_file":
        Path("text.txt").write_text("All work and no play makes Jack a dull boy.\n" * 60)
        flags = ["--data.path=text.txt"]
    if name == "speech_folder":
        write_recordings(tmp_path)
        flags = ["--data.path=recordings.csv"]
    assert main(["check", name, *flags]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "one batch" in said or "nothing to train on" in said
    assert configs.headline(configs.shipped()[name]).endswith((".", "FILE."))


def write_recordings(folder: Path) -> None:
    """Twenty noises called low and high, the table of them, and a folder with one for each word."""
    random, lines = np.random.default_rng(0), ["path,label"]
    for k in range(20):
        word, noise = "low" if k % 2 else "high", 0.1 * random.standard_normal(4000)
        (folder / "commands" / word).mkdir(parents=True, exist_ok=True)
        for place in (folder / f"{k}.wav", folder / "commands" / word / f"{k}.flac"):
            soundfile.write(place, noise, 16000)
        lines.append(f"{k}.wav,{word}")
    (folder / "recordings.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("core", [core for core in get_args(CoreName) if core != "dream"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_every_rival_runs_a_batch(name: str, core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dream"])
    assert main(["check", name, f"--model.core={core}"]) == 0


def test_a_path_is_as_good_as_a_name(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text(configs.shipped()["forecasting"].read_text())
    assert configs.resolve(str(copy)) == copy
    assert configs.resolve("forecasting") == configs.shipped()["forecasting"]
