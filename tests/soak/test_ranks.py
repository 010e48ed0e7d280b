"""Runs of two processes: one folder, the results of one process, and an end if one is killed. The soak
`ranks` kills each of them, also under torchrun, and stops a run that goes on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy

from dream.errors import ConfigError
from experiments import compare, launch
from experiments.cli import main
from tests.experiments.support import DREAM, ENVIRONMENT, SMALL, wandb_history
from tests.soak.ranks import kill

FIT = ["fit", "-c", "forecasting", *SMALL, "--model.dropout=0"]


def test_two_processes_write_one_run_with_the_results_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, "--run.name=one", "--run.wandb=disabled"]) == 0
    together = [*DREAM, *FIT, "--run.name=two", "--run.wandb=offline", "--trainer.devices=2"]
    said = subprocess.run(together, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    one, two = tmp_path / "runs/one", tmp_path / "runs/two"
    tables = [
        [line.split() for line in text.splitlines() if "DREAM" in line]
        for text in (capsys.readouterr().out, said.stdout)
    ]
    assert tables[0] == tables[1] != []
    assert said.stderr.count("epoch 2/2") == 1
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)
    ]
    assert len(rows[0]) == len(rows[1]) > 10
    for ours, theirs in zip(*rows, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
    assert sorted(path.name for path in one.rglob("*.ckpt")) == sorted(
        path.name for path in two.rglob("*.ckpt")
    )
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one", "two"}
    (tracked,) = two.glob("wandb/offline-run-*/*.wandb")
    assert len([row for row in wandb_history(tracked) if "train/loss" in row]) == len(
        [row for row in rows[1] if "train/loss" in row]
    )
    assert (two / "results.json").is_file()


def test_a_killed_process_ends_all(tmp_path: Path) -> None:
    ending = kill(1, False, tmp_path, *FIT[1:], "--early_stopping.patience=1000000", "--run.wandb=disabled")
    assert ending.seconds < 60
    assert ending.code not in (0, 2)
    assert "dream: a process of this run" in ending.said


@pytest.mark.parametrize(
    ("environment", "asked", "settled"),
    [
        ({}, {}, (1, 1, False)),
        ({}, {"devices": 2}, (2, 1, True)),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, {}, (2, 3, True)),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, {"devices": 2, "num_nodes": 3}, (2, 3, True)),
    ],
)
def test_what_is_left_open_is_settled(
    environment: dict[str, str],
    asked: dict[str, Any],
    settled: tuple[int, int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "started_by_torchrun", lambda: bool(environment))
    trainer = Namespace(**{"devices": "auto", "num_nodes": 1, "strategy": "auto"} | asked)
    launch.spread(trainer, unreached=False)
    assert (trainer.devices, trainer.num_nodes, isinstance(trainer.strategy, DDPStrategy)) == settled


def test_several_nodes_without_torchrun_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`trainer.num_nodes` of 2 needs processes that torchrun starts"):
        launch.spread(Namespace(devices="auto", num_nodes=2, strategy="auto"), unreached=False)


def test_a_comparison_starts_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "started_by_torchrun", lambda: True)
    with pytest.raises(ConfigError, match="leave out torchrun"):
        compare.main(["-c", "forecasting"])


def test_a_run_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    with launch.variables_kept():
        monkeypatch.setenv("MASTER_PORT", "2")
        monkeypatch.setenv("LOCAL_RANK", "0")
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")  # or the next processes would order their data by it
    assert os.environ["MASTER_PORT"] == "1"
    assert not {"LOCAL_RANK", "PL_GLOBAL_SEED"} & os.environ.keys()
