"""Classes that a configuration may name, and whose a run is."""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dream import sums
from dream.errors import ConfigError, DREAMError
from experiments import folders
from experiments.cli import main
from experiments.invocation import own_code
from experiments.invocation.arguments import Invocation

MODEL = {"class_path": "lightning_modules.ForecastingModule"}
DATA: dict[str, Any] = {
    "class_path": "lightning_modules.forecasting.DriftingLoad",
    "init_args": {"rows": 400, "feeders": 1, "look_back": 24, "horizon": 8},
}
OWN = "from lightning_modules import ForecastingModule\nclass Mine(ForecastingModule):\n    which = '{}'\n"
PYTORCH = "lightning.pytorch"
LAMBDA = f"{PYTORCH}.callbacks.LambdaCallback"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    monkeypatch.syspath_prepend(tmp_path)
    Path("foreign.py").write_text(
        "open('imported', 'w').close()\nimport lightning as L\nclass Thing(L.Callback): ...\n"
        "def work(*_, **__): ...\n"
    )
    yield tmp_path
    sys.modules.pop("foreign", None)


def write(path: str = "exp/config.yaml", **sections: Any) -> list[str]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump({"model": MODEL, "data": DATA, **sections}))
    return ["check", path]


def trainer(**settings: Any) -> dict[str, Any]:
    return {"trainer": settings}


def spec(path: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": settings}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a class for any value": (
        trainer(strategy=spec(f"{PYTORCH}.strategies.DDPStrategy", ddp_comm_state=spec("foreign.Thing"))),
        "`trainer.strategy.ddp_comm_state` must be a class that a configuration may name",
    ),
    "a known class for any value": (
        trainer(
            strategy=spec(
                f"{PYTORCH}.strategies.DDPStrategy", ddp_comm_state=spec(f"{PYTORCH}.callbacks.Timer")
            )
        ),
        "`ddp_comm_state` of DDPStrategy takes any value, and so no class",
    ),
    "in keywords": (
        trainer(
            strategy={
                "class_path": f"{PYTORCH}.strategies.DDPStrategy",
                "dict_kwargs": {"static_graph": {"in": [spec(f"{PYTORCH}.callbacks.Timer")]}},
            }
        ),
        "`static_graph` of DDPStrategy takes any value, and so no class",
    ),
    "a function": (
        trainer(callbacks=[spec(LAMBDA, setup="foreign.work")]),
        "got foreign.work, which was not imported. If you trust it, add --allow foreign.work",
    ),
    "a function through a known module": (
        trainer(callbacks=[spec(LAMBDA, setup=f"{PYTORCH}.callbacks.timer.time.sleep")]),
        "got time.sleep, which was not imported",
    ),
    "a function of a known package": (
        trainer(callbacks=[spec(LAMBDA, setup="lightning.fabric.utilities.cloud_io._load")]),
        "`setup` of LambdaCallback must be a function of your own",
    ),
    "a method that makes a model": (
        {"model": spec("lightning_modules.ForecastingModule.load_from_checkpoint", checkpoint_path="a.ckpt")},
        "`model` must be a TaskModule",
    ),
    "what asks addresses": (
        trainer(logger=spec(f"{PYTORCH}.loggers.MLFlowLogger", tracking_uri="http://127.0.0.1:1")),
        "none that starts processes or asks addresses",
    ),
    "an address in a class": (
        trainer(logger=spec(f"{PYTORCH}.loggers.CSVLogger", save_dir="memory://logs")),
        "`save_dir` of CSVLogger must be on this machine, not an address; got memory://logs",
    ),
    "a file": ({"run": "more.yaml"}, "`run` must be given in its place, not by a file; got more.yaml"),
    "an address behind a folder": (
        {"checkpoint": {"dirpath": "a/../http://b/c"}},
        "`dirpath` of BestCheckpoint must be on this machine, not an address",
    ),
    "an address in a callback": (
        {"checkpoint": {"dirpath": "s3://bucket/a"}},
        "`dirpath` of BestCheckpoint must be on this machine, not an address",
    ),
    "a folder": (
        {"run": {"folder": "file:///tmp/a"}},
        "`folder` of RunSettings must be on this machine, not an address",
    ),
    "a section": ({"data": "http://127.0.0.1:1/a.yaml"}, "`data` must be on this machine, not an address"),
    "the Trainer": ({"trainer": "github://a:b@c/d"}, "`trainer` must be on this machine, not an address"),
    "what opens it": (
        {"allow": "foreign"},
        "`allow` is for the command line, and no configuration sets it",
    ),
    "whom it trusts": ({"trust": "run"}, "`trust` is for the command line"),
    "another configuration": (
        {"config": {"class_path": "foreign.Thing"}},
        "`config` is for the command line",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_nothing_is_imported(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sections, message = REFUSED[name]
    assert main(write(**sections)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert "foreign" not in sys.modules
    assert not Path("imported").exists()


def test_what_the_user_allows_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    command = write(**trainer(callbacks=[spec("foreign.Thing"), spec(LAMBDA, setup="foreign.work")]))
    for allowed in ("foreign", "foreign.Thing,foreign.work"):
        assert main([*command, f"--allow={allowed}"]) == 0, capsys.readouterr().err
    assert main(command) == 2  # only that command
    assert "If you trust it, add --allow foreign.Thing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--allow=nowhere.Thing", "`--allow` must name a package, module or class that can be imported"),
        ("--allow=*", "`--allow` must be a package, module or class such as my_package.Model; got '*'"),
        ("--allow=jsonargparse", "got 'jsonargparse'"),
        ("--trust=all", "`--trust` must be none or run; got 'all'"),
    ],
)
def test_a_wrong_flag_says_so(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*write(), flag]) == 2
    assert message in capsys.readouterr().err


def test_neither_flag_is_among_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", "forecasting", "--allow=math", "--trust=run", "--print_config"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["allow"] is content["trust"] is None


def a_run(name: str, *flags: str, which: str = "old", head: str = OWN) -> Path:
    """The folder of a run whose model is its own, as `dream fit` writes it."""
    write(model={"class_path": "head.Mine"})
    Path("exp/head.py").write_text(head.format(which))
    command = ["fit", "-c", "exp/config.yaml", f"--run.name={name}", *flags]
    Invocation.parse(command).load()
    folder = folders.run_folder(folders.RunSettings(name=name), "exp", command)
    own_code.keep(folder)
    sums.write_atomic(folder, folders.CONFIG, Path("exp/config.yaml").read_text())
    (folder / folders.SAVES).mkdir()
    (folder / folders.SAVES / "best.ckpt").touch()
    return folder


def which(*words: str) -> str:
    """Class attribute of the model that a command takes."""
    Invocation.parse(list(words)).load()
    found: str = sys.modules[f"{own_code.PACKAGE}.head"].Mine.which
    return found


def test_ones_own_run_is_trusted_wherever_it_lies_and_that_of_others_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_run("one").rename("moved")
    command = ["test", "--ckpt_path", "moved"]
    assert which(*command) == "old"
    with pytest.raises(
        ConfigError, match=r"`--trust none` runs no Python, and .* `head.Mine` from .*head.py"
    ):
        which(*command, "--trust=none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(Path("somebody").absolute()))
    for named in (command, ["check", "moved/config.yaml"]):
        own_code.begin([])
        with pytest.raises(ConfigError, match=r"moved is not signed with your key: .* add --trust run\."):
            which(*named)
        assert f"{own_code.PACKAGE}.head" not in sys.modules
        assert which(*named, "--trust", "run") == "old"


@pytest.mark.parametrize("change", ["head.py", "config.yaml", "extra.yaml", "sums.sealed", "run.json"])
def test_a_run_that_was_changed_is_not_ones_own(change: str) -> None:
    folder = a_run("one")
    file, command = folder / change, ["test", "--ckpt_path", str(folder)]
    if change == sums.SUMS:
        file.unlink()
    else:
        file.write_text((file.read_text() if file.exists() else "") + "\n")
    with pytest.raises(DREAMError, match=r"is not signed with your key|are not as they were written: "):
        which(*command)
    (folder / sums.SUMS).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="is not signed with your key"):
        which(*command)
    assert which(*command, "--trust=run") == "old"


def test_only_source_is_run() -> None:
    folder = a_run("one")
    (folder / sums.SUMS).unlink()
    own = folder / "head.py"
    other = Path("other.py")
    other.write_text(OWN.format("bad"))
    assert other.stat().st_size == own.stat().st_size
    os.utime(other, ns=(own.stat().st_atime_ns, own.stat().st_mtime_ns))
    cached = Path(py_compile.compile(str(other), doraise=True, dfile="head.py") or "")
    (folder / "__pycache__").mkdir()
    shutil.copy(cached, folder / "__pycache__" / cached.name.replace("other", "head"))
    assert which("test", "--ckpt_path", str(folder), "--trust=run") == "old"


def test_a_run_is_resumed_with_python_of_its_own_only_if_it_is_ones_own() -> None:
    folder = a_run("one")
    command = ["fit", "-c", "exp/config.yaml", "--resume", "--run.name=one"]
    (folder / sums.SUMS).unlink()
    Invocation.parse(command).words()  # the same files lie beside the configuration
    assert Path(str(sys.modules[f"{own_code.PACKAGE}.head"].__file__)).parent.name == "exp"
    (folder / "head.py").write_text(OWN.format("theirs"))
    with pytest.raises(ConfigError, match=r"runs/one is not signed with your key.* add --trust run\."):
        Invocation.parse(command).words()
    with pytest.warns(UserWarning, match="was changed since the run began"):
        Invocation.parse([*command, "--trust=run"]).words()
    assert sys.modules[f"{own_code.PACKAGE}.head"].Mine.which == "theirs"
    assert folders.without_resume([*command, "--trust", "run"]) == [*command[:3], command[4]]


def test_what_the_command_of_ones_own_run_allowed_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run("one", "--allow=foreign")
    command = ["test", "--ckpt_path", str(folder)]
    assert Invocation.parse(command)._allowed() == ["foreign"]
    assert Invocation.parse([*command, "--trust=none"])._allowed() == []
    record = folder / folders.RUN
    record.write_text(record.read_text().replace("--allow=foreign", "--allow=os"))
    assert Invocation.parse(command)._allowed() == []
    monkeypatch.setenv("XDG_CONFIG_HOME", str(Path("somebody").absolute()))
    assert Invocation.parse(command)._allowed() == []
    assert Invocation.parse([*command, "--trust=run"])._allowed() == ["os"]


@pytest.mark.parametrize("gone", [[sums.SUMS], [sums.SUMS, folders.RUN]])
def test_a_run_is_one_whatever_it_lacks(gone: list[str]) -> None:
    folder = a_run("one", which="evil")
    for name in gone:
        (folder / name).unlink()
    Path("exp/head.py").write_text(OWN.format("mine"))
    resumed = ["fit", "-c", "exp/config.yaml", "--run.name=one", "--resume"]
    for command in (["test", "--ckpt_path", str(folder)], resumed):
        with pytest.raises(ConfigError, match=r"one is not signed with your key.* `head.Mine`"):
            Invocation.parse(command).words()
        assert f"{own_code.PACKAGE}.head" not in sys.modules
    assert which("test", "--ckpt_path", str(folder), "--trust=run") == "evil"


def test_files_of_a_run_from_elsewhere_take_no_place_among_ones_own() -> None:
    folder = a_run("one")
    (folder / sums.SUMS).unlink()
    (folder / "helper.py").write_text("NAME = 'evil'\n")
    (folder / "more.yaml").write_text("seed: 1\n")
    Path("exp/helper.py").write_text("NAME = 'mine'\n")
    Path("exp/head.py").write_text(f"from .helper import NAME\n{OWN.format('')}    which = NAME\n")
    assert which("check", "-c", "exp/config.yaml", "-c", f"{folder}/more.yaml") == "mine"


def test_what_is_run_is_what_was_checked() -> None:
    folder = a_run("one")
    own_code.begin([folder])
    (folder / "head.py").write_text(OWN.format("swapped"))
    with pytest.raises(ConfigError, match=r"the run in .*one, which is your own, was not written with this"):
        own_code.load("head.Mine", folder / "head.py", "model")


def test_python_that_came_later_into_ones_own_run_is_not_run() -> None:
    Path("exp").mkdir()
    Path("exp/head.py").write_text(
        f"try:\n    from . import more\nexcept ImportError:\n    more = None\n{OWN}"
    )
    folder = a_run("one", which="old", head=Path("exp/head.py").read_text())
    (folder / "plot.py").write_text("open('ran', 'w').close()\n")
    (folder / "more.py").write_text("open('ran', 'w').close()\n")
    assert which("test", "--ckpt_path", str(folder)) == "old"
    (folder / "head").mkdir()
    (folder / "head/__init__.py").write_text(OWN.format("evil"))  # Python takes it rather than head.py
    (folder / "head/linked").symlink_to("/tmp")
    (folder / "head.abi3.so").write_text("evil")
    with pytest.raises(ConfigError, match="was not written with this file"):
        which("test", "--ckpt_path", str(folder))
    assert not Path("ran").exists()


@pytest.mark.parametrize("form", [{"wandb": "online"}, "{wandb: online}"])
def test_a_run_from_elsewhere_is_sent_nowhere(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = write("runs/one/config.yaml", run=form)
    assert main(command) == 0  # a configuration that the user names
    Path("runs/one/run.json").write_text("{}")
    assert main(command) == 2
    assert "config.yaml is not signed with your key, so it may not set `run.wandb` to online" in (
        capsys.readouterr().err
    )
    for flag in ("--run.wandb=offline", "--run={wandb: online}", "--trust=run"):
        assert main([*command, flag]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("place", ["section", "text", "pipe", "standard input"])
def test_the_parser_reads_in_bounds(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    letters = "abcdefghi"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise(letters)
    )
    Path("bomb.yaml").write_text(bomb)
    os.mkfifo("pipe")
    given = {"section": "bomb.yaml", "text": bomb, "pipe": "pipe"}.get(place)
    value = {"trainer": given} if given else trainer(callbacks="-")
    assert main(write(**value)) == 2  # and soon
    said = capsys.readouterr().err
    reasons = {"pipe": "pipe cannot be read: it is no regular file", "standard input": "not by `-`"}
    assert reasons.get(place, "`trainer` must be a section with settings") in said


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.callbacks+=own.Note"],
        ["--trainer.callbacks", "own.Note", "--trainer.callbacks.init_args.scale=2"],
        ["--trainer.callbacks=[{class_path: own.Note, init_args: {scale: 2}}]"],
        ["--model={class_path: own.Mine}"],
    ],
)
def test_flags_name_classes_of_ones_own(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = write()
    Path("exp/own.py").write_text(
        f"import lightning as L\n{OWN}class Note(L.Callback):\n    def __init__(self, scale: int = 1): ...\n"
    )
    assert main([*command, *words]) == 0, capsys.readouterr().err
    assert f"{own_code.PACKAGE}.own" in sys.modules
    assert main([*command, *words, "--trust=none"]) == 2
    assert "`--trust none` runs no Python" in capsys.readouterr().err


def test_a_file_that_cannot_hold_the_class_is_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = write(model={"class_path": "setup.Mine"})
    Path("exp/setup.py").write_text("open('ran', 'w').close()\nclass Mein: ...\n")
    assert main(command) == 2
    assert (
        "setup.py must define the class `Mine`; it does not. Did you mean `Mein`?" in capsys.readouterr().err
    )
    assert not Path("ran").exists()


def test_a_space_opens_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    for name in ("allow", "trust"):
        Path("space.yaml").write_text(f"{name}: [foreign, run]\n")
        assert main(["sweep", "-c", "exp/config.yaml", "--space=space.yaml"]) == 2
        assert f"`{name}` in the space must be a setting of the experiment" in capsys.readouterr().err
