"""Callbacks on the command line: wrong settings are named with what is right, and defaults can be written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from experiments.cli import main
from tests.experiments.support import TINY

BRIEF = [*TINY, "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--figures.dpi=20"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    Path("table.csv").write_text("load\n" + "".join(f"{k % 24}\n" for k in range(300)))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["LearningRateMonitor", "logging_interval=minute"],
            "`trainer.callbacks.logging_interval` must be step or epoch; got minute.",
        ),
        (
            ["LearningRateMonitor", "logging_intervl=step"],
            "`trainer.callbacks.logging_intervl` is not a setting. Did you mean "
            "`trainer.callbacks.logging_interval`?",
        ),
        (
            ["Timer", "duration=00:01:00:00", "verbose=2.5"],
            "`trainer.callbacks.verbose` must be true or false; got 2.5.",
        ),
    ],
)
def test_a_wrong_setting(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--trainer.callbacks+={flags[0]}", *(f"--trainer.callbacks.{flag}" for flag in flags[1:])]
    assert main(["fit", "-c", "forecasting_csv", *BRIEF, *words]) == 2
    assert said in capsys.readouterr().err


def test_a_default_of_an_enumeration_is_written_and_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning's Timer has `Interval.step`, a text of a derived class."""
    timer = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"]
    assert main(["fit", "-c", "forecasting_csv", *BRIEF, *timer, "--run.name=a"]) == 0, (
        capsys.readouterr().err
    )
    (written,) = yaml.safe_load(Path("runs/a/config.yaml").read_text())["trainer"]["callbacks"]
    assert written["init_args"] == {"duration": "00:01:00:00", "interval": "step", "verbose": True}
    assert main(["fit", "-c", "runs/a/config.yaml", "--run.name=b"]) == 0, capsys.readouterr().err
