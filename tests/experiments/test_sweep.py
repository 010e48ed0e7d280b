"""`dream sweep`: every trial once, by the validation part alone, the same after a kill, mistakes said before
it runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from optuna.trial import create_trial
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from dream.config import KNOBS
from dream.errors import ConfigError
from experiments import folders
from experiments.cli import main
from experiments.ending import ended
from experiments.invocation import configs
from experiments.invocation.arguments import Invocation
from experiments.run import build
from experiments.sweep import command, space, workers
from experiments.sweep.command import parse
from experiments.sweep.study import Study
from lightning_modules import ForecastingModule
from tests.experiments.support import SMALL, TINY, forked
from tests.soak import processes

FLAGS = [
    *("sweep", "-c", "forecasting", "--space=space.yaml", "--folder=whole", "--run.wandb=disabled"),
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=4"),
    *(flag for flag in SMALL if not flag.startswith(("--data.look_back", "--trainer.max_epochs"))),
]
SPACE = """\
model.lr: {low: 1e-3, high: 1e-1, log: true}
model.dropout: [0.0, 0.2]
data.look_back: {low: 16, high: 32, step: 8}
"""


def sweep_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return record


def chosen(folder: Path) -> list[tuple[Any, ...]]:
    """What each trial was and came to."""
    names = ("trial", "state", "params", "value", "epochs")
    return [tuple(trial[name] for name in names) for trial in sweep_record(folder)["trials"]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a sweep of two trials, in one go, and what it said."""
    home = tmp_path_factory.mktemp("swept")
    (home / "space.yaml").write_text(SPACE)
    done = forked(*FLAGS, "--trials=2", folder=home)
    assert done.returncode == 0, done.stderr
    return home / "whole", done.stdout + done.stderr


def test_what_it_says_is_what_its_runs_say(swept: tuple[Path, str]) -> None:
    folder, said = swept
    record = sweep_record(folder)
    assert (record["monitor"], record["mode"], len(record["trials"])) == ("val/mse", "min", 2)
    for trial in record["trials"]:
        run = folder / trial["folder"]
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert trial["value"] == min(row["val/mse"] for row in rows if "val/mse" in row)
        assert json.loads((run / "results.json").read_text())["results"]["DREAM"]["mse"] == trial["value"]
        assert not [name for row in rows for name in row if name.startswith("test")]
        assert not (run / "figures").exists()
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["init_args"]["lr"] == trial["params"]["model.lr"]
        assert config["data"]["init_args"]["look_back"] == trial["params"]["data.look_back"]
    best = min(record["trials"], key=lambda trial: trial["value"])
    assert record["best"] == best["trial"]
    assert f"--ckpt_path whole/{best['folder']}" in said
    assert (folder / "sweep.png").stat().st_size > 10_000
    assert "[2/2]" in said
    assert "min left" in said
    assert "Warning" not in said


def test_the_best_configuration_is_an_experiment_and_its_checkpoint_can_be_tested(
    swept: tuple[Path, str],
) -> None:
    folder, said = swept
    trial = yaml.safe_load((folder / f"trial-{sweep_record(folder)['best']:04d}" / "config.yaml").read_text())
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert (trial["run"]["test"], trial["run"]["group"], trial["run"]["table"]) == (False, "whole", False)
    assert (best["run"]["test"], best["run"]["group"], best["run"]["table"]) == (True, None, True)
    assert {name: value for name, value in best.items() if name != "run"} == {
        name: value for name, value in trial.items() if name != "run"
    }
    words = said.partition("dream test ")[2].splitlines()[0].split()
    tested = forked("test", *words, "--run.name=tested", folder=folder.parent)
    assert tested.returncode == 0, tested.stderr
    assert "repeat-last" in tested.stdout
    assert (
        "mase"
        in json.loads((folder.parent / "runs" / "tested" / "results.json").read_text())["results"]["DREAM"]
    )


def test_a_sweep_that_was_killed_goes_on_as_if_it_never_had_been(
    swept: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    command = [*FLAGS, "--save.every_n_steps=1"]
    assert processes.run(tmp_path, [*command, "--trials=1"], "step", 3) == -signal.SIGKILL
    assert not (tmp_path / "whole" / "sweep.json").exists()
    assert processes.run(tmp_path, [*command, "--trials=2"], "step", 6) == -signal.SIGKILL
    assert processes.run(tmp_path, [*command, "--trials=2"]) == 0
    said = (tmp_path / "said.txt").read_text()
    assert chosen(tmp_path / "whole") == chosen(swept[0])
    assert "going on from whole/trial-0000" in said
    assert "going on from whole/trial-0001" in said
    assert "Traceback" not in said


def test_hopeless_trials_are_pruned_and_diverged_ones_fail_and_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("model.lr: [1e-3, 1e30]\n")
    flags = [flag for flag in FLAGS if "max_epochs" not in flag]
    command = [*flags, "--trainer.max_epochs=5", "--data.look_back=24", "--nan_guard.max_skipped=1"]
    with chdir(tmp_path):
        plan = parse(command[1:])
        folders.claim(plan.folder, plan.asked, False)
        study = Study(plan.folder)
        study.create("val/mse", "min")
        study.open()
        for _ in range(5):  # better than any run here can be
            seen = dict.fromkeys(range(5), 1e-3)
            study.held.add_trial(
                create_trial(
                    params={"model.lr": 1e-3}, distributions=plan.space, intermediate_values=seen, value=1e-3
                )
            )
    done = forked(*command, "--trials=8", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    trials = sweep_record(tmp_path / "whole")["trials"][5:]
    assert {trial["state"] for trial in trials} == {"pruned", "failed"}
    for trial in trials:
        if trial["state"] == "failed":
            assert trial["params"]["model.lr"] == 1e30
            assert "not finite" in trial["reason"]
            assert f"trial {trial['trial']} failed: {trial['reason'][:40]}" in done.stdout
            continue
        assert trial["params"]["model.lr"] == 1e-3
        assert list(trial["epochs"]) == ["0", "1", "2"]
        assert trial["value"] == min(trial["epochs"].values())
        assert (tmp_path / "whole" / trial["folder"] / "checkpoints" / "best.ckpt").is_file()


def test_a_refused_combination_is_a_failed_trial_also_where_it_is_the_first(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("data.look_back: [24, 32]\nmodel.patch: [8, 16]\n")
    flags = [flag for flag in FLAGS if "patch" not in flag]
    # the one that tries 24 and 16, then 32 and 8
    done = forked(*flags, "--seed=3", "--trials=2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = sweep_record(tmp_path / "whole")["trials"]
    assert (first["state"], second["state"]) == ("failed", "complete")
    assert first["reason"] == "`model.patch` must be a divisor of look_back, 24, such as 12; got 16."
    assert not (tmp_path / "whole" / first["folder"]).exists()


def test_results_of_other_settings_are_not_those_of_a_trial(swept: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(swept[0], folder)
    (tmp_path / "space.yaml").write_text(SPACE)
    (folder / "sweep.db").unlink()
    config = folder / "trial-0000" / "config.yaml"
    config.write_text(re.sub(r"(?m)^( +lr: ).*", r"\g<1>0.5", config.read_text()))
    (config.parent / "sums.sealed").unlink()  # with it, the altered file itself is refused
    done = forked(*FLAGS, "--trials=2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = sweep_record(folder)["trials"]
    assert first["state"] == "failed"
    assert "was started with other settings: `model.init_args.lr` 0.5 there" in first["reason"]
    assert second["value"] == sweep_record(swept[0])["trials"][1]["value"]


@pytest.mark.parametrize(
    ("file", "edit"),
    [("space.yaml", "\nmodel.weight_decay: [0.0, 0.1]"), ("exp.yaml", "\nrun: {project: a}")],
)
def test_an_edit_ends_a_sweep_before_its_next_trial(
    file: str, edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    Path("exp.yaml").write_text("trainer: {max_epochs: 1}")

    def edited(*_: Any) -> int:
        Path(file).write_text(Path(file).read_text() + edit)
        return 0

    monkeypatch.setattr(command.run, "build", lambda _: (0, ForecastingModule))
    monkeypatch.setattr(command.run, "execute", edited)
    assert main(["sweep", "-c", "exp.yaml", "--space=space.yaml", "--folder=whole"]) == 2
    said = capsys.readouterr()
    assert "was changed after the first run in whole began" in said.err
    assert "1 of 20 trials are done" in said.out
    Path(file).write_text(Path(file).read_text().removesuffix(edit) + "\n# a comment is no setting\n")
    assert main(["sweep", "-c", "exp.yaml", "--space=space.yaml", "--folder=whole", "--trials=1"]) == 0


def test_two_processes_of_one_sweep_share_its_trials(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(forked, *FLAGS, "--trials=4", folder=tmp_path) for _ in range(2)]
        done = [each.result() for each in both]
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    begun = [
        [line.split("/")[0] for line in each.stderr.splitlines() if line.startswith("[")] for each in done
    ]
    assert all(begun)
    assert sorted(begun[0] + begun[1]) == ["[1", "[2", "[3", "[4"]
    assert {state for _, state, *_ in chosen(tmp_path / "whole")} == {"complete"}


WORKER = """
import signal, sys, time
def stop(number, frame):
    print("heard", number, flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
if {refused}:
    time.sleep(1)
    print("note: so\\ndream: `a` must be 1; got 2.", flush=True)
    sys.exit(2)
time.sleep(60)
"""


@pytest.mark.parametrize("refused", [False, True])
def test_workers_end_together(
    refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    plan = parse([*FLAGS[1:], "--workers=2"])
    plan.folder.mkdir()
    study = Study(plan.folder)
    study.create("val/mse", "min")
    study.open()
    started: list[subprocess.Popen[bytes]] = []

    def stub(argv: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        assert environment[workers.WORKER]
        code = WORKER.format(refused=refused and not started)
        with log.open("wb") as file:
            started.append(
                subprocess.Popen([sys.executable, "-c", code], stdout=file, start_new_session=True)
            )
        return started[-1]

    def terminate() -> None:
        while not all(path.exists() and b"ready" in path.read_bytes() for path in logs):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    logs = [plan.folder / f"worker-{number}.log" for number in (1, 2)]
    monkeypatch.setattr(workers, "_start", stub)
    if not refused:
        Thread(target=terminate, daemon=True).start()
    assert ended(lambda: workers.run(plan, study, [])) == (2 if refused else 143)
    said = capsys.readouterr().err
    assert all(process.returncode is not None for process in started)
    if refused:
        assert said.splitlines()[-1] == "dream: `a` must be 1; got 2."
        assert logs[1].read_text() == f"ready\nheard {signal.SIGINT:d}\n"
    else:
        assert said.splitlines()[-1] == "dream: interrupted; what is done is in whole."
        assert [path.read_text() for path in logs] == [f"ready\nheard {signal.SIGTERM:d}\n"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.lr: []", "a list of at least one value; got []"),
        ("model.lr: [0.1, 0.1]", "a list of values that differ"),
        ("model.lr: 0.1", "a list of values, or low and high; got 0.1"),
        ("model.lr: {low: 1, high: 0}", "low of at most high"),
        ("model.lr: {low: 0, high: 1, log: true}", "low above 0 where log is true"),
        ("model.lr: {low: 0, high: 1, log: 1}", "`log` true or false; got 1"),
        ("model.lr: {low: 1, high: 2, log: true, step: 1}", "either log or step"),
        ("model.lr: {low: 0, high: 1, step: 0}", "a step above 0"),
        ("model.lr: {low: 0, high: 10, step: 3}", "a whole number of steps above low"),
        ("model.lr: {low: 0}", "given by low and high"),
        ("model.lr: {low: 0, high: .inf}", "`high` is not; got inf"),
        (f"model.lr: {{low: 0, high: 1{'0' * 400}}}", "between -1e15 and 1e15; `high` is not; got 1000"),
        ("model.lr: {low: a, high: b}", "`low` is not; got 'a'"),
        ("model.lr: {low: true, high: 2}", "`low` is not; got True"),
        ("model.lr: {min: 0, max: 1}", "by low, high, log, step"),
        ("model: {config: {rank: [1, 2]}}", "sections as `model.config: [...]`"),
        ("model.lr: [1]\nmodel.lr: [2]", "line 2, column 1: `model.lr` stands there twice"),
        ("model.lr: {low: 0, low: 1, high: 2}", "`low` stands there twice"),
        ("seed: [1, 2]", "this one is set for the sweep as a whole"),
        ("run.name: [a, b]", "this one is set for the sweep as a whole"),
        ("model.init_args.lr: [1]", "written as `model.lr`"),
        ("- model.lr", "must map settings to what to try"),
        ("", "must map settings to what to try"),
        ("model.lr: [", "must be YAML in UTF-8; line "),
        ("model.lr: [!!python/name:os.system]", "must be YAML in UTF-8; line 1"),
    ],
)
def test_a_wrong_space_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        space.read(space.load(str(path)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space=online"], "-c must name an experiment"),
        (
            ["-c", "online"],
            "`--space` must be one YAML file, or one of anomaly, classification, classification_steps, "
            "forecasting, language, online, speech",
        ),
        (["-c", "online", "--space=onlin"], "got 'onlin'. Did you mean `online`?"),
        (
            ["-c", "online", "--space=online", "--trials=none"],
            "`--trials` must be a whole number from 1 to 10000; got 'none'",
        ),
        (
            ["-c", "online", "--space=online", "--workers", "0"],
            "`--workers` must be a whole number from 1 to 256; got '0'",
        ),
        (
            ["-c", "online", "--space=online", "--pruner=hyper"],
            "`--pruner` must be one of median, none; got 'hyper'",
        ),
        (
            ["-c", "online", "--space=online", "--run.test=true"],
            "`--run.test` is set by sweep for each trial",
        ),
        (
            ["-c", "online", "--space=online", "--model.lr=1"],
            "`model.lr` is in the space and on the command line",
        ),
        (
            ["-c", "online", "--space=online", "--model.init_args.lr", "1"],
            "`model.lr` is in the space and on the command",
        ),
        (["-c", "online", "--space=online", "--folder="], "`--folder` must be one folder"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(words)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model.config.rankk: [1]",
            "`model.config.rankk` is not a setting. Did you mean `model.config.rank`?",
        ),
        (
            "model.patch: [4, 8, 5]",
            "`model.patch` must be a divisor of look_back, 24, such as 12; got 5.\nThat is of a trial with",
        ),
    ],
)
def test_settings_that_no_run_would_take_are_refused_before_one_is_started(
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(text)
    assert main([*(flag for flag in FLAGS if "patch" not in flag), "--data.look_back=24"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


def test_a_folder_of_another_sweep_is_refused(
    swept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(swept[0].parent)
    for words in (["--seed=1"], ["--pruner=none"], ["--model.warmup=0.1"]):
        assert main([*FLAGS, "--trials=2", *words]) == 2
        assert "holds runs with other settings. Give --folder=NEW" in capsys.readouterr().err


@pytest.mark.parametrize("name", configs.shipped("spaces"))
def test_shipped_spaces_keep_to_the_recommended_ranges(name: str) -> None:
    assert name not in set(configs.shipped()) - {
        "forecasting",
        "anomaly",
        "online",
        "classification",
        "classification_steps",
        "language",
        "speech",
    }
    tried = space.read(space.load(name))
    assert 3 <= len(tried) <= 6
    for setting, distribution in tried.items():
        knob = KNOBS.get(setting.removeprefix("model.config."))
        assert knob is None or all(knob.recommends(value) for value in space._ends(distribution)), setting
    assert configs.headline(configs.shipped("spaces")[name]).endswith(".")


def test_the_template_for_wandb_calls_the_command_as_its_agent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    Path("space.yaml").write_text(
        SPACE + "model.config.rank: {low: 1, high: 2}\nmodel.normalization: [last, mean]\n"
    )
    flags = [flag for flag in FLAGS if "rank" not in flag]
    assert main([*flags, "--wandb-template", "search.yaml"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search.yaml", "space.yaml"]
    sweep = yaml.safe_load(Path("search.yaml").read_text())
    assert (sweep["method"], sweep["metric"]) == ("bayes", {"name": "val/mse", "goal": "minimize"})
    assert sweep["early_terminate"] == {"type": "hyperband", "min_iter": 3}
    assert sweep["parameters"] == {
        "model.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
        "model.dropout": {"values": [0.0, 0.2]},
        "data.look_back": {"values": [16, 24, 32]},
        "model.config.rank": {"distribution": "int_uniform", "min": 1, "max": 2},
        "model.normalization": {"values": ["last", "mean"]},
    }
    chosen = {
        "model.lr": 0.0123,
        "model.dropout": 0.2,
        "data.look_back": 16,
        "model.config.rank": 2,
        "model.normalization": "mean",
    }
    words = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})[
        "args"
    ]
    typed = [word for part in sweep["command"] for word in (words if part == "${args}" else [part])]
    assert typed[:4] == ["${env}", "dream", "fit", "-c"]
    assert {"--run.test=false", "--run.wandb=online"} <= set(typed)
    code, module = build(Invocation.parse(["check", *typed[3:]]))
    assert code == 0
    assert module is not None
    held = module.hparams
    assert (held["lr"], held["dropout"], held["shape"]["look_back"], held["config"]["rank"]) == (
        0.0123,
        0.2,
        16,
        2,
    )
    assert held["normalization"] == "mean"


def test_a_sweep_goes_on_only_with_the_data_it_was_begun_on(tmp_path: Path) -> None:
    text = "\n".join(["a", *(f"{number % 7}.{number % 10}" for number in range(300))])
    (tmp_path / "table.csv").write_text(text)
    (tmp_path / "space.yaml").write_text("model.lr: [0.01, 0.001]\n")
    flags = ["sweep", "-c", "forecasting_csv", "--space=space.yaml", "--folder=swept", *TINY]
    assert forked(*flags, "--trials=1", folder=tmp_path).returncode == 0
    (tmp_path / "table.csv").write_text(text.replace("\n6.6", "\n6.7", 1))
    done = forked(*flags, "--trials=2", folder=tmp_path)
    assert done.returncode == 2
    assert "the data have changed since swept was begun; what differs: values" in done.stderr
    (tmp_path / "table.csv").write_text(text)
    assert forked(*flags, "--trials=2", folder=tmp_path).returncode == 0
    assert [trial[1] for trial in chosen(tmp_path / "swept")] == ["complete"] * 2
