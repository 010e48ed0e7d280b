"""Runs that find too little memory end with the settings that take it: exit 2, no traceback, no save."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.exhausted import in_memory
from lightning_modules import ForecastingModule
from lightning_modules.forecasting import DriftingLoad
from tests.experiments.support import SMALL, in_fork

WIDE = ["--data.look_back=2000", "--data.rows=4000", "--model.patch=1", "--data.batch_size=512"]


def limited(arguments: list[str]) -> int:
    """The command with 1 GiB beyond what the process has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
    return main(arguments)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model.config.hidden_dim=20000"], "`model.config.hidden_dim`=20000"),
        (
            [*WIDE, "--model.config.hidden_dim=256"],
            "samples of 2000 steps in a layer of `hidden_dim`=256",
        ),
        (["--data.rows=1000000000"], "Lower what takes most: `data.rows`=1000000000"),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_the_settings_are_named(more: list[str], said: str, tmp_path: Path) -> None:
    run = in_fork(limited, ["fit", "-c", "forecasting", *SMALL, *more], folder=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert "this process may use" in run.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    "setting",
    ["model.config.hidden_dim=1000000", "model.config.hidden_dim=1" + "0" * 40, "data.rows=1" + "0" * 30],
)
def test_sizes_beyond_any(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", "-c", "forecasting", *SMALL, f"--{setting}"]) == 2
    said = capfd.readouterr().err
    assert f"`{setting.replace('=', '`=')}" in said
    assert "Traceback" not in said


def test_what_lies_highest_above_its_default_is_named_first() -> None:
    sections = {
        "model": {"class": ForecastingModule, "settings": {"dropout": 0.2, "config": {"hidden_dim": 5120}}},
        "data": {"class": DriftingLoad, "settings": {"look_back": 192, "rows": 8000, "timespans": True}},
    }

    def work() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.")

    with pytest.raises(Exception, match=r"it asked for 4096 bytes at once\. Lower what") as found:
        in_memory(work, lambda: sections)
    said = str(found.value)
    assert said.index("`model.config.hidden_dim`=5120") < said.index("`data.look_back`=192")
    with pytest.raises(RuntimeError, match="something else"):
        in_memory(lambda: (_ for _ in ()).throw(RuntimeError("something else")), lambda: sections)
