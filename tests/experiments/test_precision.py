"""Every task in every precision: trained, tested and used to predict, with finite results."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import records
from experiments.cli import main

WHOLE = ["--trainer.limit_test_batches=1.0"]  # a stream is tested to its end
TASKS = {
    "forecasting": ["--data.rows=400", "--data.feeders=2", "--data.look_back=24", "--data.horizon=8"],
    "anomaly": ["--data.rows=1400", "--data.training=600", "--data.anomalies=4", *WHOLE],
    "online": ["--data.length=1200", "--data.drifts=2", "--data.crops=32", *WHOLE],
    "language": ["--data.steps=256"],
    "speech": [],
    "speech_recognition": [],
    "classification": ["--data.people=8", "--data.takes=1"],
    "classification_steps": ["--data.episodes=64", "--data.test_episodes=40"],
    "systems": ["--data.systems=64", "--data.test_systems=32"],
}
BRIEF = [
    *("--model.config.hidden_dim=8", "--model.config.rank=2", "--trainer.accelerator=cpu"),
    *("--trainer.limit_test_batches=1", "--run.wandb=disabled", "--figures.dpi=20"),
]
FIT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize("task", TASKS)
def test_it_runs(task: str, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*BRIEF, *TASKS[task], f"--trainer.precision={precision}"]
    assert main(["fit", "-c", task, *flags, *FIT, "--run.name=a"]) == 0, capsys.readouterr().err
    results = records.read(Path("runs/a/results.json"), records.Ended)["results"]
    assert all(abs(value) < float("inf") for values in results.values() for value in values.values())
    assert main(["predict", "-c", task, *flags, "--ckpt_path=runs/a"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "transformer-engine"])
def test_half_precision_alone_is_refused(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", "speech", f"--trainer.precision={precision}"]) == 2
    said = capsys.readouterr().err
    assert "`trainer.precision` must be 32, 64, 16-mixed, bf16-mixed or null" in said
