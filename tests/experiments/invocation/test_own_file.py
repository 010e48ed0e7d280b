"""A shipped configuration takes a file of one's own by `--data.path` alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dream.errors import DREAMWarning
from experiments.cli import main

ROWS = 400
QUICK = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--run.wandb=disabled",
    "--run.name=mine",
    "--model.config.hidden_dim=8",
    "--model.config.rank=2",
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.delenv("DREAM_DATA", raising=False)  # nothing of a public set is read
    time = pd.date_range("2024-01-01", periods=ROWS, freq="h")
    count = np.arange(ROWS)
    frame = pd.DataFrame({"time": time, "a": np.sin(count / 5), "b": np.cos(count / 7)})
    frame.assign(state=np.where(count // 6 % 2, "on", "off")).to_csv("mine.csv", index=False)


def data_of(run: str) -> dict[str, object]:
    return yaml.safe_load(Path("runs", run, "config.yaml").read_text())["data"]


SETS = {
    "forecasting_etth1": (
        ["--data.look_back=24", "--data.horizon=8", "--model.patch=null"],
        "lightning_modules.forecasting.TableData",
        r"`data.path` is read by TableData in place of ETTData; .* stay. What ETTData decides is now "
        r"season=null, split=\[0.7, 0.1, 0.2\]: set `data.season` and `data.split`",
        dict(batch_size=128, season=None, split=[0.7, 0.1, 0.2]),
    ),
    "online_etth2": (
        ["--data.crop=32", "--data.context=8", "--data.crops=16"],
        "lightning_modules.online.TableStream",
        "read by TableStream in place of .* now warm_up=0.2, validation=0.05, rows=null, season=null",
        dict(warm_up=0.2, rows=None),
    ),
    "online_elec2": (
        ["--data.targets=[state]", "--trainer.max_epochs=0"],
        "lightning_modules.online.TableStream",
        "now warm_up=0, validation=0, rows=null, season=null",
        dict(warm_up=0, validation=0, targets=["state"]),
    ),
    "anomaly_skab": (
        ["--data.training=150"],
        "lightning_modules.anomaly.AnomalyTable",
        "read by AnomalyTable in place of SKABData",
        dict(training=150),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_fits_on_a_file_of_ones_own(name: str) -> None:
    flags, kind, said, settings = SETS[name]
    with pytest.warns(DREAMWarning, match=said):
        assert main(["fit", "-c", name, "--data.path=mine.csv", *QUICK, *flags]) == 0
    held = data_of("mine")
    assert held["class_path"] == kind
    assert settings.items() <= held["init_args"].items()  # type: ignore[attr-defined]
    if not name.startswith("online"):  # so few rows to validate on pick no best epoch
        assert main(["predict", "--ckpt_path=runs/mine", "--data.path=mine.csv", "--output=out.csv"]) == 0
        assert Path("out.csv").stat().st_size > 20


def test_an_unknown_name_is_told_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("forecasting_etth1", "online_etth2"):
        assert main(["check", "-c", name, "--data.name=mine.csv"]) == 2
        assert "A file of your own: `--data.path=FILE`, without `name`." in capsys.readouterr().err


def test_a_class_that_is_named_stays(capsys: pytest.CaptureFixture[str]) -> None:
    named = "--data=lightning_modules.forecasting.ETTData"
    assert main(["check", "-c", "forecasting_etth1", named, "--data.path=mine.csv"]) == 2
    assert "`data.path` is not a setting" in capsys.readouterr().err
