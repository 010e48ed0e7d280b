"""Training that goes on from the weights of a run, fits that would train nothing, and the word `latest`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from dream.errors import ConfigError
from experiments.cli import main
from experiments.invocation.arguments import Invocation
from lightning_modules.run import checkpoints
from tests.experiments.support import TINY
from tests.soak import processes

QUIET = "--run.wandb=disabled"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `a`, and the table that it was trained on beside another."""
    folder = tmp_path_factory.mktemp("from")
    k = np.arange(300)
    table = pd.DataFrame({"a": np.sin(k / 4), "b": k % 7.0})
    table.to_csv(folder / "table.csv", index=False)
    (5 * table + 1).to_csv(folder / "new.csv", index=False)
    words = ["fit", "-c", "forecasting_csv", *TINY, "--run.name=a", "--trainer.limit_val_batches=1"]
    assert processes.run(folder, words) == 0
    return folder


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.argv", ["dream"])


def held(run: str, name: str = "best") -> dict[str, Any]:
    return checkpoints.read(Path("runs", run, "checkpoints", f"{name}.ckpt"))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says that exits with 2 and leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(list(words)) == 2
    assert sorted(Path().rglob("*")) == before
    return " ".join(capsys.readouterr().err.split())


def test_training_goes_on_from_the_weights_by_the_scaler_of_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--data.path=new.csv", "--run.name=b", "--model.lr=1e-12", "--model.weight_decay=0"]
    assert main(["fit", "--from", "runs/a", *words]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "note: begins with the weights of" in said
    assert "a/checkpoints/best.ckpt and its scaler, and a schedule of its own." in said
    assert "was trained on other data (what differs: values); these are standardised by its scaler" in said
    first, second = held("a"), held("b")
    assert second["schema"] == first["schema"]
    assert second["fingerprint"] != first["fingerprint"]
    assert (second["global_step"], second["epoch"]) == (2, 0)
    for name, value in first["state_dict"].items():
        if "prior" not in name:  # statistics move in any training
            torch.testing.assert_close(second["state_dict"][name], value, rtol=1e-6, atol=1e-7)
    settings = yaml.safe_load(Path("runs/b/config.yaml").read_text())
    assert (settings["data"]["init_args"]["look_back"], settings["model"]["init_args"]["lr"]) == (16, 1e-12)
    assert "from" not in settings
    steps = [json.loads(line) for line in Path("runs/b/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "train/loss" in row] == [0, 1]


def test_the_run_names_its_parent() -> None:
    facts = json.loads(Path("runs/b/run.json").read_text())
    best = Path("runs/a/checkpoints/best.ckpt").resolve()
    assert facts["parent"] == {
        "checkpoint": str(best),
        "sha256": checkpoints.sums_file(best).read_text().split()[0],
    }
    assert "parent" not in json.loads(Path("runs/a/run.json").read_text())


def test_latest_is_the_newest_run_with_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--ckpt_path=latest", QUIET, "--run.name=predicted"]) == 0
    assert "note: latest is runs/b." in capsys.readouterr().err
    assert main(["report", "latest"]) == 0  # what was predicted has no checkpoint
    assert "runs/b/report.html" in capsys.readouterr().out
    command = json.loads(Path("runs/b/run.json").read_text())["command"]
    words = [word for word in command if not word.startswith("--run.name")]
    assert main([*words, "--run.name=latest", "--resume"]) == 0
    assert "the run in runs/b has ended" in capsys.readouterr().out
    said = refusal(capsys, *words, "--run.name=latest")
    assert "`run.name` must be another than latest" in said
    said = refusal(capsys, "test", "--ckpt_path", "latest", "--run.folder=elsewhere")
    assert "`latest` means the newest run in `run.folder` with a checkpoint; elsewhere holds none." in said
    assert not list(Path("runs").glob("latest*"))


def test_a_killed_run_goes_on_with_the_weights_that_it_began_with(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "--from", "latest", "--run.name=c", "--run.test=false", "--data.path=new.csv", QUIET]
    assert processes.run(Path(), [*words, "--resume"], "step", 1) == -signal.SIGKILL
    assert main(["fit", "--from=runs/a", "--run.name=d", "--run.test=false", QUIET]) == 0  # newer than b
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    assert "b/checkpoints/best.ckpt and its scaler" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--run.folder=whole", "--from=runs/b"]) == 0
    whole = checkpoints.read(Path("whole/c/checkpoints/best.ckpt"))["state_dict"]
    assert all(torch.equal(held("c")["state_dict"][name], value) for name, value in whole.items())
    Path("runs/c/results.json").unlink()
    words[2] = "runs/a"
    said = refusal(capsys, *words, "--resume")
    assert "was begun with the weights of" in said
    assert "a/checkpoints/best.ckpt are others" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from=runs/a", "--trainer.max_epochs=0"], "`trainer.max_epochs` must be above 0, or -1"),
        (["--from=runs/a", "--trainer.max_steps=0"], "`trainer.max_steps` must be above 0, or -1"),
        (["-c", "forecasting_csv", *TINY, "--trainer.max_epochs=0"], "`trainer.max_epochs` must be above 0"),
        (
            ["--from=runs/a", "--trainer.limit_train_batches=0"],
            "`trainer.limit_train_batches` must be so large that a fit trains a step",
        ),
        (["--ckpt_path=runs/a"], "`trainer.max_epochs` must be above 1, which"),
        (["--ckpt_path=runs/a/checkpoints/best.ckpt"], "`--from` instead of `--ckpt_path` trains that many"),
        (["--ckpt_path=runs/a", "--from=runs/a"], "got both. Leave out either."),
        (["--from=runs/a", "--preset=stability"], "`--preset` is for a model that is built anew"),
        (["--from=runs/none"], "must be a run's folder or a checkpoint file; runs/none does not exist"),
        (["--from"], "`--from` must be followed by a value; got none."),
    ],
)
def test_what_trains_nothing_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "fit", *words)


def test_it_is_for_fit_and_for_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "`--from` is for `dream fit`" in refusal(capsys, "test", "--from=runs/a")
    assert "`--from` is set by compare for each run" in refusal(
        capsys, "compare", "-c", "forecasting", "--from=runs/a"
    )
    path = tmp_path / "own.yaml"
    words = ["fit", "-c", "forecasting", "-c", str(path)]
    for text, name in (("from: runs/a", "from"), ("learn: true", "learn"), ("output: a.csv", "output")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"`{name}` is for the command line"):
            Invocation.parse(words).words()
    path.write_text("from: null\nlearn: false\noutput: null")  # as --print_config writes them
    assert Invocation.parse(words).words()


def test_runs_without_a_name_do_not_heap_up_dates(home: Path) -> None:
    for name in ("load-2026-01-31_12-00-00", "load-2026-01-31_12-00-00-2"):
        folder = Path("dated", name)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(Path("runs/a/config.yaml").read_text())
        assert Invocation.parse(["fit", "-c", str(folder / "config.yaml")]).experiment == "load"
