"""One real run of the command, as a user starts it, and everything that it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.experiments.support import DREAM, ENVIRONMENT, SMALL, forked, start, wandb_config, wandb_history


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished fit: its folder, and what it said."""
    folder = tmp_path_factory.mktemp("fit")
    command = [*DREAM, "fit", "-c", "forecasting", *SMALL, "--run.name=one", "--seed=3"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "one", done


def test_it_ends_with_the_table_and_the_paths(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = run
    for word in ("DREAM", "repeat-last", "seasonal-naive", "mse", "mae", "mase"):
        assert word in done.stdout
    printed = [line.split()[-1] for line in done.stdout.splitlines() if "runs/one" in line]
    assert all((folder.parent.parent / path).exists() for path in printed)
    names = {Path(path).name for path in printed}
    assert {
        "adaptation.png",
        "forecasts.png",
        "metrics.jsonl",
        "results.json",
        "config.yaml",
        "best.ckpt",
    } <= names
    assert any(name.startswith("offline-run-") for name in names)


def test_the_log_without_a_terminal_is_a_line_an_epoch(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    lines = run[1].stderr.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert all(line.startswith(("epoch", "step", "note: `")) for line in lines), run[
        1
    ].stderr  # nothing else but advice


def test_results_can_be_traced(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    record = json.loads((run[0] / "results.json").read_text())
    assert list(record["results"]) == ["DREAM", "repeat-last", "seasonal-naive"]
    assert record["seed"] == 3
    assert record["command"][:4] == ["dream", "fit", "-c", "forecasting"]
    assert record["epochs"] == 2
    assert {"commit", "versions", "device", "seconds"} <= record.keys()


def test_metrics_hold_loss_surprise_and_norm(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    rows = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    logged = {name for row in rows for name in row}
    assert {"train/loss", "dream/layer_0/surprise", "dream/layer_0/u_norm", "val/mse", "test/mse"} <= logged
    assert "test/repeat-last/mse" in logged


def test_the_tracked_run_holds_the_same(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    (path,) = (run[0] / "wandb").glob("offline-run-*/*.wandb")
    tracked = wandb_history(path)
    own = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "dream/layer_0/surprise", "dream/layer_0/u_norm", "test/mse"):
        values = [row[name] for row in tracked if name in row]
        assert values
        assert values == pytest.approx([row[name] for row in own if name in row])
    assert any(row.get("figures/adaptation", row.get("figures/adaptation/_type")) for row in tracked)
    assert any(name.startswith("results") for row in tracked for name in row)


def test_the_tracked_configuration_is_nested_and_resolved(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    (path,) = (run[0] / "wandb").glob("offline-run-*/*.wandb")
    settings = wandb_config(path)["model"]["init_args"]
    assert settings["config"]["rank"] == 2
    assert settings["config"]["input_dim"] == 4  # what the layer really reads: a patch of four rows
    assert settings["shape"]["channels"] == 2


def test_the_configuration_runs_again_and_gives_the_same(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = run
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 3
    again = forked("fit", "-c", str(folder / "config.yaml"), "--run.name=two", folder=folder.parent.parent)
    assert again.returncode == 0, again.stderr
    first, second = (
        json.loads((folder.parent / name / "results.json").read_text())["results"] for name in ("one", "two")
    )
    assert first == second


def test_a_checkpoint_is_tested_as_it_was_trained(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = run
    done = forked(
        "test",
        "--ckpt_path",
        str(folder),
        "--run.name=three",
        "--run.wandb=disabled",
        folder=folder.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    first, again = (
        json.loads((folder.parent / name / "results.json").read_text())["results"]
        for name in ("one", "three")
    )
    assert first == again
    assert not (folder.parent / "three" / "wandb").exists()


def test_a_flag_beats_the_checkpoint(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = run
    arguments = [
        "--ckpt_path",
        str(folder / "checkpoints/best.ckpt"),
        "--model.config.base_threshold=0.7",
        "--run.name=four",
    ]
    done = forked("test", *arguments, "--run.wandb=disabled", folder=folder.parent.parent)
    assert done.returncode == 0, done.stderr
    first, changed = (
        json.loads((folder.parent / name / "results.json").read_text())["results"] for name in ("one", "four")
    )
    assert first["DREAM"] != changed["DREAM"]
    assert first["repeat-last"] == changed["repeat-last"]
    settings = yaml.safe_load((folder.parent / "four" / "config.yaml").read_text())["model"]["init_args"][
        "config"
    ]
    assert settings["base_threshold"] == 0.7
    assert settings["rank"] == 2  # from the checkpoint


def test_a_group_of_settings_beats_the_checkpoint_too(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = run
    arguments = ["--ckpt_path", str(folder), "--model.config", "{base_threshold: 0.6}", "--run.name=group"]
    done = forked("validate", *arguments, "--run.wandb=disabled", folder=folder.parent.parent)
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load((folder.parent / "group" / "config.yaml").read_text())["model"]["init_args"][
        "config"
    ]
    assert settings["base_threshold"] == 0.6
    assert settings["rank"] == 2  # from the checkpoint


def test_weights_that_do_not_fit_are_refused_in_one_line(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = run
    done = forked(
        "test",
        "--ckpt_path",
        str(folder),
        "--model.config.rank=3",
        "--run.wandb=disabled",
        folder=folder.parent.parent,
    )
    assert done.returncode == 2
    assert (
        "\ndream: the checkpoint does not fit the model: `core.layers.0.cell.D` is (2, 8) in" in done.stderr
    )
    assert len(done.stderr.splitlines()) <= 3


def test_predict_continues_the_data(run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = run
    done = forked(
        "predict",
        "--ckpt_path",
        str(folder),
        "--run.name=five",
        "--run.wandb=disabled",
        folder=folder.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    lines = (folder.parent / "five" / "forecast.csv").read_text().splitlines()
    assert lines[0] == "time,feeder_1,feeder_2"
    assert len(lines) == 1 + 8


def test_validate_gives_the_value_that_chose_the_checkpoint(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = run
    done = forked(
        "validate",
        "--ckpt_path",
        str(folder),
        "--run.name=six",
        "--run.wandb=disabled",
        folder=folder.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = min(row["val/mse"] for row in rows if "val/mse" in row)
    value = json.loads((folder.parent / "six" / "results.json").read_text())["results"]["DREAM"]["mse"]
    assert value == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("limit", ["--trainer.limit_test_batches=0", "--trainer.limit_val_batches=0"])
def test_parts_may_be_left_out(limit: str, tmp_path: Path) -> None:
    done = forked("fit", "-c", "forecasting", *SMALL, limit, "--trainer.max_epochs=1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("nothing was tested" in done.stdout) == ("test" in limit)


def test_an_interrupted_run_leaves_no_broken_file(tmp_path: Path) -> None:
    """By Ctrl-C; test_resume.py has SIGTERM, and what goes on."""
    arguments = ["fit", "-c", "forecasting", *SMALL, "--trainer.max_epochs=100000", "--run.name=cut"]
    process = start(*arguments, folder=tmp_path)
    folder = tmp_path / "runs" / "cut"
    deadline = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("step-*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"interrupted; what is done is in {Path('runs') / 'cut'}" in said
    assert "Traceback" not in said
    for path in folder.glob("checkpoints/*.ckpt"):
        assert torch.load(path, weights_only=True)["state_dict"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("val/mse" in row for row in rows)
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 0
    (tracked,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert any("train/loss" in row for row in wandb_history(tracked))
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]
    assert not (folder / "results.json").exists()
