"""The words of a command, read once."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from dream.errors import ConfigError
from experiments.cli import main
from experiments.invocation import configs
from experiments.invocation.arguments import Invocation
from tests.experiments.support import SMALL

opened: Counter[str] | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    # a file that `open` opens by a function is heard of twice, from that function without a mode
    named = event == "open" and arguments[1] is not None and str(arguments[0]).endswith(".yaml")
    if opened is not None and named:
        opened[Path(str(arguments[0])).name] += 1


sys.addaudithook(_hear)


@contextmanager
def readings() -> Iterator[Counter[str]]:
    """Counts how often each YAML file is opened, by whomever."""
    global opened
    opened = Counter()
    try:
        yield opened
    finally:
        opened = None


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    return tmp_path


BRIEF = [*SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--run.wandb=disabled"]


def test_each_yaml_file_is_read_once() -> None:
    Path("mine.yaml").write_text("preset: stability\n")
    with readings() as found:
        assert main(["check", "forecasting", "-c", "mine.yaml", *SMALL]) == 0
    assert found == {"forecasting.yaml": 1, "mine.yaml": 1}
    with readings() as found:
        assert main(["fit", "-c", "forecasting", *BRIEF, "--run.name=a"]) == 0
    assert found["forecasting.yaml"] == 1
    with readings() as found:  # the configuration of its run
        assert main(["test", "--ckpt_path=runs/a", "--run.wandb=disabled", "--run.name=b"]) == 0
    assert found["config.yaml"] == 4  # twice to see whether it was altered, once to see whose it is


def test_a_comparison_reads_its_experiment_only_to_see_whether_it_was_changed() -> None:
    with readings() as found:
        assert main(["compare", "-c", "forecasting", *BRIEF, "--models=linear", "--seeds=2"]) == 0
    assert found["forecasting.yaml"] == 1 + 2  # once to begin, and before each of the two runs


def test_source_is_read_for_help_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Any) -> str:
        raise AssertionError("source was read")

    with monkeypatch.context() as patch:
        patch.setattr("docstring_parser.attrdoc.inspect.getsource", refuse)
        assert main(["check", "forecasting", *SMALL]) == 0
    capsys.readouterr()
    assert main(["fit", "--model.help=lightning_modules.ForecastingModule"]) == 0
    assert "R: rank of the fast weights." in " ".join(capsys.readouterr().out.split())


TEXTS = ["null", "Title: text", "0x1F", "- a", "[a", "# c", "", " \t\n", "'q'", "--x", "a=b", "é"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("flag", ["--model.sampling.prompt", "--model.init_args.sampling.prompt"])
def test_a_setting_that_is_a_text_is_taken_as_it_stands(
    flag: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([f"{flag}={text}"], [flag, text]):
        assert main(["fit", "-c", "language", *words, "--print_config"]) == 0
        found = yaml.safe_load(capsys.readouterr().out)
        assert found["model"]["init_args"]["sampling"]["prompt"] == text


def test_other_settings_are_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.hidden_dims=[8, 9]", "--model.config={rank: 3}", "--data.season", "24"]
    assert main(["fit", "-c", "forecasting", *flags, "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    settings = found["model"]["init_args"]
    assert (settings["hidden_dims"], settings["config"]["rank"]) == ([8, 9], 3)
    assert found["data"]["init_args"]["season"] == 24


def test_what_is_derived_reads_nothing_and_keeps_the_words() -> None:
    Path("a.yaml").write_text("trainer: {max_epochs: 1}\n")
    asked = Invocation.parse(
        ["sweep", "--preset=stability", "-c", "a.yaml", "--trials", "3"], own=["--trials"]
    )
    assert (asked.own, asked.flags, asked.experiment) == ({"--trials": ["3"]}, ["--preset=stability"], "a")
    Path("a.yaml").unlink()
    run = asked.fit(Path("all/one"), "--seed=4", test="false")
    assert run.argv == [
        *("fit", "-c", "a.yaml", "--preset=stability", "--seed=4", "--resume"),
        *("--run.folder=all", "--run.name=one", "--run.group=all", "--run.table=false", "--run.test=false"),
    ]
    assert run.words()[:2] == ["fit", "--config=trainer: {max_epochs: 1}\n"]


def test_a_flag_without_its_value() -> None:
    for flag in ("--preset", "--ckpt_path"):
        with pytest.raises(ConfigError, match=f"`{flag}` must be followed by a value; got none."):
            Invocation.parse(["fit", "-c", "forecasting", flag]).words()


@pytest.mark.parametrize(
    "value", [math.inf, [1.5, -math.inf], {"a": [math.inf, "1e-3", None, True]}, 0.25, "a: b"]
)
def test_a_value_as_a_flag_is_read_as_that_value(value: Any) -> None:
    """Infinity, which JSON does not have, too."""
    text = configs.flag_text(value)
    assert "\n" not in text
    assert text == value if isinstance(value, str) else configs.parse(text) == value
