"""Fingerprints of data: equal for equal contents, wherever they come from, and another for any other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dream.errors import DataError
from lightning_modules.anomaly import AnomalyTable, PlantedAnomalies
from lightning_modules.data import TaskData
from lightning_modules.data.base import MOST_BATCHES
from lightning_modules.data.fingerprint import content_sum
from lightning_modules.data.series import Series
from lightning_modules.forecasting import DriftingLoad, ForecastingData, TableData
from lightning_modules.language import PythonDocs, TextFile
from lightning_modules.online import DriftingStream, TableStream
from lightning_modules.speech import SpeechFolder, ToneWords

ROWS = 300
FRAME = pd.DataFrame(
    {
        "time": pd.date_range("2024-01-01", periods=ROWS, freq="h").astype(str),
        "a": np.sin(np.arange(ROWS)).round(4),
        "b": np.cos(np.arange(ROWS)).round(4),
        "label": np.arange(ROWS) % 50 == 49,
    }
).astype({"label": int})


@dataclass
class Nest:
    values: list[Any]


class Own(TaskData):
    """Data of a kind of their own: numbers in random order."""

    for_own_files = "Own"

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.numbers = numbers

    @property
    def shape(self) -> None:
        return None

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.numbers, batch_size=4, shuffle=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> list[DataLoader[Tensor]]:
        return [DataLoader(self.numbers[:2], batch_size=1)]  # type: ignore[arg-type]

    def rows_of(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def source_of(self, sample: int) -> str:
        raise NotImplementedError

    def describe(self) -> list[tuple[str, str]]:
        raise NotImplementedError


@pytest.mark.parametrize(
    "make",
    [
        lambda path: TableData(str(path), mapped=False),
        lambda path: TableData(str(path), mapped=True),
        lambda path: AnomalyTable(str(path), label_column="label", training=120),
        lambda path: TableStream(str(path)),
        lambda path: TableStream(str(path), targets=["label"], task="regression"),
    ],
    ids=["in memory", "on disk", "anomalies", "online", "regression"],
)
def test_of_a_table(
    make: Callable[[Path], TaskData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "table.csv"
    FRAME.to_csv(path, index=False)
    first, text = make(path).fingerprint, path.read_text()
    assert all(len(found) == 64 for found in first.values())

    def after(content: str, **times: tuple[int, int]) -> set[str]:
        """What differs after the file has got that content, and those times."""
        path.write_text(content)
        os.utime(path, **times)
        found = make(path).fingerprint
        return {name for name in first | found if first.get(name) != found.get(name)}

    state = path.stat()
    assert after(text, ns=(0, 0)) == set()
    assert after(text, ns=(state.st_atime_ns, state.st_mtime_ns)) == set()
    row = text.splitlines()[200]
    assert row.endswith(",1")
    digit = row.index(".") + 1
    for changed in (row[:digit] + str((int(row[digit]) + 1) % 10) + row[digit + 1 :], row[:-1] + "0"):
        # as large as before, and as old
        found = after(text.replace(row, changed), ns=(state.st_atime_ns, state.st_mtime_ns))
        assert found
        assert found <= {"values", "labels", "targets"}
    assert "columns" in after(text.replace(",a,", ",c,"))
    assert after("\n".join(text.splitlines()[:-1]) + "\n")
    assert after(text) == set()


def test_of_tables_in_code() -> None:
    values = FRAME[["a", "b"]].to_numpy()
    for kind in (TableData, TableStream):
        first = kind.of(values).fingerprint
        assert kind.of(values.copy()).fingerprint == first
        moved = values.copy()
        moved[250, 1] += 1e-15
        assert kind.of(moved).fingerprint != first
        assert kind.of(pd.DataFrame(values, columns=["b", "a"])).fingerprint != first
    stamps = pd.date_range("2024", periods=ROWS, freq="h")
    one, other = (
        TableData.of(pd.DataFrame(values, index=stamps + shift)).fingerprint
        for shift in (pd.Timedelta(0), pd.Timedelta("1s"))
    )
    assert {name for name in one if one[name] != other[name]} == {"time"}


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (DriftingLoad(rows=200), DriftingLoad(rows=200, batch_size=7), DriftingLoad(rows=201)),
        (PlantedAnomalies(), PlantedAnomalies(chunk=77), PlantedAnomalies(seed=6)),
        (DriftingStream("regression"), DriftingStream("regression", crop=100), DriftingStream("forecasting")),
        (ToneWords(words=2), ToneWords(words=2, batch_size=3), ToneWords(words=2, seed=1)),
        (PythonDocs("words"), PythonDocs("words", batch_size=3), PythonDocs("words", vocabulary_size=99)),
    ],
    ids=lambda data: type(data).__name__,
)
def test_of_generated_data(one: TaskData, same: TaskData, other: TaskData) -> None:
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("unit", ["bytes", "chars", "words"])
def test_of_a_text(unit: Any, tmp_path: Path) -> None:
    path, text = tmp_path / "text.txt", "the quick brown fox jumps over the lazy dog\n" * 400
    path.write_text(text)
    first = TextFile(str(path), unit=unit, batch_size=4).fingerprint
    path.write_text(text[:-5] + "cog\n" if unit != "words" else text[:-5] + " cog\n")
    assert TextFile(str(path), unit=unit, batch_size=4).fingerprint != first
    path.write_text(text[:-4] + "xyz\n")  # another unknown word in the test part
    assert TextFile(str(path), unit=unit, batch_size=4).fingerprint["test"] != first["test"]
    path.write_text(text)
    assert TextFile(str(path), unit=unit, batch_size=8).fingerprint == first


def test_of_recordings(tmp_path: Path) -> None:
    lines = ["path,label,speaker"]
    for number in range(12):
        tone = np.sin(np.arange(4000) * (0.1 if number % 2 else 0.3) + number)
        soundfile.write(tmp_path / f"{number}.wav", (tone * 20000).astype(np.int16), 8000)
        lines.append(f"{number}.wav,{'low' if number % 2 else 'high'},someone")
    path = tmp_path / "list.csv"

    def fingerprint() -> dict[str, str]:
        path.write_text("\n".join(lines) + "\n")
        return SpeechFolder(str(path)).fingerprint

    first = fingerprint()
    assert set(first) == {"train", "val", "test"}
    lines[4] = lines[4].replace("low", "high")
    assert fingerprint() != first
    lines[4] = lines[4].replace("high", "low")
    assert fingerprint() == first
    content = bytearray((tmp_path / "5.wav").read_bytes())
    content[3000] ^= 1
    (tmp_path / "5.wav").write_bytes(content)
    changed = fingerprint()
    assert sum(first[part] != changed[part] for part in first) == 1


def test_of_a_class_of_ones_own() -> None:
    class Wave(ForecastingData):
        def read(self) -> Series:
            return Series(np.arange(200.0)[:, None], ("wave",), None, "a wave")

    assert Wave().fingerprint == Wave(look_back=7).fingerprint
    numbers = torch.arange(40.0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = Own(numbers).fingerprint
    assert set(first) == {"train", "val"}  # it has no test
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.initial_seed() == 3
    torch.manual_seed(4)
    assert Own(numbers.clone()).fingerprint == first
    numbers[30] += 1
    changed = Own(numbers).fingerprint
    assert (changed["train"] != first["train"], changed["val"] == first["val"]) == (True, True)
    many = Own(torch.zeros(4 * MOST_BATCHES + 400))
    assert len(many.fingerprint) == 2


def test_contents_that_look_alike_have_other_sums() -> None:
    alike = [
        1, 1.0, True, "1", b"1", None, "None", [1], [[1]], [], [[]], ["ab"], ["a", "b"], {"a": 1}, ["a", 1],
        np.float32(1), np.array(1), np.array([1]), np.array([1.0]), np.array([[1.0]]), torch.tensor([1.0]),
        torch.tensor([1.0], dtype=torch.bfloat16), Nest([1]), Nest([2]), {"a", "b"}, {"ab"}, float("nan"),
        np.array(["1"], dtype=object), slice(1, 2), pd.Timestamp("2024"),
    ]  # fmt: skip
    sums = [content_sum(value) for value in alike]
    assert len(set(sums)) == len(alike)
    assert content_sum(torch.ones(2, 3).T) == content_sum(torch.ones(3, 2).contiguous())
    assert content_sum(np.arange(6).reshape(2, 3).T) == content_sum(np.arange(6).reshape(2, 3).T.copy())
    with pytest.raises(DataError, match=r"the data hold a function, .* Define `fingerprint`"):
        content_sum(lambda: 0)
