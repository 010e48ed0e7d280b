"""Every speaker held out once: what the folds come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import compare
from experiments.benchmarks import speakers


def test_the_mean_is_over_the_speakers_and_every_fold_is_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def fold(words: list[str]) -> int:
        asked.append(words)
        folder = Path(words[-2].removeprefix("--folder="))
        folder.mkdir(parents=True)
        accuracy = {"DREAM": len(asked) / 10, "nearest mean": 0.5}
        results: dict[str, Any] = {model: {"accuracy": value} for model, value in accuracy.items()}
        (folder / "comparison.json").write_text(json.dumps({"results": results}))
        return 0

    monkeypatch.setattr(compare, "main", fold)
    assert (
        speakers.main(["--models", "dream", "--seeds=2", f"--folder={tmp_path}", "--trainer.max_epochs=3"])
        == 0
    )
    assert [words[2] for words in asked] == [f"--data.split=speaker={name}" for name in speakers.SPEAKERS]
    assert all(words[-1] == "--trainer.max_epochs=3" and "--seeds=2" in words for words in asked)
    found = json.loads((tmp_path / "speakers.json").read_text())
    assert found["results"]["DREAM"]["mean"] == pytest.approx(0.35)
    assert found["results"]["DREAM"]["theo"] == 0.5
    assert found["results"]["nearest mean"]["mean"] == 0.5
    assert "0.3500" in capsys.readouterr().out


def test_a_fold_that_ends_badly_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "main", lambda words: 130)
    assert speakers.main([f"--folder={tmp_path}"]) == 130
    assert not list(tmp_path.iterdir())
