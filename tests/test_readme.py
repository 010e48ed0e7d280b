"""The README does what it says: every block of Python and every command, but for the two that set everything up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- (.*?) -->\n)?```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [body for mark, kind, body in BLOCKS if kind == language and mark != "slow"]


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_commands(tmp_path: Path) -> None:
    """One after another, in one folder, as a reader types them."""
    hours = pd.date_range("2024-01-01", periods=1500, freq="h")
    day = np.sin(np.arange(1500) * 2 * np.pi / 24)
    pd.DataFrame({"time": hours, "load": 10 + day, "temperature": 20 - day}).to_csv(tmp_path / "load.csv", index=False)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    assert shutil.which("dream", path=environment["PATH"]), "the package is installed in this environment"
    script = "\n".join(["set -e", *blocks("bash")])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "first" / "results.json").exists()
    assert "predictions" in done.stdout


def test_every_figure_is_filled_in() -> None:
    assert not re.findall(r"\b[A-Z]+_(?:DREAM|LAST|SEASON|TIME)\b", README)


def test_a_user_without_the_shared_data_gets_the_exact_versions(tmp_path: Path) -> None:
    """`make` hands the constraints to pip whether the data are there or not."""
    makefile = Path(__file__).parents[1] / "Makefile"
    environment = {name: value for name, value in os.environ.items() if name not in ("DREAM_DATA", "PIP_CONSTRAINT")}
    command = ["make", "--no-print-directory", "-f", str(makefile), "--eval=show: ; @env", "show"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"PIP_CONSTRAINT={tmp_path}/constraints.txt\n" in shown
    assert "DREAM_DATA" not in shown


def test_the_set_up_commands_are_make_targets() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^    make (\w+)", README, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
