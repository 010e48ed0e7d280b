"""Set-up in the README, and no figure left open; its code and links are in test_docs.py."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_every_figure_is_filled_in() -> None:
    assert not re.findall(r"\b[A-Z]+_(?:DREAM|LAST|SEASON|TIME)\b", README + RESULTS)


def test_a_user_without_the_shared_data_gets_the_exact_versions(tmp_path: Path) -> None:
    """`make` hands the constraints to pip whether the data are there or not."""
    makefile = ROOT / "Makefile"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DREAM_DATA", "PIP_CONSTRAINT")
    }
    command = ["make", "--no-print-directory", "-f", str(makefile), "--eval=show: ; @env", "show"]
    shown = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert f"PIP_CONSTRAINT={tmp_path}/constraints.txt\n" in shown
    assert "DREAM_DATA" not in shown


def test_the_set_up_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^    make (\w+)", README, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
