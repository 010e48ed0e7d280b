"""What a preset sets, what beats it, and what it beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dream.config import PRESETS
from dream.errors import ConfigError
from experiments.cli import main
from experiments.invocation.arguments import Invocation

BASE = """
model:
  class_path: lightning_modules.LanguageModule
  init_args:
    config: {input_dim: 40, rank: 7, time_step: 0.2, kappa: 0.9}
data:
  class_path: lightning_modules.language.PythonDocs
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    Path("base.yaml").write_text(BASE)


def layer(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The settings of the layer that a command comes to."""
    assert main(["fit", *words, "--print_config"]) == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["config"]
    return found


def test_it_beats_the_file_and_typed_settings_beat_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = layer("--model.config.rank=4", "-c", "base.yaml", "--preset", "stability", capsys=capsys)
    assert found["rank"] == 4  # typed
    assert (found["time_step"], found["target_norm"], found["hidden_dim"]) == (0.05, 1.5, 256)  # the preset's
    # the file's, of which the preset says nothing, or must not
    assert (found["kappa"], found["input_dim"]) == (
        0.9,
        40,
    )


def test_in_a_file_its_own_values_beat_it_and_those_of_earlier_files_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine.yaml").write_text("preset: stability\nmodel: {init_args: {config: {target_norm: 1.7}}}\n")
    found = layer("-c", "base.yaml", "-c", "mine.yaml", "--model.config.error_smoothing=0.02", capsys=capsys)
    assert (found["rank"], found["time_step"], found["target_norm"]) == (16, 0.05, 1.7)
    assert (found["error_smoothing"], found["kappa"], found["input_dim"]) == (0.02, 0.9, 40)


def test_a_core_without_fast_weights_is_as_large_as_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for flags in (["--preset=stability"], ["--preset=stability", "--model.core=lstm"], ["--model.core=lstm"]):
        assert main(["check", "forecasting", "--data.rows=600", "--data.feeders=1", *flags]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "trainable parameters" in line)
        sizes.append(int(line.split(",", 1)[1].split()[0].replace(",", "")))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    assert sizes[2] < 0.5 * sizes[1]  # 128 units of DREAM to match, not 256


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--preset=stabilty"],
            "`preset` must be the name of one; got 'stabilty'. Did you mean `stability`?",
        ),
        (["--preset"], "`--preset` must be followed by a value; got none."),
        (["-c", "bad.yaml"], "`preset` must be the name of one; got 3."),
        (
            ["--preset=stability", "--ckpt_path=none"],
            "`--preset` is for a model that is built anew; a checkpoint brings its own",
        ),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    Path("bad.yaml").write_text("preset: 3\n")
    with pytest.raises(ConfigError) as said:
        Invocation.parse(["fit", "-c", "base.yaml", *words]).words()
    assert message in str(said.value)


def test_every_name_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--preset" in shown
    assert ", ".join(PRESETS) in shown
    assert main(["config", "list"]) == 0
    assert "dream fit -c EXPERIMENT --preset PRESET" in capsys.readouterr().out


def test_a_rank_above_the_width_is_lowered_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data.rows=400", "--data.feeders=1", "--data.look_back=24", "--data.horizon=8"]
    assert main(["check", "forecasting", *small, "--preset=stability"]) == 0
    shown = capsys.readouterr()
    assert "note: `model.config.rank`=16 is lowered to 12, the width of the input." in shown.err
    assert "is above" not in shown.err  # of the preset's own width, which the data replace
    assert "rank 12" in shown.out
    assert main(["check", "forecasting", *small]) == 0
    assert "lowered" not in capsys.readouterr().err
