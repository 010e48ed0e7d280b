"""`dream sweep`: every trial once, by the validation part alone, the same after a kill, and what was wrong said before it runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dream.errors import ConfigError
from dream.tuning import KNOBS
from experiments import configs
from experiments.soak import processes
from experiments.sweep import space
from experiments.sweep.command import parse
from tests.experiments.support import SMALL, forked, start

BRIEF = [
    "sweep",
    "-c",
    "forecasting",
    *SMALL,
    "--trainer.max_epochs=1",
    "--run.wandb=disabled",
    "--trainer.limit_train_batches=4",
]
SPACE = (
    "model.lr: {low: 1e-3, high: 1e-1, log: true}\nmodel.dropout: [0.0, 0.2]\ndata.look_back: {low: 16, high: 32, step: 8}\n"
)
FLAGS = [flag for flag in BRIEF if "look_back" not in flag]


def sweep_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return record


def chosen(folder: Path) -> list[tuple[Any, ...]]:
    """What each trial was and came to."""
    return [
        (trial["trial"], trial["state"], trial["params"], trial["value"], trial["epochs"])
        for trial in sweep_record(folder)["trials"]
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a sweep of three trials, in one go, and what it said."""
    home = tmp_path_factory.mktemp("swept")
    (home / "space.yaml").write_text(SPACE)
    done = forked(*FLAGS, "--space=space.yaml", "--trials=3", "--folder=whole", folder=home)
    assert done.returncode == 0, done.stderr
    return home / "whole", done.stdout + done.stderr


def test_what_it_says_is_what_its_runs_say(swept: tuple[Path, str]) -> None:
    folder, said = swept
    record = sweep_record(folder)
    assert (record["monitor"], record["mode"], len(record["trials"])) == ("val/mse", "min", 3)
    for trial in record["trials"]:
        run = folder / trial["folder"]
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert trial["value"] == min(row["val/mse"] for row in rows if "val/mse" in row)
        assert json.loads((run / "results.json").read_text())["results"]["DREAM"]["mse"] == trial["value"]
        assert not [name for row in rows for name in row if name.startswith("test")]
        assert not (run / "figures").exists()
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["init_args"]["lr"] == trial["params"]["model.lr"]
        assert config["data"]["init_args"]["look_back"] == trial["params"]["data.look_back"]
    best = min(record["trials"], key=lambda trial: trial["value"])
    assert record["best"] == best["trial"]
    assert f"--ckpt_path whole/{best['folder']}" in said
    assert (folder / "sweep.png").stat().st_size > 10_000
    assert "[3/3]" in said
    assert "min left" in said
    assert "Warning" not in said


def test_the_best_configuration_is_an_experiment_and_its_checkpoint_can_be_tested(swept: tuple[Path, str]) -> None:
    folder, said = swept
    best = sweep_record(folder)["best"]
    words = said.partition("dream test ")[2].splitlines()[0].split()
    tested = forked("test", *words, "--run.name=tested", folder=folder.parent)
    assert tested.returncode == 0, tested.stderr
    assert "repeat-last" in tested.stdout
    assert "mase" in json.loads((folder.parent / "runs" / "tested" / "results.json").read_text())["results"]["DREAM"]
    again = forked("fit", "-c", "whole/best.yaml", "--run.name=again", folder=folder.parent)
    assert again.returncode == 0, again.stderr
    of_trial = (folder / f"trial-{best:04d}" / "metrics.jsonl").read_text().splitlines()
    of_fit = (folder.parent / "runs" / "again" / "metrics.jsonl").read_text().splitlines()
    assert of_fit[: len(of_trial)] == of_trial
    assert "test/mse" in of_fit[-1]


@pytest.mark.parametrize("step", [2, 10])
def test_a_sweep_that_was_killed_goes_on_as_if_it_never_had_been(step: int, swept: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    command = [*FLAGS, "--space=space.yaml", "--trials=3", "--folder=whole", "--save.every_n_steps=1"]
    assert processes.run(tmp_path, command, "step", step) == -signal.SIGKILL
    assert processes.run(tmp_path, command) == 0
    assert chosen(tmp_path / "whole") == chosen(swept[0])
    assert "going on from whole/trial-000" in (tmp_path / "said.txt").read_text()
