"""The files of a run: metrics line by line, results with their versions, checkpoints whole or absent."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import torch

import dream
from lightning_modules.run import tracking


def test_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    logger = tracking.JSONLLogger(tmp_path / "run")
    logger.log_metrics({"loss": torch.tensor(0.5)}, step=1)
    assert json.loads(logger.path.read_text()) == {"step": 1, "loss": 0.5}
    logger.log_metrics({"loss": float("nan"), "norm": float("inf")}, step=2)
    assert json.loads(logger.path.read_text().splitlines()[1]) == {"step": 2, "loss": "nan", "norm": "inf"}


def test_results_hold_values_versions_and_facts(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    tracking.write_results(path, {"DREAM": {"mse": 0.25}}, seed=3)
    record = json.loads(path.read_text())
    assert record["results"] == {"DREAM": {"mse": 0.25}}
    assert record["seed"] == 3
    assert record["versions"]["dream"] == dream.__version__
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert record["commit"] == tracking.commit()


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(dream.__file__).parent.parent
    if not (root / ".git").exists():
        assert tracking.commit() is None
        return
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert tracking.commit() in (head.stdout.strip(), head.stdout.strip() + "-dirty")
