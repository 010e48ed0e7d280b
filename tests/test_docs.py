"""README.md and every page of docs/ do what they say: every block of code runs, in one folder for each page,
from top to bottom, as a reader types it.

What takes minutes is cut short and otherwise the same: a comparison takes one model and seed, a fit takes two
steps, and where no later command needs its run, or it is of a public data set, it is a check. What starts two
processes is run as one: test_ranks.py has the others. Blocks of `sh` are for machines that a test has not
got: their syntax is checked."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dream.config import KNOBS, PRESETS
from experiments.invocation import configs
from tests.experiments.support import forked, in_fork
from tests.experiments.test_shipped import PUBLIC, write_recordings

ROOT = Path(__file__).parents[1]
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LANGUAGES = {"bash", "python", "sh", "text", "yaml", "{eval-rst}", "{include}", "{toctree}"}
DONE: set[str] = set()
"""Commands that have run, leave nothing that a later one needs, and so need not run again."""
SHORT = {
    "--trainer.max_epochs": "1",
    "--trainer.limit_train_batches": "2",
    "--trainer.limit_val_batches": "1",
    "--trainer.limit_test_batches": "2",
}
SMALL = {
    "anomaly": ["--data.rows=1500", "--data.anomalies=4"],
    "language_file": ["--data.batch_size=4", "--data.steps=24"],  # the text is short
    "speech": ["--data.voices=4", "--data.takes=2"],
    "speech_recognition": ["--data.voices=4", "--data.takes=2"],
}


def commands(page: str) -> list[list[str]]:
    """The words of every command in the bash blocks of a page."""
    text = "\n".join(body for language, body in BLOCK.findall(PAGES[page]) if language == "bash").replace(
        "\\\n", " "
    )
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def experiment(words: list[str]) -> str | None:
    """What a command is to run."""
    return words[words.index("-c") + 1] if "-c" in words else None


def is_public(words: list[str]) -> bool:
    return (experiment(words) or "").endswith(PUBLIC)


def checked(words: list[str]) -> list[str]:
    """A fit as a check of the same experiment."""
    return ["check", *(word for word in words[1:] if not word.startswith(("--models", "--seeds", "--run.")))]


def is_shipped(words: list[str]) -> bool:
    """Whether a command is a fit of a shipped experiment as it is, which test_shipped.py checks."""
    return len(words) == len(["dream", "fit", "-c", "NAME"]) and experiment(words) in configs.shipped()


def shortened(words: list[str]) -> list[str]:
    """The command with less to do; what it says itself stands."""
    words = [word for word in words if not word.startswith("--trainer.devices")]
    if words[0] == "fit" and not any(word.startswith("--run.name") for word in words):
        return checked(words)
    if words[0] not in ("fit", "compare", "test", "sweep"):
        return words
    typed = {word.partition("=")[0] for word in words}
    if (experiment(words) or "").startswith("anomaly"):  # its test reads streams to their end
        typed.add("--trainer.limit_test_batches")
    cuts = [f"{name}={value}" for name, value in SHORT.items() if name not in typed]
    if words[0] == "compare":
        words = [word if before != "--seeds" else "1" for before, word in pairwise(["", *words])]
        start = words.index("--models") + 1
        stop = next((k for k in range(start, len(words)) if words[k].startswith("-")), len(words))
        words = words[: start + 1] + words[stop:]
    return [*words, *SMALL.get(experiment(words) or "", []), *cuts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the pages speak of."""
    hours = pd.date_range("2024-01-01", periods=900, freq="h")
    day = np.sin(np.arange(900) * 2 * np.pi / 24)
    table = pd.DataFrame(
        {"time": hours, "load": 10 + day, "wind": 5 - day, "price": 40 + 3 * day, "temperature": 20 - day}
    )
    table.to_csv(tmp_path / "load.csv", index=False)
    for name in ("sensors.csv", "other.csv", "huge.csv"):
        table.to_csv(tmp_path / name, index=False)
    table.assign(label=np.where(day > 0, "up", "down")).to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "text.txt").write_text("All work and no play makes Jack a dull boy.\n" * 60)
    write_recordings(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, folder: Path) -> None:
    fences = [line for line in PAGES[page].splitlines() if line.lstrip(" >-*").startswith(("```", "~~~"))]
    assert len(fences) == 2 * len(BLOCK.findall(PAGES[page])), (
        "a block that is indented, or not closed, would not be run"
    )
    assert not re.search(r"^ {4,}(dream|python) ", BLOCK.sub("", PAGES[page]), flags=re.MULTILINE), (
        "nor would this"
    )
    for words in commands(page):
        assert words[0] == "dream", words
        if not is_public(words) and not is_shipped(words) and shlex.join(words) not in DONE:
            done = forked(*shortened(words[1:]), folder=folder, WANDB_MODE="disabled")
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
            if "--run.name" not in shlex.join(words) and not any(word.startswith("runs/") for word in words):
                DONE.add(shlex.join(words))  # the pages say some things twice
    for language, body in BLOCK.findall(PAGES[page]):
        assert language in LANGUAGES, f"{page}: a block of {language or 'nothing'}:\n{body}"
        if language == "sh":
            subprocess.run(["bash", "-n"], input=body, text=True, check=True)
        if language == "yaml":
            assert yaml.safe_load(body)
    code = "\n".join(body for language, body in BLOCK.findall(PAGES[page]) if language == "python")
    if code:
        done = in_fork(run_code, code, folder=folder)
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"


def run_code(code: str) -> int:
    """The Python blocks of a page, one after another."""
    exec(compile(code, "page", "exec"), {"__name__": "__main__"})
    return 0


@pytest.mark.data
@pytest.mark.parametrize("page", PAGES)
def test_commands_on_public_data_fit_their_data(page: str, folder: Path) -> None:
    asked = {shlex.join(words): words for words in commands(page) if words[0] == "dream" and is_public(words)}
    for words in asked.values():
        if is_shipped(words):
            continue
        done = forked(*checked(words[1:]), folder=folder)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


def test_what_pages_link_to_is_there() -> None:
    for name, text in PAGES.items():
        home = ROOT if name == "README" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text):
            assert (home / target).exists(), f"{name}: {target}"


def test_what_stands_inline_is_shipped() -> None:
    """`dream fit -c NAME` within a sentence or a table, outside of blocks."""
    for name, text in PAGES.items():
        for found in re.findall(r"`(dream (?:fit|compare|check)[^`]*)`", BLOCK.sub("", text)):
            asked = experiment(shlex.split(found))
            for part in (asked or "").split("|"):
                assert not re.fullmatch(r"[a-z_0-9]+", part) or part in configs.shipped(), f"{name}: {found}"


def test_the_tuning_page_is_that_of_the_data_module() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "tuning_page.py"))
    assert made["page"]() == PAGES["tuning"], "write it anew: python docs/tuning_page.py"
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGES["tuning"], flags=re.MULTILINE))
    assert rows == KNOBS.keys() | PRESETS.keys()
