"""README.md and every page of docs/ are true: blocks of code run, links, files and names exist.

Every block runs in one folder for each page, from top to bottom, as a reader types it.

Commands that take minutes are cut short and otherwise the same: a comparison takes one model and seed, a fit
two steps; a fit becomes a check where no later command needs its run, or it is of a public data set. Commands
that start two processes run as one: test_ranks.py has the others. Blocks of `sh` are for machines that a test
does not have: their syntax is checked."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor

from dream.config import KNOBS, PRESETS
from experiments.invocation import configs
from tests.dream import oracle
from tests.experiments.support import forked, in_fork
from tests.experiments.test_shipped import PUBLIC, write_recordings

ROOT = Path(__file__).parents[1]
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
TEXTS = PAGES | {"CONTRIBUTING": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")}
PACKAGES = ("dream", "lightning_modules", "experiments")
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LANGUAGES = {
    "bash",
    "python",
    "sh",
    "text",
    "yaml",
    "{eval-rst}",
    "{include}",
    "{literalinclude}",
    "{toctree}",
}
DONE: set[str] = set()
"""Commands that have run and need not run again, since no later one needs their output."""
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
    """Experiment that a command names."""
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
    """The command with less to do; its own settings stay."""
    words = [word for word in words if not word.startswith("--trainer.devices")]
    if words[0] == "fit" and not any(word.startswith("--run.name") for word in words):
        return checked(words)
    if words[0] not in ("fit", "compare", "test", "sweep"):
        return words
    typed = {word.partition("=")[0] for word in words}
    if (experiment(words) or "").startswith("anomaly"):  # its test reads streams to their end
        typed.add("--trainer.limit_test_batches")
    if "--data.rolling=true" in words:  # the first batches of a stream only warm it up
        typed.add("--trainer.limit_val_batches")
    cuts = [f"{name}={value}" for name, value in SHORT.items() if name not in typed]
    if words[0] == "compare":
        words = [word if before != "--seeds" else "1" for before, word in pairwise(["", *words])]
        start = words.index("--models") + 1
        stop = next((k for k in range(start, len(words)) if words[k].startswith("-")), len(words))
        words = words[: start + 1] + words[stop:]
    return [*words, *SMALL.get(experiment(words) or "", []), *cuts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the pages name."""
    hours = pd.date_range("2024-01-01", periods=900, freq="h")
    day = np.sin(np.arange(900) * 2 * np.pi / 24)
    table = pd.DataFrame(
        {"time": hours, "load": 10 + day, "wind": 5 - day, "price": 40 + 3 * day, "temperature": 20 - day}
    )
    table.to_csv(tmp_path / "load.csv", index=False)
    table.tail(96).to_csv(tmp_path / "newer.csv", index=False)
    later = table.tail(24).assign(time=table["time"].tail(24) + pd.Timedelta("1D"))
    later.to_csv(tmp_path / "newest.csv", index=False)
    shop = pd.DataFrame({"time": pd.date_range(hours[0], periods=924, freq="h"), "sales": np.nan})
    shop.loc[: len(day) - 1, "sales"] = (10 + day).round(2)
    shop["weather"] = np.array(["sunny", "rain", "föhn"])[np.arange(924) // 24 % 3]
    shop.to_csv(tmp_path / "shop.csv", index=False, sep=";", decimal=",", encoding="cp1252")
    for name in ("sensors.csv", "other.csv", "huge.csv", "longer.csv"):
        table.to_csv(tmp_path / name, index=False)
    table.assign(label=np.where(day > 0, "up", "down")).to_csv(tmp_path / "labels.csv", index=False)
    steps = pd.DataFrame({"id": np.arange(900) // 45, "x": day, "y": np.arange(900) % 7, "label": "down"})
    steps.loc[day > 0, "label"] = "up"
    steps.to_csv(tmp_path / "steps.csv", index=False)
    steps.assign(label=steps["label"].where(steps.index % 45 < 9)).to_csv(tmp_path / "new.csv", index=False)
    for names, name, rows in (
        (("shops", "new_shops"), "shop", 300),
        (("pumps",), "pump", 600),
        (("machines", "machines_new"), "unique_id", 200),
    ):
        for number, kind in enumerate(names):
            time = pd.date_range("2024-01-01", periods=rows, freq="min" if name == "unique_id" else "D")
            parts = [
                pd.DataFrame({name: f"{name} {k}", "ds": time, "y": k + np.sin((1 + k) * np.arange(rows))})
                for k in range(number, number + 3)
            ]
            pd.concat(parts).to_csv(tmp_path / f"{kind}.csv", index=False)
    cycles = steps.rename(columns={"id": "unique_id"}).assign(label=np.where(steps["id"] % 2, "a", "b"))
    cycles.to_csv(tmp_path / "cycles.csv", index=False)
    cycles.drop(columns="label").to_csv(tmp_path / "unlabelled.csv", index=False)
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
                DONE.add(shlex.join(words))  # several pages have the same command
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


def defined() -> set[str]:
    """Names of the classes, functions, variables and attributes of the packages."""
    names = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
    return names


def mentioned_in_vain(text: str, names: set[str]) -> Iterator[str]:
    """Paths of source files and pages, dotted names, and `Class` or `Class.attribute` that do not exist."""
    for path in re.findall(r"(?<![\w/.*-])(?:[\w.-]+/)+[\w-]+\.(?:py|h|cpp|md|ipynb)\b", text):
        if not (ROOT / path).is_file() and not (ROOT / "docs" / path).is_file():
            yield path
    for name in re.findall(rf"(?<![\w/.-])(?:{'|'.join(PACKAGES)}|tests)(?:\.\w+)+", text):
        if not name.endswith(".html") and locate(name) is None:
            yield name
    for name in re.findall(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)*)(?:\([^`]*\))?`", BLOCK.sub("", text)):
        if not set(name.split(".")) <= names:
            yield name


def test_files_and_names_that_are_mentioned_exist() -> None:
    names = defined()
    assert {page: lost for page, text in TEXTS.items() if (lost := [*mentioned_in_vain(text, names)])} == {}


def test_the_tree_is_whole() -> None:
    """Every folder of the packages, every file at their roots, and nothing that is not there."""
    block = next(body for language, body in BLOCK.findall(PAGES["architecture"]) if language == "text")
    listed: set[str] = set()
    parents: list[str] = []
    for line in block.splitlines():
        entry = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 4
        parents = [*parents[:depth], entry]
        listed.add("".join(parents))
    assert [name for name in sorted(listed) if not (ROOT / name).exists()] == []
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.*") if path.suffix != ".pyc"]
    files = {
        str(path.relative_to(ROOT)) for path in found if path.parent.parent == ROOT and path.suffix == ".py"
    }
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in found if "templates" not in path.parts[:-2]}
    assert sorted((files | folders) - listed) == []


def test_the_equations_are_those_of_the_code() -> None:
    """The page on the dynamics lists those of `dream.functional`; its step in NumPy is that of the oracle."""
    block = next(body for language, body in BLOCK.findall(PAGES["dynamics"]) if language == "text")
    code = (ROOT / "dream" / "functional.py").read_text(encoding="utf-8")
    assert "".join(block.split()) in "".join(code.split())
    shown = re.findall(r"\{literalinclude\} \.\./tests/dream/oracle\.py\n:pyobject: (\w+)", PAGES["dynamics"])
    assert shown == ["key", "predict_next", "step"]
    assert all(callable(getattr(oracle, name)) for name in shown)


def test_headline_figures_are_results() -> None:
    """Every number in the README's table stands in the tables of the results."""
    table = PAGES["README"].partition("## Measured")[2].partition("## Layout")[0]
    cells = re.findall(r"^\|[^|]*\|(.*)\|$", table, flags=re.MULTILINE)[2:]
    figures = re.findall(r"\d+\.\d+", "".join(cells))
    assert len(figures) > 30
    assert [figure for figure in figures if not re.search(rf"\b{figure}\b", PAGES["results"])] == []


def test_the_task_in_small_fits_tests_and_reports(tmp_path: Path) -> None:
    (code,) = [body for language, body in BLOCK.findall(PAGES["architecture"]) if "TaskModule)" in body]
    assert len(code.splitlines()) <= 60
    (tmp_path / "rising.py").write_text(code)
    data = {"class_path": "lightning_modules.forecasting.DriftingLoad"}
    data["init_args"] = dict(rows=400, feeders=2, look_back=24, horizon=8, season=24)
    experiment = {"model": {"class_path": "rising.Rising"}, "data": data, "trainer": {"max_epochs": 2}}
    (tmp_path / "rising.yaml").write_text(yaml.safe_dump(experiment))
    for words in (
        ["fit", "-c", "rising.yaml", "--run.name=rising", "--model.config.hidden_dim=64", "--model.lr=0.01"],
        ["test", "--ckpt_path=runs/rising", "--run.name=again"],
        ["report", "runs/rising"],
    ):
        done = forked(*words, folder=tmp_path, WANDB_MODE="disabled")
        assert done.returncode == 0, done.stderr
    first, again = (
        json.loads((tmp_path / "runs" / name / "results.json").read_text()) for name in ("rising", "again")
    )
    assert first["results"] == again["results"]
    assert set(first["results"]) == {"DREAM", "DREAM, plasticity off"}
    assert 0.5 < first["results"]["DREAM"]["accuracy"] <= 1
    page = (tmp_path / "runs/rising/report.html").read_text()
    assert "accuracy" in page
    assert "data:image/png;base64" in page


def test_the_service_replays_from_its_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [body for language, body in BLOCK.findall(PAGES["memory"]) if language == "python"]
    (service,) = [body for body in blocks if "StateStore" in body]
    *start, loop = ast.parse(service).body
    names: dict[str, Any] = {}
    exec(compile(ast.Module(start, []), "docs/memory.md", "exec"), names)
    names["batches"] *= 2  # every sensor comes again
    outputs: list[Tensor] = []
    names["layer"].register_forward_hook(lambda _, __, found: outputs.append(found[0].clone()))

    def serve(folder: str) -> tuple[list[Tensor], dict[str, dict[str, Tensor]]]:
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        outputs.clear()
        exec(compile(ast.Module([loop], []), "docs/memory.md", "exec"), names)
        with names["StateStore"]("states") as store:
            return list(outputs), {name: store[name] for name in store}

    (first, states), (again, replayed) = serve("first"), serve("again")
    assert len(first) == len(again) == 8
    assert not any(output.requires_grad for output in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert states.keys() == replayed.keys() == {f"sensor-{k}" for k in range(6)}
    for name, state in states.items():
        assert all(torch.equal(value, replayed[name][field]) for field, value in state.items())
    assert not torch.equal(first[0], first[4])  # the same rows, continued
