"""Rows that come after the training: predicted and learnt, once, by the same command on a longer file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dream import sums
from dream.errors import CheckpointError
from dream.sealed import read_sealed, write_sealed
from experiments import folders
from experiments.cli import main
from lightning_modules import DREAMAnomalyDetector, DREAMForecaster
from lightning_modules.run.streams import KIND
from tests.experiments.test_other_files import ROWS, WHOLE

NEW = 24
STATE = Path("stream/state.safetensors")
QUICK = [
    *("--model.config.hidden_dim=8", "--model.config.rank=2", "--trainer.max_epochs=1"),
    *("--trainer.accelerator=cpu", "--run.wandb=disabled", "--data.path=table.csv"),
    "--trainer.log_every_n_steps=1",
]
CROPS = ["--data.crop=32", "--data.context=8", "--data.crops=32"]
RUNS = {
    "forecasts": ["-c", "online_csv", "--data.horizon=3", "--model.modes=[fast weights + head]", *CROPS],
    "classes": ["-c", "online_csv", "--data.targets=[state]", "--run.test=false", *CROPS],
    "untested": ["-c", "online_csv", "--data.horizon=3", "--run.test=false", *CROPS],
    "scores": ["-c", "anomaly_csv", "--data.training=120", "--data.columns=[a,b]"],
}


STATES = np.array(["high", "low", "mid"])[np.arange(ROWS) // 5 % 3]


def table(run: str) -> pd.DataFrame:
    return WHOLE.assign(state=STATES) if run == "classes" else WHOLE


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tomorrow")


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.argv", ["dream"])


def trained(run: str) -> Path:
    """The folder of a run."""
    folder = Path("runs", run)
    if not folder.exists():
        table(run).head(ROWS - NEW).to_csv("table.csv", index=False)
        assert main(["fit", *QUICK, *RUNS[run], f"--run.name={run}"]) == 0
    return folder


def predicted(run: str, rows: pd.DataFrame, *flags: str) -> pd.DataFrame:
    """What `dream predict` writes for these rows; no folder of a run is made for it."""
    before = sorted(Path("runs").iterdir())
    rows.to_csv("rows.csv", index=False)
    command = ["predict", f"--ckpt_path=runs/{run}", "--data.path=rows.csv", "--output=out.csv", *flags]
    assert main(command) == 0
    assert sorted(Path("runs").iterdir()) == before
    assert sums.differing(Path("runs", run)) == []
    return pd.read_csv("out.csv")


@pytest.mark.parametrize("run", ["forecasts", "classes", "scores"])
def test_the_same_command_on_a_longer_file_goes_on(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, home = table(run), trained(run)
    state, yesterday = home / STATE, rows.head(ROWS - NEW)
    plain = predicted(run, rows)
    if run == "classes":  # no test read the stream, which begins with its first row
        assert len(predicted(run, yesterday, "--learn")) == ROWS - NEW
    elif run == "forecasts":  # the newest forecast of the run's own test
        again = predicted(run, yesterday, "--learn")
        pd.testing.assert_frame_equal(again, predicted(run, yesterday), rtol=1e-4)
    before = state.read_bytes() if state.exists() else None
    assert (before is not None) == (run == "classes")
    capsys.readouterr()
    tomorrow = predicted(run, rows, "--learn")
    assert f"the stream of {home.resolve()} has come to 2024-01-12 11:00:00" in capsys.readouterr().err
    # as if the stream had been read at once: to rounding, since the chunks are others
    pd.testing.assert_frame_equal(tomorrow, plain.tail(len(tomorrow)).reset_index(drop=True), rtol=1e-4)
    assert len(tomorrow) == (3 if run == "forecasts" else NEW)
    learnt, bytes_ = read_sealed(state, "", KIND), state.read_bytes()
    # again: nothing is learnt twice, and what was written stands
    pd.testing.assert_frame_equal(predicted(run, rows, "--learn"), tomorrow, check_exact=True)
    assert state.read_bytes() == bytes_
    said = capsys.readouterr().err
    assert "no row comes after, nothing is learnt" in said
    assert ("and nothing is written" in said) == (run != "forecasts")
    # killed before the state was written, and the new rows nearly alone: the same, bit for bit
    state.unlink()
    if before is not None:
        state.write_bytes(before)
    found = predicted(run, rows.tail(2 * NEW), "--learn")
    pd.testing.assert_frame_equal(found, tomorrow, check_exact=True)
    header, tensors = read_sealed(state, "", KIND)
    assert header == learnt[0]
    assert all(torch.equal(tensors[name].nan_to_num(), v.nan_to_num()) for name, v in learnt[1].items())


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_stream_that_cannot_go_on_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    trained("forecasts")
    WHOLE.to_csv("rows.csv", index=False)
    command = ["predict", "--ckpt_path=runs/forecasts", "--data.path=rows.csv", "--output=no.csv", "--learn"]
    state = Path("runs/forecasts") / STATE
    if not state.exists():
        predicted("forecasts", WHOLE, "--learn")
    content = state.read_bytes()
    state.write_bytes(content[:-5])
    said = refusal(capsys, *command)
    assert "state.safetensors is damaged" in said
    assert "to begin again where the run's own test ended" in said
    state.write_bytes(content)
    header, tensors = read_sealed(state, "", KIND)
    write_sealed(state, {**header, "weights": "0" * 64}, tensors)
    assert "began with the weights of another checkpoint" in refusal(capsys, *command)
    write_sealed(state, {**header, "streams": header["streams"].replace("rows", "cows")}, tensors)
    assert "state.safetensors is damaged: " in refusal(capsys, *command)
    write_sealed(state, {**header, "streams": "{}"}, tensors)
    assert "state.safetensors is inconsistent: " in refusal(capsys, *command)
    write_sealed(state, header, {name: tensors[name] for name in tensors if name != "0.place"})
    more = pd.concat([WHOLE, WHOLE.tail(1).assign(time=WHOLE.time.max() + pd.Timedelta("1h"))])
    more.to_csv("rows.csv", index=False)
    assert "`place` is missing" in refusal(capsys, *command)
    state.write_bytes(content)
    with folders.hold(Path("runs/forecasts")):
        assert "is still going on in another process" in refusal(capsys, *command)
    assert not Path("no.csv").exists()


PUMPS = """
import pandas as pd
from lightning_modules.anomaly import AnomalyData, AnomalyStream

class Pumps(AnomalyData):
    def __init__(self, path: str, **options):
        super().__init__(**options)
        self.path = path

    def read(self):
        table = pd.read_csv(self.path, parse_dates=["time"])
        return [
            AnomalyStream(name, rows[["a", "b"]].to_numpy(), ("a", "b"), 120, time=rows["time"].to_numpy())
            for name, rows in table.groupby("pump")
        ]
"""
"""Data of one's own: a table of several pumps."""


def test_each_of_several_streams_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pumps.py").write_text(PUMPS)
    Path("pumps.yaml").write_text(
        "model: {class_path: lightning_modules.AnomalyModule}\ndata: {class_path: pumps.Pumps}\n"
    )
    later = WHOLE.assign(pump="north", time=WHOLE.time + pd.Timedelta("5h"), a=WHOLE.a.cumsum())
    both = pd.concat([WHOLE.assign(pump="south").head(ROWS - 7), later], ignore_index=True)
    today = pd.concat([rows.head(200 + 30 * k) for k, (_, rows) in enumerate(both.groupby("pump"))])
    today.to_csv("table.csv", index=False)
    assert main(["fit", "-c", "pumps.yaml", *QUICK, "--run.name=pumps", "--run.test=false"]) == 0
    assert main(["test", "--ckpt_path=runs/pumps", "--data.path=table.csv", "--run.name=tested"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "from now on, the 2 streams of" in said
    plain, found = predicted("pumps", both), predicted("pumps", both, "--learn")
    wanted = [rows.tail(len(rows) - 200 - 30 * k) for k, (_, rows) in enumerate(plain.groupby("stream"))]
    for name in ("stream", "time", "flag", "alarm"):
        assert found[name].tolist() == pd.concat(wanted)[name].tolist()
    np.testing.assert_allclose(found["score"], pd.concat(wanted)["score"], rtol=1e-3, atol=1e-4)
    assert "2 streams of" in capsys.readouterr().err
    tail = both[both["pump"] == "south"].tail(1).assign(time=WHOLE.time.max() + pd.Timedelta("9h"), a=50.0)
    more = predicted("pumps", pd.concat([both, tail]), "--learn")
    assert more[["stream", "flag"]].to_numpy().tolist() == [["south", 1]]
    model = DREAMAnomalyDetector.from_run("runs/pumps", stream="south")
    assert model.threshold == pytest.approx(more["threshold"][0])
    assert main(["serve", "runs/pumps", "--stream=north", "--threshold=2"]) == 2
    said = refusal(capsys, "export", "runs/pumps", "--format=onnx", "--stream=x")
    assert "`stream` must be one of the run's, north, south; got 'x'." in said
    assert "`--stream` is for anomaly runs" in refusal(capsys, "serve", str(trained("classes")), "--stream=x")


def test_only_a_runs_own_first_test_is_kept_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    home = trained("classes")
    state = home / STATE
    state.unlink(missing_ok=True)
    rows = table("classes")
    for frame, flags in (
        (rows.head(ROWS - NEW - 1), []),
        (rows.head(ROWS - NEW), ["--model.modes=[frozen]"]),
    ):
        frame.to_csv("rows.csv", index=False)
        words = [f"--ckpt_path={home}", "--data.path=rows.csv", "--run.wandb=disabled", *flags]
        assert main(["test", *words]) == 0
        assert not state.exists()
    assert main(["test", *words[:-1]]) == 0
    assert "from now on, the stream of" in capsys.readouterr().err
    content = state.read_bytes()
    with folders.hold(home):
        assert main(["test", *words[:-1]]) == 0
    assert state.read_bytes() == content
    tomorrow = predicted("classes", rows, "--learn")
    assert len(tomorrow) == NEW
    assert main(["test", *words[:-1]]) == 0
    assert state.read_bytes() != content
    with pytest.raises(CheckpointError, match="was not tested"):
        DREAMForecaster.from_run(trained("untested"))


def test_flags_that_are_not_for_this(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "`--learn` is for `dream predict`" in refusal(capsys, "fit", "-c", "online", "--learn")
    assert "`--output` is for `dream predict`" in refusal(capsys, "test", "--ckpt_path=x", "--output=y")
    command = ["predict", f"--ckpt_path={trained('scores')}", "--data.path=table.csv"]
    assert "`--output` must be a file in a folder that is there" in refusal(capsys, *command, "--output=a/b")
    shutil.copy("runs/scores/checkpoints/best.ckpt", tmp_path / "best.ckpt")
    alone = ["-c", "runs/scores/config.yaml", f"--ckpt_path={tmp_path / 'best.ckpt'}"]
    assert "keeps its state in a run's folder" in refusal(capsys, command[0], *alone, "--learn")
