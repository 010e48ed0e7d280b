"""`LanguageData`: which token is read and predicted where, and where a text is cut."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dream.errors import ConfigError, DataError
from lightning_modules.language import (
    LanguageData,
    PythonDocs,
    TextBatch,
    TextFile,
    TinyShakespeare,
    WikiText2,
)
from lightning_modules.language.data import IGNORED, Text


class Counting(LanguageData):
    """A text of bytes each of which says where it is."""

    def __init__(self, length: int = 250, **options: Any) -> None:
        super().__init__(**{"batch_size": 3, "steps": 7, "validation": 0.2, "test": 0.2} | options)
        self.length = length

    def read(self) -> dict[str, Text]:
        return {"train": Text("counting", bytes(range(self.length)))}


def together(batches: list[TextBatch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([batch.tokens for batch in batches], 1), torch.cat(
        [batch.targets for batch in batches], 1
    )


def test_parts_lie_one_after_another() -> None:
    tokens = Counting().parts.tokens
    assert [(part, int(held[0]), int(held[-1])) for part, held in tokens.items()] == [
        ("train", 0, 149),
        ("test", 200, 249),
        ("val", 150, 199),
    ]


def test_streams_continue_from_batch_to_batch() -> None:
    data = Counting()
    seen = set()
    for epoch in range(12):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches = list(loader)
        tokens, targets = together(batches)
        assert tokens.shape == (3, 49)
        assert (tokens[:, 1:] == tokens[:, :-1] + 1).all()
        assert (targets == tokens + 1).all()
        assert (tokens[1:, 0] == tokens[:-1, -1] + 1).all()
        assert [batch.reset.all().item() for batch in batches] == [True] + [False] * 6
        assert not any(batch.reset.any() for batch in batches[1:])
        assert torch.equal(data.rows_of(batches[2]), batches[2].tokens[:, [0, -1]])
        seen.add(int(tokens[0, 0]))
    # 150 tokens are 3 streams of 49 and 3 to spare, of which the last is only a target
    assert seen == {
        0,
        1,
        2,
    }


def test_the_last_training_token_is_a_target_in_some_epoch() -> None:
    data = Counting()
    loader = data.train_dataloader()
    last = [
        int(together(list(loader))[1].max()) for epoch in range(12) if loader.sampler.set_epoch(epoch) is None
    ]  # type: ignore[attr-defined]
    assert max(last) == 149


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_every_validation_token_but_the_first_is_predicted_once(batch_size: int) -> None:
    tokens, targets = together(list(Counting(batch_size=batch_size).val_dataloader()))
    counted = targets != IGNORED
    assert sorted(targets[counted].tolist()) == list(range(151, 200))
    assert (targets[counted] == tokens[counted] + 1).all()


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_the_test_part_is_one_stream(chunk: int) -> None:
    batches = list(Counting(chunk=chunk).test_dataloader())
    tokens, targets = together(batches)
    assert tokens.tolist() == [list(range(200, 249))]
    assert targets.tolist() == [list(range(201, 250))]
    assert [bool(batch.reset) for batch in batches] == [True] + [False] * (len(batches) - 1)
    assert all(int(batch.first) % 7 == 0 for batch in batches)


def test_processes_share_the_streams() -> None:
    whole = list(Counting().train_dataloader())
    parts = []
    for rank in range(2):
        data = Counting()
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append(list(data.train_dataloader()))
        assert data.source_of(0) == f"counting, stream {rank}"
    for one, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(one.tokens[[0, 2, 1]], torch.cat([first.tokens, second.tokens]))
    data.trainer = SimpleNamespace(global_rank=0, world_size=4)  # type: ignore[assignment]
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(
            ConfigError, match="`batch_size` must give each of the 4 processes a stream; there are 3"
        ):
            loader()


def test_files_of_their_own_are_parts_of_their_own(tmp_path: Path) -> None:
    for name, text in {"a": "abcdefghij", "b": "klmnop", "c": "qrs"}.items():
        (tmp_path / name).write_text(text)
    options: dict[str, Any] = dict(unit="chars", batch_size=1, steps=2, validation=0.3, test=0.2)
    three = TextFile(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c"), **options)
    assert three.vocabulary.symbols[1:] == tuple("abcdefghij")
    assert ({part: len(tokens) for part, tokens in three.parts.tokens.items()}, three.parts.test) == (
        {"train": 10, "val": 6, "test": 3},
        "qrs",
    )
    two = TextFile(str(tmp_path / "a"), test_path=str(tmp_path / "c"), **options)
    assert two.vocabulary.decode(two.parts.tokens["train"]) == "abcdefg"
    assert (len(two.parts.tokens["val"]), two.parts.test) == (3, "qrs")
    assert two.parts.names == {"train": "a", "val": "a", "test": "c"}
    assert two.vocabulary.symbols[1:] == tuple("abcdefg")
    assert (two.parts.tokens["test"] == 0).all()


def test_characters_of_what_is_predicted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one two three\nfour five six\nseven eight nine ten\n")
    words = TextFile(str(tmp_path / "a"), unit="words", batch_size=1, steps=1, validation=0.2, test=0.5)
    assert words.parts.test == ["six", "<eos>", "seven", "eight", "nine", "ten", "<eos>"]
    assert [words.scored_characters(count) for count in range(7)] == [0, 1, 6, 12, 17, 21, 22]


def test_a_text_that_is_too_short_for_its_streams() -> None:
    with pytest.raises(
        DataError, match=r"counting: the train part must have at least 161 bytes; it has 150\. Lower"
    ):
        _ = Counting(batch_size=16, steps=10).parts
    with pytest.raises(DataError, match="counting: the val part must have at least 4 bytes; it has 3"):
        _ = Counting(validation=0.01).parts


def test_a_text_of_nothing_but_unknowns(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("<unk> " * 100)
    with pytest.raises(
        DataError, match="a: the train part must have words that are not the unknown one, <unk>; it has no"
    ):
        _ = TextFile(str(tmp_path / "a"), unit="words", batch_size=1, steps=2).parts


def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abcdefghij" * 9)
    with pytest.raises(DataError, match=r"gone: no such file\. Check `test_path`\."):
        _ = TextFile(str(tmp_path / "a"), test_path=str(tmp_path / "gone")).parts


def test_predicting_bytes_needs_no_text(tmp_path: Path) -> None:
    gone = TextFile(str(tmp_path / "gone"))
    gone.setup("predict")
    assert (gone.symbols, len(gone.vocabulary)) == (256, 256)
    assert len(list(gone.predict_dataloader())) == 1
    with pytest.raises(DataError, match="gone: no such file"):
        gone.setup("fit")


def test_the_documentation_of_python() -> None:
    data = PythonDocs()
    assert all(len(tokens) > 10_000 for tokens in data.parts.tokens.values())
    assert dict(data.describe())["text"].startswith("help topics of Python 3.")
    paragraphs = bytes(np.concatenate([data.parts.tokens[part] for part in ("train", "val", "test")])).split(
        b"\n\n"
    )
    assert len(paragraphs) == len(set(paragraphs))


@pytest.mark.data
def test_the_public_sets_are_cut_as_others_do() -> None:
    shakespeare = TinyShakespeare(unit="chars")
    assert len(shakespeare.parts.tokens["test"]) == 111_540
    assert sum(map(len, shakespeare.parts.tokens.values())) == 1_115_394
    assert shakespeare.vocabulary.decode(shakespeare.parts.tokens["val"][:13]) == "First Citizen"
    assert "PETRUCHIO" in shakespeare.vocabulary.decode(shakespeare.parts.tokens["train"][-22_000:])
    assert shakespeare.symbols == 66  # 65, and the unknown one
    words = WikiText2(unit="words")
    assert {part: len(tokens) for part, tokens in words.parts.tokens.items()} == {
        "train": 2_088_628,
        "val": 217_646,
        "test": 245_569,
    }
    assert words.symbols == 33_278
    assert len(list(islice(words.test_dataloader(), 2))) == 2
