"""`dream new`: every template runs as it is, with the class that is the user's, and without its folder
afterwards."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml

from dream.config import PRESETS, DREAMConfig
from experiments import new
from experiments.cli import COMMANDS, main
from experiments.invocation.arguments import leaves
from experiments.invocation.presets import values
from lightning_modules.run import checkpoints
from tests.experiments.support import forked

CAPPED = {
    "forecasting": ["--data.rows=600", "--data.feeders=1"],
    "anomaly": ["--data.pumps=1", "--data.rows=1200"],
    "online": ["--data.hours=600"],
    "language": ["--data.folder=texts"],
    "speech": ["--data.machines=4", "--data.takes=2"],
    "classification": ["--data.episodes=64", "--data.test_episodes=40"],
}
QUIET = ["--run.wandb=disabled", "--run.table=false", "--figures.dpi=20"]
SHORT = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--preset=stability",
    "--model.config.hidden_dim=8",
    *QUIET,
]
TEXT = "The Rains fell, and the rivers rose; nobody rows. " * 120


class Experiment(NamedTuple):
    """One that was written, trained for a moment, deleted, and tested."""

    task: str
    run: Path
    """Of the fit."""
    results: dict[str, Any]
    again: dict[str, Any]
    """Results of `dream test` when the folder was gone."""
    predicted: str
    """The file or text that `dream predict` gave."""


@pytest.fixture(scope="module", params=new.TASKS)
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    task, home = request.param, tmp_path_factory.mktemp(request.param)
    (home / "texts").mkdir()
    (home / "texts" / "a.md").write_text(TEXT)
    new.write(task, home / "mine", {})
    flags = [*CAPPED[task], *SHORT]
    fit = forked("fit", "-c", "mine/config.yaml", "--run.name=fit", *flags, folder=home)
    assert fit.returncode == 0, fit.stderr
    shutil.rmtree(home / "mine")
    said = []
    for command in ("test", "predict"):
        done = forked(command, "--ckpt_path", "runs/fit", f"--run.name={command}", *QUIET, folder=home)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    first, again = (
        json.loads((home / "runs" / name / "results.json").read_text())["results"] for name in ("fit", "test")
    )
    files = [path for path in (home / "runs" / "predict").iterdir() if path.suffix == ".csv"]
    return Experiment(task, home / "runs/fit", first, again, files[0].read_text() if files else said[1])


def test_it_is_tested_the_same_without_its_folder(experiment: Experiment) -> None:
    assert experiment.results == experiment.again


def test_the_class_of_the_template_is_the_one_that_ran(experiment: Experiment, tmp_path: Path) -> None:
    held = checkpoints.read(experiment.run / "checkpoints" / "best.ckpt")
    (tmp_path / "predicted.csv").write_text(experiment.predicted)
    if experiment.task == "language":
        symbols = held["schema"]["vocabulary"]["symbols"]
        assert {"the", "rain", "river", ",", ";", "."} <= set(symbols)
        assert not [
            symbol
            for symbol in symbols
            if symbol not in ("<unk>", "<eos>") and re.search(r"[A-Z]|\w[.,;]", symbol)
        ]
        return
    table = pd.read_csv(tmp_path / "predicted.csv")
    if experiment.task == "forecasting":
        shapes, forecast = held["state_dict"]["head.shapes"].numpy().T, table["feeder_1"].to_numpy()
        drawn = shapes @ np.linalg.lstsq(shapes, forecast, rcond=None)[0]
        # level, slope and waves, and nothing else
        assert drawn == pytest.approx(forecast, abs=1e-3 * np.ptp(forecast))
    elif experiment.task == "anomaly":
        assert table["stream"].unique().tolist() == ["pump 1"]
        assert np.corrcoef(table["power"], table["pressure"])[0, 1] > 0.5
    elif experiment.task == "online":
        assert list(table) == ["time", "power"]
        assert len(table) == 600
    elif experiment.task == "classification":
        assert set(table["label"]) == {1, 2, 3, 4}
        assert len(table) == 40 * 4 * 8
    else:
        assert set(table["said"]) <= {"hum", "rattle", "squeal", "start"}
        assert len(table) == 1 * 2 * 4  # a machine, takes, sounds


def test_the_run_keeps_the_python_file(experiment: Experiment) -> None:
    folder = new.TEMPLATES / experiment.task
    (python,) = folder.glob("*.py")
    assert (experiment.run / python.name).read_text() == python.read_text()
    config = yaml.safe_load((experiment.run / "config.yaml").read_text())
    section = "model" if experiment.task == "forecasting" else "data"
    named = config[section]["class_path"]
    assert named == yaml.safe_load((folder / "config.yaml").read_text())[section]["class_path"]
    assert named.startswith(f"{python.stem}.")


def test_the_run_holds_what_its_preset_means(experiment: Experiment) -> None:
    config = yaml.safe_load((experiment.run / "config.yaml").read_text())
    assert "preset" not in config
    layer = config["model"]["init_args"]["config"]
    wanted = values("stability") | {"hidden_dim": 8}  # which was typed, too
    # which a model may lower
    assert layer["rank"] in (
        wanted["rank"],
        min(wanted.pop("rank"), layer["input_dim"]),
    )
    assert {name: layer[name] for name in wanted} == wanted
    assert layer["input_dim"] != PRESETS["stability"].values["input_dim"]


def test_a_sweep_finds_its_settings(experiment: Experiment) -> None:
    config = yaml.safe_load((experiment.run / "config.yaml").read_text())
    settings = {name.replace(".init_args", "") for name, _ in leaves(config)}
    space = yaml.safe_load((new.TEMPLATES / experiment.task / "space.yaml").read_text())
    assert set(space) <= settings
    for values_ in space.values():
        assert len(values_) > 1 if isinstance(values_, list) else values_["low"] < values_["high"]


@pytest.mark.parametrize("task", new.TASKS)
def test_the_readme_has_the_commands_word_for_word(task: str, tmp_path: Path) -> None:
    folder = tmp_path / "a name"
    new.write(task, folder, {})
    text = (folder / "README.md").read_text()
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("dream ")]
    assert [words[1] for words in commands] == [
        "check",
        "fit",
        "test",
        "predict",
        "report",
        "compare",
        "sweep",
    ]
    assert {words[1] for words in commands} - {"report", "sweep"} <= set(COMMANDS)
    paths = [word for words in commands for word in words if word.startswith(str(tmp_path))]
    assert len(paths) == 5
    assert all(Path(path).is_file() for path in paths)
    assert "FOLDER" not in text
    for path in folder.glob("*.py"):
        assert f"`{path.name}`" in text
        assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_written_out_and_every_comment_stays(preset: str) -> None:
    before = (new.TEMPLATES / "forecasting" / "config.yaml").read_text()
    after = new.with_values(before, values(preset))
    old, made = (yaml.safe_load(text)["model"]["init_args"].pop("config") for text in (before, after))
    wanted = {name: value for name, value in PRESETS[preset].values.items() if name != "input_dim"}
    assert made == old | wanted
    assert re.findall("#.*", after) == re.findall("#.*", before)


def test_a_preset_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    assert main(["new", "forecasting", "a/[b]", "--preset", "fast_adaptation"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("README.md", "config.yaml", "head.py", "space.yaml"))
    assert (
        "dream fit -c 'a/[b]/config.yaml' --run.name=first\n  dream report runs/first\n  dream sweep" in said
    )
    assert main(["check", "a/[b]/config.yaml", "--data.rows=600"]) == 0
    assert "rank 8" in (shown := capsys.readouterr().out)
    assert "-> 128" in shown


def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("empty").mkdir()
    for words, message in {
        (
            "forcasting",
            "x",
        ): "`TASK` must be one of anomaly, classification, forecasting, language, online, speech; got "
        "'forcasting'. Did you mean `forecasting`?",
        ("speech", "full"): "`FOLDER` must be new or empty; full is not. Choose another name.",
        ("speech", "full/notes.txt"): "`FOLDER` must be new or empty; full/notes.txt is not.",
        ("speech", "full/notes.txt/x"): "`FOLDER` must be writable;",
        (
            "speech",
            "x",
            "--preset=stabilty",
        ): "`preset` must be the name of one; got 'stabilty'. Did you mean `stability`?",
    }.items():
        assert main(["new", *words]) == 2
        assert message in capsys.readouterr().err
    assert sorted(str(path) for path in Path().rglob("*")) == ["empty", "full", "full/notes.txt"]
    Path("link").symlink_to("empty")
    assert main(["new", "speech", "link"]) == 0
    assert sorted(path.name for path in Path("empty").iterdir()) == [
        "README.md",
        "config.yaml",
        "sounds.py",
        "space.yaml",
    ]
    monkeypatch.setattr(
        new, "_filled", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert main(["new", "speech", "x"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not Path("x").exists()
    Path("[red]").mkdir()
    assert main(["new", "speech", "[red]"]) == 2
    assert not list(Path().rglob(".*"))


def test_the_templates_name_settings_of_the_layer_that_exist() -> None:
    fields = {field.name for field in dataclasses.fields(DREAMConfig)}
    for task in new.TASKS:
        config = yaml.safe_load((new.TEMPLATES / task / "config.yaml").read_text())
        assert set(config["model"]["init_args"]["config"]) <= fields
