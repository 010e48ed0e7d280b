"""A model whose weights are finite and whose outputs are not: every command that judges or uses it says
so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMError
from lightning_modules.checks import require_finite
from tests.experiments.support import forked

ARGUMENTS = {
    "forecasting": ["--data.look_back=12", "--data.horizon=2", "--data.season=2", "--model.patch=4"],
    "anomaly": ["--data.training=0.5"],
    "online": ["--data.crop=16", "--data.context=4", "--data.crops=32"],
    "language": ["--data.steps=256"],
}
SMALL = [
    "--model.config.hidden_dim=8",
    "--model.config.rank=2",
    "--trainer.accelerator=cpu",
    "--run.wandb=disabled",
]
SAID = {
    "fit": {
        "forecasting": "not finite: the forecast, first of table.csv, rows 180 to 191. ",
        "anomaly": "not finite: the prediction, first of table.csv, row 1. ",
        "online": "not finite: the prediction, first of table.csv, row 0. ",
        "language": "not finite: the loss, first of table.csv, token 0. ",
    },
    "validate": {
        "forecasting": "not finite: the forecast, first of table.csv, rows 156 to 167. ",
        "anomaly": "not finite: the prediction, first of table.csv, row 1. ",
        "online": "not finite: the loss, first of crops of table.csv from rows [40]. ",
        "language": "not finite: the loss, first of table.csv, token 0. ",
    },
    "predict": {
        "forecasting": "not finite: the forecast, first of table.csv, rows 228 to 239. ",
        "anomaly": "not finite: the prediction, first of table.csv, row 1. ",
        "online": "not finite: the prediction, first of table.csv, row 0. ",
        "language": "not finite: the scores, first of what follows the text so far. ",
    },
}


@pytest.mark.parametrize("task", ARGUMENTS)
def test_a_run_that_has_diverged(task: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"time": pd.date_range("2024-01-01", periods=240, freq="h").strftime("%Y-%m-%d %H:%M")}
    )
    table = table.assign(a=random.standard_normal(240).round(4), b=random.standard_normal(240).round(4))
    table.to_csv(tmp_path / "table.csv", index=False)
    name = "language_file" if task == "language" else f"{task}_csv"
    arguments = ["-c", name, "--data.path=table.csv", *ARGUMENTS[task], *SMALL]
    done = {
        "fit": forked(
            "fit", *arguments, "--model.lr=1e30", "--trainer.max_epochs=1", "--run.name=one", folder=tmp_path
        )
    }
    (save,) = (tmp_path / "runs" / "one").rglob("step-*.ckpt")
    assert all(value.isfinite().all() for value in torch.load(save, weights_only=True)["state_dict"].values())
    for command in ("validate", "predict"):
        done[command] = forked(
            command, *arguments, f"--ckpt_path={save.relative_to(tmp_path)}", folder=tmp_path
        )
    for command, one in done.items():
        assert one.returncode == 2, one.stderr
        assert "Traceback" not in one.stderr
        wanted = (
            SAID[command][task]
            + "The weights have diverged: lower `model.lr`, or go on from an earlier checkpoint."
        )
        assert wanted in one.stderr
    files = {path.name for path in tmp_path.rglob("*")}
    assert not files & {"forecast.csv", "scores.csv", "text.txt", "results.json"}


def test_what_is_not_finite_is_named() -> None:
    score, quantiles = np.zeros((4, 2)), torch.zeros(4, 3, 2)
    require_finite({"the score": score, "its quantiles": quantiles}, str)
    quantiles[3, 1, 0] = torch.inf
    with pytest.raises(DREAMError, match=r"^not finite: its quantiles, first of entry 3\. The weights"):
        require_finite({"the score": score, "its quantiles": quantiles}, "entry {}".format)
    score[1, 1] = np.nan
    with pytest.raises(DREAMError, match=r"^not finite: the score and its quantiles, first of entry 1\."):
        require_finite({"the score": score, "its quantiles": quantiles}, "entry {}".format)
