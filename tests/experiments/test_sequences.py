"""Eight sets of labelled sequences: their tables, and what the benchmark comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dream import DataError
from experiments import compare
from experiments.benchmarks import sequences
from lightning_modules.classification import LabelledTable


def test_each_set_and_model_is_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def one(words: list[str]) -> int:
        asked.append(words)
        folder = Path(next(word for word in words if word.startswith("--folder=")).removeprefix("--folder="))
        folder.mkdir(parents=True)
        accuracy = {words[words.index("--models") + 1].upper(): len(asked) / 10, "nearest mean": 0.5}
        results: dict[str, Any] = {model: {"accuracy": value} for model, value in accuracy.items()}
        (folder / "comparison.json").write_text(json.dumps({"results": results, "rows": {}}))
        return 0

    monkeypatch.setattr(compare, "main", one)
    sets = tmp_path / "sets"
    sets.mkdir()
    for name in sequences.SETS:
        (sets / f"{name}.csv.gz").touch()
    words = ["--names", "GunPoint", "Motions", "--models", "dream", "gru", "--seeds=2", f"--sets={sets}"]
    assert sequences.main([*words, f"--folder={tmp_path}", "--trainer.max_epochs=3"]) == 0
    assert len(asked) == 4
    assert all(words[-1] == "--trainer.max_epochs=3" and "--seeds=2" in words for words in asked)
    assert [("--data.group=group" in words) for words in asked] == [False, False, True, True]
    found = json.loads((tmp_path / "sequences.json").read_text())["results"]
    assert found["DREAM"] == {"GunPoint": 0.1, "Motions": 0.3}
    assert found["GRU"] == {"GunPoint": 0.2, "Motions": 0.4}
    assert found["nearest mean"] == {"GunPoint": 0.5, "Motions": 0.5}
    assert "0.300" in capsys.readouterr().out
    (sets / "GunPoint.csv.gz").unlink()
    with pytest.raises(DataError, match=r"GunPoint\.csv\.gz is not there: run `make peers-aeon`"):
        sequences.main(words)


def test_the_motions_are_those_of_the_generator(tmp_path: Path) -> None:
    sequences.motions().to_csv(tmp_path / "a.csv", index=False)
    data = LabelledTable(str(tmp_path / "a.csv"), group="group", part="part")
    data.setup()
    assert {part: len(found) for part, found in data.sequences.items()} == {
        "train": 336,
        "val": 96,
        "test": 144,
        "predict": 0,
    }


@pytest.mark.data
def test_days_are_whole_and_in_order() -> None:
    days = sequences.electricity_days()
    assert (days.groupby("unique_id").size() == sequences.HALF_HOURS).all()
    firsts = days.groupby("unique_id").first()
    assert firsts["part"].value_counts().to_dict() == {"train": 629, "test": 315}
    assert firsts["part"].tolist() == ["train"] * 629 + ["test"] * 315
    week = firsts["label"].map({"weekday": 0, "Saturday": 1, "Sunday": 2}).tolist()[4:11]
    assert week == [1, 2, 0, 0, 0, 0, 0]


def test_reference_values_say_how_they_were_made() -> None:
    found = json.loads((Path(__file__).parents[1] / "peers" / "aeon.json").read_text())
    assert found["command"] == "make peers-aeon"
    assert set(found["minirocket"]) == set(sequences.SETS)
    assert all(0.5 < row["accuracy"] <= 1 for rows in found["minirocket"].values() for row in rows)
