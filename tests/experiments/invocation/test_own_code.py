"""Classes from Python files beside a configuration."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import yaml

from dream import sums
from dream.errors import ConfigError, DREAMWarning
from experiments import folders
from experiments.cli import main
from experiments.invocation import own_code
from experiments.invocation.arguments import Invocation
from lightning_modules import ForecastingModule
from tests.experiments.support import forked

CONFIG = """
model:
  class_path: {model}
data:
  class_path: {data}
  init_args: {{rows: 400, feeders: 1, look_back: 24, horizon: 8}}
"""
LOAD = "lightning_modules.forecasting.DriftingLoad"
FORECASTER = """
import random
from lightning_modules import ForecastingModule

class Mine(ForecastingModule):
    number = random.Random(5).random()
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    Path("exp").mkdir()
    return tmp_path


def write(model: str = "lightning_modules.ForecastingModule", data: str = LOAD, **files: str) -> None:
    Path("exp/config.yaml").write_text(CONFIG.format(model=model, data=data))
    for name, text in files.items():
        Path(f"exp/{name}.py").write_text(text)


@pytest.mark.parametrize("name", ["head", "random", "test", "data", "torch", "lightning_modules", "yaml"])
def test_a_file_may_be_called_like_a_module(name: str) -> None:
    write(f"{name}.Mine")
    Path(f"exp/{name}.py").write_text(FORECASTER)
    before = sys.modules.get(name)
    invocation = Invocation.parse(["check", "exp/config.yaml"])
    assert invocation.experiment == "exp"
    assert f"{own_code.PACKAGE}.{name}.Mine" in invocation.words()[1]
    found = sys.modules[f"{own_code.PACKAGE}.{name}"].Mine
    assert issubclass(found, ForecastingModule)
    assert found.number == random.Random(5).random()  # the file's `import random` is Python's own
    assert sys.modules.get(name) is before
    assert not list(Path("exp").glob("__pycache__"))


def test_a_class_that_is_installed_stays_so() -> None:
    Path("exp/lightning_modules").mkdir()
    Path("exp/lightning_modules/__init__.py").write_text("raise RuntimeError")
    write(data=LOAD, lightning="raise RuntimeError", head="raise RuntimeError")
    text = Path("exp/config.yaml").read_text()
    assert Invocation.parse(["check", "exp/config.yaml"]).words() == ["check", f"--config={text}"]


MISTAKES = [
    ({"head": "class Mine(:\n"}, "exp/head.py, line 1: invalid syntax."),
    (
        {"head": "\n\nimport not_there\nclass Mine: ...\n"},
        "exp/head.py, line 3: ModuleNotFoundError: No module named 'not_there'.",
    ),
    (
        {"head": "from .parts import Mine\n", "parts": "\n1 / 0\n"},
        "exp/head.py, line 1: ZeroDivisionError: division by zero.",
    ),
    (
        {"head": "from parts import Mine\n", "parts": "class Mine: ...\n"},
        "line 1: ModuleNotFoundError: No module named 'parts'. A file beside it is imported as `from .parts "
        "import NAME`.",
    ),
    ({"head": "import sys\nsys.exit(3)\nclass Mine: ...\n"}, "exp/head.py, line 2: SystemExit: 3."),
    (
        {"head": FORECASTER.replace("Mine", "Mein")},
        "exp/head.py must define the class `Mine`; it does not. Did you mean `Mein`?",
    ),
    (
        {"head": "Mine = 3\n"},
        "exp/head.py must define the class `Mine`; it does not. It defines no class.",
    ),
    (
        {"head": "class Mine:\n    pass\n"},
        "`model.class_path` must be a TaskModule; `Mine` in exp/head.py is none.",
    ),
]


@pytest.mark.parametrize(("files", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_in_a_file_is_named_with_its_line(
    files: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("head.Mine", **files)
    assert main(["check", "exp/config.yaml"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_data_must_be_data() -> None:
    write(data="head.Mine", head=FORECASTER)
    with pytest.raises(
        ConfigError, match=r"`data.class_path` must be a TaskData; `Mine` in exp/head.py is none\. Derive it"
    ):
        Invocation.parse(["check", "exp/config.yaml"]).words()


def test_an_error_while_it_is_built_names_file_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        FORECASTER
        + "    def __init__(self, wide: int = 3, **options):\n        super().__init__(**options)\n        "
        "None + wide\n"
    )
    write(head=text)
    assert main(["check", "exp/config.yaml", "--model=head.Mine", "--model.wide=4"]) == 2
    said = capsys.readouterr().err
    assert f"{Path('exp/head.py').resolve()}, line 9: TypeError: unsupported operand" in said
    assert len(said.splitlines()) <= 5


def test_two_files_of_one_name_are_refused_and_what_a_file_prints_is_not_among_the_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("head.Mine", head=FORECASTER + "print('loaded')")
    assert main(["fit", "-c", "exp/config.yaml", "--print_config"]) == 0
    said = capsys.readouterr()
    assert "loaded" in said.err
    assert "loaded" not in said.out
    Path("other").mkdir()
    Path("other/head.py").write_text(FORECASTER)
    Path("other/more.yaml").write_text("model: {class_path: head.Mine}\n")
    assert main(["check", "exp/config.yaml", "-c", "other/more.yaml"]) == 2
    assert (
        "`head` must be one file, since a run keeps it; there are exp/head.py and" in capsys.readouterr().err
    )


def test_a_flag_names_a_class_too() -> None:
    write(head=FORECASTER)
    for flags in (["--model=head.Mine"], ["--model", "head.Mine"], ["--model.class_path=head.Mine"]):
        words = Invocation.parse(["check", "exp/config.yaml", *flags]).words()
        assert words[-1].endswith(f"{own_code.PACKAGE}.head.Mine")


def test_a_checkpoint_file_alone_runs_no_code() -> None:
    write("head.Mine", head=FORECASTER + "open('ran', 'w').close()\n")
    saves = Path("exp/checkpoints")
    saves.mkdir()
    (saves / "best.ckpt").write_bytes(b"")
    with pytest.raises(
        ConfigError,
        match=r"a checkpoint file alone runs no code\. If you trust that run, name it: --ckpt_path",
    ):
        Invocation.parse(["test", f"--ckpt_path={saves / 'best.ckpt'}"])
    assert not Path("ran").exists()


def test_a_run_goes_on_with_its_own_copy() -> None:
    write(
        "head.Mine",
        head=FORECASTER + "    which = 'old'\n    from .parts import part\n",
        parts="part = 'old'\n",
    )
    command = ["fit", "-c", "exp/config.yaml", "--resume", "--run.name=one"]
    Invocation.parse(command).words()
    run = folders.run_folder(folders.RunSettings(name="one"), "exp", command)
    own_code.keep(run)
    sums.write_atomic(run, "config.yaml", Path("exp/config.yaml").read_text())
    assert sorted(path.name for path in run.glob("*.py")) == ["head.py", "parts.py"]
    write("head.Mine", head=FORECASTER + "    which = 'new'\n", parts="part = 'new'\n")
    with pytest.warns(
        DREAMWarning, match="was changed since the run began, which goes on with its own copy"
    ) as said:
        Invocation.parse(command).words()
    assert {str(warning.message).split()[0] for warning in said} == {"exp/head.py", "exp/parts.py"}
    found = sys.modules[f"{own_code.PACKAGE}.head"].Mine
    assert (found.which, found.part) == ("old", "old")
    Invocation.parse([*command[:-1], "--run.name=two"]).words()
    assert sys.modules[f"{own_code.PACKAGE}.head"].Mine.which == "new"


def test_a_comparison_or_a_sweep_of_other_code_is_another() -> None:
    from experiments import compare
    from experiments.sweep import command as sweep

    for parse, words, folder in (
        (compare.parse, ["-c", "exp/config.yaml"], "runs/compare-exp"),
        (sweep.parse, ["-c", "exp/config.yaml", "--space=forecasting"], "runs/sweep-exp"),
    ):
        write("head.Mine", head=FORECASTER)
        plan = parse(words)
        assert plan.folder == Path(folder)
        assert parse(words).asked == plan.asked
        write("head.Mine", head=FORECASTER + "\n")
        assert parse(words).asked != plan.asked


def test_the_best_settings_of_a_sweep_have_the_code_beside_them(tmp_path: Path) -> None:
    write("head.Mine", head=FORECASTER)
    Path("space.yaml").write_text("model.lr: [0.001, 0.002]\n")
    short = [
        "--trials",
        "1",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        "--run.wandb=disabled",
    ]
    small = ["--model.patch=4", "--model.config.hidden_dim=8", "--model.config.rank=2"]
    done = forked("sweep", "-c", "exp/config.yaml", "--space", "space.yaml", *short, *small, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path("runs/sweep-exp/head.py").read_text() == FORECASTER
    test = ["test", "-c", "runs/sweep-exp/best.yaml", "--ckpt_path", "runs/sweep-exp/trial-0000"]
    assert f"{own_code.PACKAGE}.head.Mine" in Invocation.parse(test).words()[1]


def test_a_text_of_an_own_class_is_taken_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        FORECASTER
        + "    def __init__(self, note: str = '', **options):\n        super().__init__(**options)\n"
    )
    write("head.Mine", head=text)
    Path("exp/more.yaml").write_text("model: lightning_modules.ForecastingModule\n")
    for flags in ([], ["-c", "exp/more.yaml", "--model=head.Mine"]):
        words = ["fit", "-c", "exp/config.yaml", *flags, "--model.note", "a: b", "--print_config"]
        assert main(words) == 0
        assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["note"] == "a: b"


def test_a_setting_of_ones_own_may_begin_like_the_shape(capsys: pytest.CaptureFixture[str]) -> None:
    own = "class Mine(ForecastingModule):\n    def __init__(self, shape_weight: float = 3.0, **settings):\n"
    own += "        super().__init__(**settings)\n        assert shape_weight == 2.0\n"
    write("head.Mine", head=f"from lightning_modules import ForecastingModule\n{own}")
    assert main(["check", "exp/config.yaml", "--model.shape_weight=2"]) == 0
    capsys.readouterr()
    assert main(["check", "exp/config.yaml", "--model.shape_wight=2"]) == 2
    assert "Did you mean `model.shape_weight`?" in capsys.readouterr().err


def test_help_without_a_class_is_that_of_the_class_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    own = "class Mine(ForecastingModule):\n    def __init__(self, waves: int = 3, **settings):\n"
    write(
        "head.Mine",
        head=f"from lightning_modules import ForecastingModule\n{own}        super().__init__(**settings)\n",
    )
    assert main(["fit", "-c", "exp/config.yaml", "--model.help"]) == 0
    said = capsys.readouterr().out
    assert "--model.waves WAVES" in said
    assert "--model.patch PATCH" in said
    assert "--model.settings" not in said
