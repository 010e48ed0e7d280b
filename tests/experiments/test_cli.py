"""What the command says: to a newcomer, and to a mistake."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml

import dream
from dream.config import PRESETS
from dream.errors import ConfigError
from experiments.cli import COMMANDS, main
from experiments.ending import ended
from experiments.invocation import configs
from lightning_modules.run import checkpoints
from tests.experiments.support import ENVIRONMENT, SMALL

FORECASTING = """
model:
  class_path: lightning_modules.ForecastingModule
  init_args: {model}
data:
  class_path: lightning_modules.forecasting.DriftingLoad
  init_args: {data}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs in a folder of their own, and leaves `sys.argv` alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    return tmp_path


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `dream` says to a mistake: exit code 2, at most five lines, no traceback, nothing written."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("dream: ")
    assert len(said.err.splitlines()) <= 5
    assert "Traceback" not in said.err
    assert sorted(Path.cwd().rglob("*")) == before
    return said.err


FLAGS = [
    (["--model.config.rank=-8"], "`model.config.rank` must be above 0; got -8. Recommended: 4-32."),
    (["--model.config.rank=abc"], "`model.config.rank` must be a whole number; got abc."),
    (["--model.config.rnk=8"], "`model.config.rnk` is not a setting. Did you mean `model.config.rank`?"),
    (["--model.config.kappa=1.5"], "`model.config.kappa` must be at most 1; got 1.5."),
    (["--model.patch=7"], "`model.patch` must be a divisor of look_back, 96, such as 12; got 7."),
    (["--model.pach=7"], "`model.pach` is not a setting. Did you mean `model.patch`?"),
    (["--model.normalization=batch"], "`model.normalization` must be"),
    (
        ["--model.normalization=lats"],
        "`model.normalization` must be last or mean or instance or none; got lats.",
    ),
    (["--model.encoder=id"], "`model.encoder` must be identity or linear; got id."),
    (["--model.hidden_dims=3"], "`model.hidden_dims` must be a list such as [1, 2]; got 3."),
    (["--model.config=3"], "`model.config` must be a section with settings of its own; got"),
    (
        ["--model=torch.nn.Linear"],
        "`model` must be a class that a configuration may name, of dream, Lightning, torchmetrics or",
    ),
    (["--data.missing=ffil"], "`data.missing` must be error or ffill or mask or model; got ffil."),
    (
        ["--data.rolling=true", "--data.stride=30"],
        "`data.stride` must be a multiple of `model.patch`, 12, for streams; got 30.",
    ),
    (["--data.season=5000"], "`season` is 5000 rows and the training part has only"),
    (["--run.wandb=yes"], "`run.wandb` must be offline or online or disabled; got"),
    (["--trainer.precision=foo"], "`trainer.precision` must be 64 or 32 or 16 or transformer-engine"),
    (
        ["--trainer.max_epochs=-5"],
        "`trainer.max_epochs` must be a whole number of at least -1, or null; got -5.",
    ),
    (
        ["--trainer.accelerator=tpux"],
        "`trainer.accelerator` must be auto, cpu, or the name of one that this machine has; got 'tpux'.",
    ),
    (
        ["--model.prediction_weight=.inf"],
        "`model.prediction_weight` must be a finite number of at least 0; got inf.",
    ),
    (["--seed=-1"], "`seed` must lie between 0 and 4294967295; got -1."),
    (["--modle.patch=4"], "`modle.patch` is not a setting. Did you mean `model.patch`?"),
    (["--model.backend=gpu"], "`model.backend` must be auto or cpu or triton or reference; got 'gpu'."),
    (["--data.look_back=-3"], "`data.look_back` must be a whole number of at least 1; got -3."),
    (["--data.lookback=3"], "`data.lookback` is not a setting. Did you mean `data.look_back`?"),
    (
        ["--data=ETTDat"],
        "`data` names a class that is not there, or not of the right kind: ETTDat. Did you mean `ETTData`?",
    ),
    (["--data=TableData"], "`data.path` is required"),
    (["--data=TableData", "--data.path=none.csv"], "none.csv: no such file."),
    (["--trainer.max_epochs=abc"], "`trainer.max_epochs` must be a whole number; got abc."),
    (["--trainer.max_epoch=3"], "`trainer.max_epoch` is not a setting. Did you mean `trainer.max_epochs`?"),
    (
        ["--trainer.default_root_dir=x"],
        "`trainer.default_root_dir` is the run's own folder here; set `run.folder`.",
    ),
    (
        ["--model.horizon=48"],
        "`model.horizon` is set by the data; got 48. Set `data.horizon` or leave it out.",
    ),
    (["--model.shape.horizon=24"], "`model.shape` is set by the data; leave it out."),
    (["--model.shape=3"], "`model.shape` is set by the data; leave it out."),
    (
        ['--model={"class_path": "ForecastingModule", "init_args": {"shape": {"horizon": 3}}}'],
        "`model.shape` is set by the data; leave it out.",
    ),
    (["--model.shap=3"], "`model.shap` is not a setting."),
    (
        ["--data=lightning_modules.speech.ToneWords"],
        "`data` must be a ForecastingData; got ToneWords. Try TableData.",
    ),
    (
        ["--model=lightning_modules.AnomalyModule"],
        "`data` must be an AnomalyData; got DriftingLoad. Try AnomalyTable.",
    ),
    (["--seed=abc"], "`seed` must be a whole number; got abc."),
    (["--nonsense=3"], "`nonsense` is not a setting."),
    (
        ["--early_stopping.patient=3"],
        "`early_stopping.patient` is not a setting. Did you mean `early_stopping.patience`?",
    ),
]


@pytest.mark.parametrize(("flags", "message"), FLAGS, ids=[flags[0] for flags, _ in FLAGS])
def test_a_wrong_flag_gets_path_value_rule_and_nearest_key(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"dream: {message}" in refused("check", "forecasting", *flags, capsys=capsys)


FILES = [
    (
        FORECASTING.format(model="{config: {rnk: 4}}", data="{}"),
        "`model.config.rnk` is not a setting. Did you mean",
    ),
    (
        FORECASTING.format(model="{config: {rank: [1]}}", data="{}"),
        "`model.config.rank` must be a whole number; got [1].",
    ),
    (
        FORECASTING.format(model="{config: {kappa: .nan}}", data="{}"),
        "`model.config.kappa` must be a finite number; got nan.",
    ),
    (
        FORECASTING.format(model="{}", data="{lok_back: 3}"),
        "`data.lok_back` is not a setting. Did you mean `data.look_back`?",
    ),
    (FORECASTING.format(model="{}", data="{split: [0.5, 0.6, 0.2]}"), "`data.split` must be"),
    (
        FORECASTING.format(model="{}", data="{}").replace("DriftingLoad", "DriftingLod"),
        "`data.class_path` names a class",
    ),
    (
        FORECASTING.format(model="{}", data="{}") + "trianer: {max_epochs: 3}\n",
        "`trianer.max_epochs` is not a setting.",
    ),
    (
        FORECASTING.format(model="{season: 7}", data="{}"),
        "`model.season` is set by the data; got 7. Set `data.season`",
    ),
    (
        FORECASTING.format(model="{config: 7}", data="{}"),
        "`model.config` must be a section with settings such as hidden_dim;",
    ),
    (
        FORECASTING.format(model="{}", data="{}").replace("model:", "modle:"),
        "`modle.class_path` is not a setting. Did you",
    ),
    *(
        (
            FORECASTING.format(model=f"{{shape: {shape}}}", data="{}"),
            "`model.shape` is set by the data; leave it out.",
        )
        for shape in ("{horizon: 24}", "{horizon: 3}", "null")
    ),
    (
        FORECASTING.format(model="{dropout: null}", data="{}"),
        "`model.dropout` must have a value; got None. Leave it out for its default.",
    ),
    (
        "model: 3\ndata: {class_path: lightning_modules.forecasting.DriftingLoad}",
        "`model` must be a TaskModule, given by",
    ),
    ("data: {class_path: lightning_modules.forecasting.DriftingLoad}", "`model` is required; got nothing."),
    ("model: [b", "bad.yaml must be YAML in UTF-8; line"),
    ("- 1\n- 2\n", "bad.yaml must hold sections such as model, data and trainer; got list."),
    ("", "bad.yaml must hold sections such as model, data and trainer; got NoneType."),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_wrong_file_gets_path_value_rule_and_nearest_key(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text(text)
    assert f"dream: {message}" in refused("check", "bad.yaml", capsys=capsys)


def test_a_file_that_is_not_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert "bad.yaml must be YAML in UTF-8" in refused("check", "bad.yaml", capsys=capsys)


COMMAND_LINES = [
    (["chek"], "`chek` is not a command of dream. Did you mean `check`?"),
    (["fit"], "-c must name an experiment; got none."),
    (["fit", "-c"], "-c must be followed by a YAML file or a shipped name"),
    (
        ["fit", "-c", "forcasting"],
        "-c must be a YAML file or a shipped name; got 'forcasting'. Did you mean `forecasting`?",
    ),
    (
        ["fit", "-c", "forecasting", "--trainer.overfit_batches=2"],
        "`trainer.overfit_batches` is not for these tasks",
    ),
    (["test", "-c", "forecasting"], "`--ckpt_path` must name a run's folder or a checkpoint file; got none."),
    (
        ["predict", "--ckpt_path", "none"],
        "what is named must be a run's folder or a checkpoint file; none does not exist.",
    ),
    (
        ["test", "--ckpt_path", "http://127.0.0.1/a.ckpt"],
        "`ckpt_path` must be a local file; got http://127.0.0.1/a.ckpt.",
    ),
    (["config", "show", "forcasting"], "nothing is called 'forcasting'. Did you mean `forecasting`?"),
    (["data", "get", "et"], "Did you mean `ett`?"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), COMMAND_LINES, ids=[" ".join(line) for line, _ in COMMAND_LINES]
)
def test_a_wrong_command_is_told_the_right_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(*arguments, capsys=capsys)


def test_a_checkpoint_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.ckpt").write_bytes(b"not a checkpoint")
    message = refused("test", "-c", "forecasting", "--ckpt_path", "a.ckpt", capsys=capsys)
    assert "`ckpt_path` must be a checkpoint that `dream fit` wrote;" in message
    torch.save({"weights": 1}, "a.ckpt")
    message = refused("test", "-c", "forecasting", "--ckpt_path", "a.ckpt", capsys=capsys)
    assert "a.ckpt: 'dream'" in message


def test_a_checkpoint_of_the_first_edition_of_the_cell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    earlier = {"format": 3, "version": "0.1.0", "task": "ForecastingModule"}
    checkpoints.write({"dream": earlier, "state_dict": {}, "hyper_parameters": {}}, Path("a.ckpt"))
    for command in ("test", "predict"):
        message = refused(command, "-c", "forecasting", "--ckpt_path", "a.ckpt", capsys=capsys)
        assert "written by the first edition of the cell in dream 0.1.0" in message
        assert "train again" in message


def test_a_name_that_is_taken_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/here").mkdir(parents=True)
    message = refused("fit", "-c", "forecasting", *SMALL, "--run.name=here", capsys=capsys)
    assert f"`run.name` must be new; {Path('runs') / 'here'} exists." in message


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert main([]) == 0
    assert capsys.readouterr().out == shown


def test_help_answers_at_once() -> None:
    code = "import sys; from experiments.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(dream.__file__).parents[1], capture_output=True
    )


def test_help_and_report_answer_without_loading_the_trainer() -> None:
    code = "import sys, experiments.report; from experiments.cli import main; main(['--help']);"
    code += "assert not {'lightning', 'wandb', 'pandas'} & sys.modules.keys()"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(dream.__file__).parents[1], capture_output=True
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dream {dream.__version__}\n"


def test_the_settings_of_a_command_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--seed" in shown
    assert "--run.folder" in shown
    assert main(["fit", "--model.help=lightning_modules.ForecastingModule"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "R: rank of the fast weights." in shown
    assert "Rows of the past that are read as one step." in shown


def test_config_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*configs.shipped(), *PRESETS))
    assert main(["config", "show", "forecasting"]) == 0
    assert capsys.readouterr().out == configs.shipped()["forecasting"].read_text()
    assert main(["config", "show", "stability"]) == 0
    assert "time_step: 0.05" in capsys.readouterr().out
    assert "dream sweep -c EXPERIMENT --space SPACE" in shown
    assert all(configs.headline(path)[:30] in shown for path in configs.shipped("spaces").values())
    assert main(["config", "show", "--space", "online"]) == 0
    assert capsys.readouterr().out == configs.shipped("spaces")["online"].read_text()
    assert main(["config", "show", "--space", "onlin"]) == 2
    assert capsys.readouterr().err == "dream: no space is called 'onlin'. Did you mean `online`?\n"


def test_check_says_what_a_fit_would_do_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "forecasting", *SMALL]) == 0
    shown = capsys.readouterr().out
    for word in (
        "feeder_1, feeder_2",
        "DREAM 4 -> 8, rank 2",
        "trainable parameters",
        "at most 2 epochs",
        "loss",
    ):
        assert word in shown
    assert list(Path.cwd().iterdir()) == []


def test_a_refused_fit_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(
        "fit", "-c", "forecasting", *SMALL, "--data.rolling=true", "--data.stride=6", capsys=capsys
    )
    assert "`data.stride` must be a multiple of `model.patch`, 4" in message
    refused(
        "fit",
        "-c",
        "forecasting",
        *SMALL,
        "--trainer.devices=[1,2]",
        "--trainer.accelerator=cuda",
        capsys=capsys,
    )


def test_flags_beat_the_file_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *SMALL, "-c", "forecasting"]) == 0
    assert "DREAM 4 -> 8, rank 2" in capsys.readouterr().out


def test_the_seed_has_lightnings_name_too(capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for flag in ("--seed=3", "--seed_everything=3", "--seed=4"):
        assert main(["check", "forecasting", *SMALL, flag]) == 0
        lines = capsys.readouterr().out.splitlines()
        losses.append(next(line for line in lines if "one batch" in line).split(",")[0])
    assert losses[0] == losses[1] != losses[2]


def test_a_disk_that_fills_up_at_the_end_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "results.json")

    monkeypatch.setattr("lightning_modules.run.tracking.write_results", full)
    assert main(["fit", "-c", "forecasting", *SMALL, "--run.wandb=disabled", "--run.name=full"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "dream: results.json could not be read or written: No space left on device. Free or change the disk;"
    )


def test_a_checkpoint_of_another_task_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints.write(
        {"dream": checkpoints.identity("ForecastingModule"), "state_dict": {}, "hyper_parameters": {}},
        Path("a.ckpt"),
    )
    message = refused("validate", "-c", "anomaly", "--ckpt_path=a.ckpt", capsys=capsys)
    assert "a.ckpt holds a ForecastingModule; here is a AnomalyModule." in message


def test_sigterm_and_ctrl_c_end_any_command_from_the_first_import_on(tmp_path: Path) -> None:
    hang = (
        "import time; from experiments.ending import ended; ended(lambda: print('here', flush=True) or "
        "time.sleep(60))"
    )
    code = f"import sys; {hang.replace('ended(lambda', 'sys.exit(ended(lambda')})"
    for sent, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(sent)
        assert process.communicate(timeout=30)[1] == "dream: interrupted.\n"
        assert process.returncode == expected


@pytest.mark.parametrize("module", ["experiments.benchmarks.layer", "tests.soak.memory"])
def test_ctrl_c_while_a_module_loads_is_one_sentence(module: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    variables = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"}
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (130, "dream: interrupted.\n")


def test_ending_gives_the_signal_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def refused() -> int:
        assert signal.getsignal(signal.SIGTERM) != before
        raise ConfigError("`a` must be 1; got 2.\n" * 9)

    assert ended(refused) == 2
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == "dream: " + "`a` must be 1; got 2.\n" * 5
    with pytest.raises(ZeroDivisionError):
        ended(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("command", "both"),
    [("--help", False), ("config show forecasting", False), ("config list", False), ("nonsense", True)],
)
def test_a_command_ends_quietly_when_its_reader_is_gone(command: str, both: bool, tmp_path: Path) -> None:
    words = " ".join([shlex.quote(sys.executable), "-m", "experiments.cli", command, "2>&1" * both])
    # the reader is gone before the command has anything to say
    line = f"( read -r _; exec {words} ) < ready | true; echo ${{PIPESTATUS[0]}}"
    line = f"mkfifo ready; (sleep 0.3; echo > ready) & {line}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_another_pipe_that_breaks_is_no_quiet_ending() -> None:
    def work() -> int:
        raise BrokenPipeError(32, "Broken pipe")

    with (
        Path(os.devnull).open("w") as out,
        redirect_stdout(out),
        redirect_stderr(out),
        pytest.raises(BrokenPipeError),
    ):
        ended(work)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "-c online --model.updates=null",
            "`model.updates` must be a section with settings such as rule; got",
        ),
        (
            "-c speech --data.mfcc=null",
            "`data.mfcc` must be a section with settings such as sample_rate; got",
        ),
        ("-c null.yaml", "`model.init_args` must be a section with settings; got null. Leave it out"),
        ("-c number.yaml", "`data.init_args` must be a section with settings; got int. Leave it out"),
        ("-c forecasting --data.rows=4e2", "`data.rows` must be a whole number; got 400.0"),
    ],
)
def test_a_value_in_place_of_a_section(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = "model:\n  class_path: ForecastingModule\n", "data:\n  class_path: DriftingLoad\n"
    Path("null.yaml").write_text(f"{model}  init_args: null\n{data}")
    Path("number.yaml").write_text(f"{model}{data}  init_args: 3\n")
    assert main(["check", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("own", ["--trainer.logger=false", "--trainer.logger=CSVLogger"])
def test_metrics_are_recorded_beside_any_logger(own: str) -> None:
    where = ["--trainer.logger.save_dir=."] * own.endswith("CSVLogger")
    assert main(["fit", "-c", "forecasting", *SMALL, own, *where, "--run.name=a", "--run.test=false"]) == 0
    rows = [json.loads(line) for line in Path("runs/a/metrics.jsonl").read_text().splitlines()]
    results = json.loads(Path("runs/a/results.json").read_text())["results"]["DREAM"]
    assert results["mse"] == min(row["val/mse"] for row in rows if "val/mse" in row)
    assert any("train/loss" in row for row in rows)
    assert not list(Path().rglob("*.wandb"))
    assert bool(list(Path().rglob("metrics.csv"))) == bool(where)


def test_a_comparison_prints_the_settings_of_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "-c", "forecasting", "--models=gru", "--print_config"]) == 0
    said = capsys.readouterr()
    assert yaml.safe_load(said.out)["model"]["init_args"]["core"] == "gru"
    assert said.err == ""
    assert not list(tmp_path.iterdir())
