"""Controls: which runs they start, and which rows of their tables become columns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from experiments import compare, comparison
from experiments.benchmarks.adaptation.protocol import OFF, PLASTIC, REST
from experiments.benchmarks.adaptation.tasks.controls import SKAB, ETTh2


def test_a_control_is_a_run_with_plasticity_and_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def cell(plan: compare.ComparisonPlan, model: str, seed: int) -> int:
        started.append(compare.fit(plan, model, seed).argv)
        return 0

    def record(folder: Path, model: str, seed: int) -> dict[str, Any]:
        rows = {"DREAM, fast weights + head": {"mse": 1.0, "mae": 9.0}, "DREAM, head": {"mse": 2.0}}
        if model == "no_plasticity":
            rows = {"DREAM without plasticity, head": {"mse": 3.0}}
        return {"results": {**rows, "repeat-last": {"mse": 4.0}}, "parameters": 7, "seconds": 1.5}

    monkeypatch.setattr(compare, "run_cell", cell)
    monkeypatch.setattr(comparison, "record", record)
    found = ETTh2(2).run(30, tmp_path / "etth2")
    assert {name: outcome.scores.values for name, outcome in found.items()} == {
        PLASTIC: {"mse": 1.0},
        REST: {"mse": 2.0},
        OFF: {"mse": 3.0},
    }
    assert {name: outcome.seconds for name, outcome in found.items()} == {PLASTIC: 1.5, REST: None, OFF: 1.5}
    for words in started:
        assert words[0] == "fit"
        assert Path(words[2]).name == "online_etth2.yaml"
        assert {"--data.horizon=1", "--trainer.max_steps=30", "--seed=2"} <= set(words)
    assert ["--model.config.base_plasticity=0" in words for words in started] == [False, True]


def test_a_run_that_ends_badly_ends_all_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "run_cell", lambda plan, model, seed: 143)
    with pytest.raises(SystemExit) as stop:
        SKAB(0).run(None, tmp_path / "skab")
    assert stop.value.code == 143


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")  # of a training of two steps
def test_the_rows_are_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = ETTh2(1).run(2, tmp_path / ETTh2.name)
    assert set(found) == {PLASTIC, REST, OFF}
    assert all(math.isfinite(outcome.scores.values["mse"]) for outcome in found.values())
