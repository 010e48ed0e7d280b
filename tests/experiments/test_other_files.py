"""Checkpoints on files other than the one they were trained on: columns by name, scales of the training, and
no more rows than are needed."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.cli import main
from lightning_modules import ForecastingModule
from lightning_modules.run import checkpoints
from tests.soak import processes

ROWS, PAST = 300, 24
QUICK = [
    *("--model.config.hidden_dim=8", "--model.config.rank=2", "--trainer.max_epochs=1"),
    *("--trainer.accelerator=cpu", "--run.wandb=disabled", "--data.path=whole.csv"),
]
WINDOWS = [f"--data.look_back={PAST}", "--data.horizon=4", "--data.batch_size=32"]
CROPS = ["--data.crop=32", "--data.context=8", "--data.crops=32"]
TOGETHER = ["--model.channel_independent=false", "--model.normalization=mean"]
RUNS = {
    "forecast": [
        "-c",
        "forecasting_csv",
        *WINDOWS,
        *TOGETHER,
        "--data.calendar=[hour,weekday]",
        "--data.units={a: MW}",
    ],
    "detector": ["-c", "anomaly_csv", "--data.label_column=label", "--data.training=120"],
    "classes": ["-c", "online_csv", "--data.targets=[state]", *CROPS],
    "stream": ["-c", "online_csv", "--data.targets=[b,a]", *CROPS],
}


def frame() -> pd.DataFrame:
    k, random = np.arange(ROWS), np.random.default_rng(0)
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=ROWS, freq="h"),
            "a": 10 + np.sin(k / 4) + 0.1 * random.standard_normal(ROWS),
            "b": 1000 * np.cos(k / 9) + random.standard_normal(ROWS),
        }
    ).round({"a": 4, "b": 4})


WHOLE = frame()
PLAN = np.arange(ROWS) % 7.0
LABEL = (np.arange(ROWS) % 50 == 49).astype(int)
STATE = pd.Series(np.array(["high", "low", "mid"])[np.arange(ROWS) // 5 % 3])
TABLES = {
    "forecast": WHOLE,
    "detector": WHOLE.assign(label=LABEL),
    "classes": WHOLE.assign(state=STATE),
    "stream": WHOLE.assign(c=PLAN),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind."""
    folder = tmp_path_factory.mktemp("other")
    for name, flags in RUNS.items():
        TABLES[name].to_csv(folder / "whole.csv", index=False)
        tested = f"--run.test={str(name == 'forecast').lower()}"
        assert processes.run(folder, ["fit", *QUICK, *flags, f"--run.name={name}", tested]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setattr("sys.argv", ["dream"])


def called(command: str, run: str, table: pd.DataFrame, *flags: str) -> int:
    table.to_csv("new.csv", index=False)
    given = [f"--ckpt_path=runs/{run}", "--data.path=new.csv", "--run.name=new", "--run.wandb=disabled"]
    return main([command, *given, *flags])


def predicted(run: str, table: pd.DataFrame, *flags: str) -> pd.DataFrame:
    assert called("predict", run, table, *flags) == 0
    (file,) = Path("runs/new").glob("*.csv")
    found = pd.read_csv(file)
    for path in sorted(Path("runs/new").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path("runs/new").rmdir()
    return found


@cache
def expected(run: str) -> pd.DataFrame:
    """What a run predicts from the file that it was trained on."""
    return predicted(run, TABLES[run])


def refusal(
    command: str, run: str, table: pd.DataFrame, capsys: pytest.CaptureFixture[str], *flags: str
) -> str:
    """What a command says that exits with 2 and leaves nothing behind."""
    before = sorted(Path("runs").rglob("*"))
    capsys.readouterr()
    assert called(command, run, table, *flags) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert sorted(Path("runs").rglob("*")) == before
    return " ".join(said.split())


@pytest.mark.parametrize("run", RUNS)
def test_columns_in_another_order_change_nothing(run: str) -> None:
    table = TABLES[run]
    turned = table[["time", *reversed(table.columns[1:])]]
    pd.testing.assert_frame_equal(expected(run), predicted(run, turned)[expected(run).columns])


def test_the_same_rows_have_the_same_forecast_in_any_file() -> None:
    altered = WHOLE.assign(a=WHOLE.a.where(WHOLE.index >= ROWS - PAST, 1000 * WHOLE.a))
    for table in (altered, WHOLE.tail(PAST), WHOLE.tail(PAST + 1)):
        pd.testing.assert_frame_equal(predicted("forecast", table), expected("forecast"), check_exact=True)
    assert expected("forecast").time.tolist() == [f"2024-01-13 {hour}:00:00" for hour in range(12, 16)]
    flags = ["--data.calendar=[weekday,hour]", "--data.targets=[b,a]"]
    pd.testing.assert_frame_equal(
        predicted("forecast", WHOLE, *flags), expected("forecast"), check_exact=True
    )


def test_a_forecast_needs_a_look_back(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal("predict", "forecast", WHOLE.tail(PAST - 1), capsys)
    assert "new.csv: a forecast needs 24 rows with targets (`look_back`); there are 23." in said
    rolling = ["--data.rolling=true", "--data.stride=12"]
    said = refusal("predict", "forecast", WHOLE.tail(PAST + 11), capsys, *rolling)
    assert "new.csv: a forecast needs 36 rows with targets (`look_back` and `stride`); there are 35." in said
    assert len(predicted("forecast", WHOLE.tail(PAST + 12), *rolling)) == 4


def test_a_test_on_another_file_is_on_the_scales_of_the_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fitted = json.loads(Path("runs/forecast/results.json").read_text())["results"]
    part = WHOLE.tail(200).reset_index(drop=True)  # with the same test part of 60 rows
    assert called("test", "forecast", part, "--data.split=[100,40,60]", "--run.name=tested") == 0
    said = capsys.readouterr().err
    assert (
        "best.ckpt was trained on other data (what differs: rows, time, values); these are standardised"
        in said
    )
    again = json.loads(Path("runs/tested/results.json").read_text())["results"]
    for model, row in fitted.items():
        assert again[model] == pytest.approx(row, rel=1e-6)


@pytest.mark.parametrize(
    ("command", "run"), [("predict", "forecast"), ("test", "detector"), ("validate", "stream")]
)
def test_other_columns_are_refused(command: str, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(command, run, TABLES[run].rename(columns={"a": "A"}), capsys)
    if run == "stream":  # whose targets are named by a setting
        assert "no column `a`." in said
    else:
        assert "must be those that the checkpoint was trained on, a, b; missing: a; unknown to it: A." in said
    said = refusal(command, run, TABLES[run].assign(more=1.5 + LABEL), capsys)
    assert "unknown to it: more." in said


@pytest.mark.parametrize("run", ["forecast", "stream"])
def test_another_frequency_is_refused(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    time = pd.date_range("2024-01-01", periods=ROWS, freq="15min")
    said = refusal("predict", run, TABLES[run].assign(time=time), capsys)
    assert "rows must be 0 days 01:00:00 apart, as those that the checkpoint was trained on" in said
    assert "here they are 0 days 00:15:00 apart" in said


def test_other_units_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal("predict", "forecast", WHOLE, capsys, "--data.units={a: kW}")
    assert "column `a` must be in MW, as those that the checkpoint was trained on; `units` names kW." in said


def test_weights_of_the_format_before_load_and_do_not_predict(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("runs/forecast", "runs/earlier")
    path = Path("runs/earlier/checkpoints/best.ckpt")
    held = checkpoints.load(path)
    assert held["versions"]["torch"] == torch.__version__
    held["dream"]["format"] = 4
    checkpoints.write(held, path)
    said = refusal("predict", "earlier", WHOLE, capsys)
    assert "in format 4, which holds the weights, but not all by which new rows are read as" in said
    loaded = ForecastingModule.load_from_checkpoint(path)
    assert all(torch.equal(held["state_dict"][name], value) for name, value in loaded.state_dict().items())
    shutil.rmtree("runs/earlier")


def test_scores_of_a_short_file_without_labels() -> None:
    scores = predicted("detector", WHOLE.head(110), "--data.training=0.2")
    assert len(scores) == 110
    # scores depend on the rows before only, and the threshold on the training part
    whole = predicted("detector", TABLES["detector"], "--data.training=100")
    pd.testing.assert_frame_equal(scores, whole.head(110), check_exact=True)


def test_scores_need_a_training_part(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal("predict", "detector", WHOLE.head(100), capsys, "--data.training=0.2")
    assert "must have at least 100 rows and leave some to score; it has 20 of 100. Bring more rows." in said


def test_classes_keep_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    table = TABLES["classes"]
    start = predicted("classes", table.head(8))
    assert set(table.head(8).state) == {"high", "low"}
    assert list(start)[-3:] == ["high", "low", "mid"]
    pd.testing.assert_frame_equal(start, expected("classes").head(8), check_exact=True)
    said = refusal("predict", "classes", table.replace({"state": {"mid": "MID"}}), capsys)
    assert (
        "classes must be those that the checkpoint was trained on, high, low, mid; unknown to it: MID" in said
    )


def test_a_stream_of_one_row_is_on_the_scale_of_the_training() -> None:
    table = TABLES["stream"]
    few = predicted("stream", table.head(1))
    assert few.time.tolist() == ["2024-01-01 01:00:00"]
    # a prediction before anything was learned is the last value, in its own measurement units
    assert abs(few.b[0] - table.b[0]) < 400
    assert abs(few.a[0] - table.a[0]) < 2
