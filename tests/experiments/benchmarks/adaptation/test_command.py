"""The command of the suite: its files, what a short run shows, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dream.errors import ConfigError
from experiments.benchmarks.adaptation import command
from experiments.benchmarks.adaptation.protocol import BASELINE, COLUMNS, OPTIMUM, PLASTIC, REST, TRAINED
from experiments.benchmarks.adaptation.tasks import linear_systems, rule_change
from experiments.ending import run_module
from tests.experiments.support import in_fork

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a short run of two small tasks, of which the last is done first."""
    path, run_all = tmp_path_factory.mktemp("suite") / "new" / "suite.json", command.run_all
    words = ["--tasks", "rule_change", "linear_systems", "--seeds=1", "--steps=12"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_systems, "SEQUENCES", {"validation": 16, "test": 32})
        patch.setattr(rule_change, "STREAMS", {"validation": 2, "test": 2})
        patch.setattr(rule_change, "BATCH", 2)
        patch.setattr(command, "run_all", lambda parts, *others: run_all(parts[::-1], *others))
        assert command.main([*words, f"--output={path}"]) == 0
    return path


def test_every_value_of_every_column_is_in_the_json(short: Path) -> None:
    found: dict[str, Any] = json.loads(short.read_text())
    assert {"commit", "versions", "device", "threads"} <= found.keys()
    assert found["seeds"] == [0]
    assert found["most_steps"] == 12
    assert list(found["tasks"]) == ["linear_systems", "rule_change"]  # in the order of the tables
    assert OPTIMUM not in found["tasks"]["rule_change"]["columns"]
    task = found["tasks"]["linear_systems"]
    assert list(task["columns"]) == list(COLUMNS)
    for column in TRAINED:
        row = task["columns"][column]
        assert row["parameters"] > 10_000
        assert row["seconds"][0] > 0
        assert list(row["tried"][0]) == ["0.003", "0.01", "0.03"]
        assert row["tried"][0][row["chosen"][0]] == min(row["tried"][0].values())
    assert task["columns"][REST]["seconds"] == [None]
    assert task["columns"][BASELINE]["chosen"][0].startswith("recursive least squares")
    for row in task["columns"].values():
        assert [len(values) for values in row["values"].values()] == [1, 1, 1, 1]
        assert [len(curve) for curve in row["curves"]] == [len(task["positions"])]
    share = found["results"][PLASTIC]["linear_systems: share of the gap closed"]
    assert share == task["columns"][PLASTIC]["values"]["share of the gap closed"][0]


def test_fast_weights_already_pay_after_a_few_steps(short: Path) -> None:
    columns = json.loads(short.read_text())["tasks"]["linear_systems"]["columns"]
    own, rest = (columns[name]["values"]["MSE"][0] for name in (PLASTIC, REST))
    assert own < 0.8 * rest


def test_tables_and_pictures_lie_beside_the_json(short: Path) -> None:
    text = short.with_suffix(".md").read_text()
    assert json.loads(short.read_text())["summary"] in text
    assert "| linear systems redrawn within the sequence, MSE: MSE |" in text
    for ending in (".png", "-tasks.png"):
        assert short.with_name(short.stem + ending).stat().st_size > 10_000


def test_one_job_runs_the_parts_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, int, int | None]] = []
    monkeypatch.setattr(command, "run", lambda task, steps: begun.append((task.name, task.seed, steps)) or {})
    parts = [("markov", 1), ("recall", 0)]
    found = command.run_all(parts, 7, jobs=1)
    assert next(found) == ("markov", 1, {})
    assert begun == [("markov", 1, 7)]
    assert list(found) == [("recall", 0, {})]


def test_jobs_have_a_thread_each_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(command, "as_completed", lambda _: pytest.fail(f"{torch.get_num_threads()} thread"))
    with pytest.raises(pytest.fail.Exception, match="1 thread"):
        next(command.run_all([], 7, jobs=2))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def test_a_task_that_fails_beside_others_ends_all_with_its_sentence(tmp_path: Path) -> None:
    """What was done before it is written."""
    path, done = tmp_path / "suite.json", ["markov", "rule_change"]
    words = ["--tasks", *done, "omniglot", "--seeds=1", "--steps=1", "--jobs=2", f"--output={path}"]
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.adaptation", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DREAM_DATA": str(tmp_path / "nothing"),
            "OMP_NUM_THREADS": "2",
        },
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "dream data get omniglot" in ended.stderr
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["threads"] == 1  # of each of the two processes that trained
    assert set(found["tasks"]) <= set(done)
    assert all(PLASTIC in task["columns"] for task in found["tasks"].values())


def test_what_the_suite_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`--tasks` must name tasks.*'recal'. Did you mean `recall`"):
        command.main(["--tasks", "recal"])
    with pytest.raises(ConfigError, match="`--seeds` must be 1 or more; got 0"):
        command.main(["--seeds=0"])
    with pytest.raises(ConfigError, match="`--steps` must be 1 or more; got -1"):
        command.main(["--steps=-1"])


def run_suite(words: list[str]) -> None:
    """What ``python -m experiments.benchmarks.adaptation`` does."""
    sys.argv[1:] = words
    run_module("experiments.benchmarks.adaptation.command")


def test_a_mistake_ends_the_module_with_one_sentence(tmp_path: Path) -> None:
    done = in_fork(run_suite, ["--tasks", "nothing"], folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("dream: `--tasks` must name tasks of the suite; got 'nothing'.")
