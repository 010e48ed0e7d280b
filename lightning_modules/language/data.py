"""Text to predict token by token: lanes of it side by side to train on, the test text as one stream.

Shapes: N lanes, T tokens of a chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.data.base import TaskData, require_int
from lightning_modules.data.order import EpochOrder, loader, one_by_one
from lightning_modules.language.vocabulary import Pieces, Unit, Vocabulary, characters, cut, require_unit

IGNORED = -1
"""A target that does not count."""


class TextBatch(NamedTuple):
    """One chunk of every lane: row i goes on where row i of the batch before ended."""

    tokens: Tensor
    """(N, T) int64, what is read."""
    targets: Tensor
    """(N, T) int64, the token after each of them; `IGNORED` where there is none."""
    reset: Tensor
    """(N,) bool, True where a lane begins."""
    first: Tensor
    """(N,) int64, where in the part the chunk begins."""


class Text(NamedTuple):
    """A text as its source has it."""

    name: str
    content: bytes


class Parts(NamedTuple):
    """A text that is cut into parts."""

    vocabulary: Vocabulary
    """Of the training part."""
    tokens: dict[str, np.ndarray]
    """Of `train`, `val` and `test`, each of its own length."""
    test: Pieces
    """The test part as it is written."""
    names: dict[str, str]
    """Where each part comes from."""


class Lanes(Dataset[TextBatch]):
    """Chunks of equally long lanes of a text. Items are numbered phase by phase; in phase p all lies p tokens
    later.

    Args:
        tokens: The text.
        lanes: N, its number of lanes.
        length: Tokens that a lane reads; a lane that reaches beyond the text ends with tokens that do not
            count.
        steps: Tokens in a chunk; the last may be shorter.
        share: Of W processes, number r takes the lanes r, r + W, ...
    """

    def __init__(
        self, tokens: np.ndarray, lanes: int, length: int, steps: int, share: tuple[int, int]
    ) -> None:
        rank, world = share
        self.tokens, self.length, self.steps = tokens, length, steps
        self.starts = np.arange(rank, lanes, world) * length
        self.chunks = -(-length // steps)
        self.phases = max(len(tokens) - lanes * length, 1)

    def __len__(self) -> int:
        return self.phases * self.chunks

    def __getitem__(self, index: int) -> TextBatch:
        """The next tokens of every lane."""
        phase, chunk = divmod(range(len(self))[index], self.chunks)
        count = min(self.steps, self.length - chunk * self.steps)
        first = self.starts + phase + chunk * self.steps
        places = first[:, None] + np.arange(count + 1)
        held = torch.from_numpy(self.tokens[places.clip(max=len(self.tokens) - 1)].astype(np.int64))
        targets = held[:, 1:].masked_fill(torch.from_numpy(places[:, 1:] >= len(self.tokens)), IGNORED)
        reset = torch.full((len(first),), chunk == 0)
        return TextBatch(held[:, :-1], targets, reset, torch.from_numpy(first))


@dataclass(frozen=True)
class LanguageShape:
    """Facts about a text that a module is built from."""

    symbols: int = 256
    """V, the number of different tokens."""


class LanguageData(TaskData, ABC):
    """A text in a training, a validation and a test part, read token by token with carried state.

    The training part is read as `batch_size` lanes side by side, `steps` tokens in a batch; lanes and borders
    of batches lie elsewhere in each epoch, as far as the tokens that do not fill a batch allow. The
    validation part is read as `batch_size` lanes, the test part as one stream from its first token to its
    last, both from a fresh state. Of either part every token but the first is predicted, once.

    Args:
        unit: What a token is: a byte of any file, a character (`chars`), or a word.
        vocabulary_size: Of words: keep so many, the most frequent ones, and read all others as `<unk>`; all
            if not given.
        batch_size: Lanes, read side by side.
        steps: Tokens between two gradient steps: how far gradients reach back.
        chunk: Tokens read at once in the test, `steps` at least; results do not depend on it.
        validation: Share of the text, before the test part, that picks the best epoch; unused where that is
            another text.
        test: Share of the text, its end, that is tested; unused where that is another text.
    """

    for_own_files = "TextFile"

    def __init__(
        self,
        unit: Unit = "bytes",
        vocabulary_size: int | None = None,
        batch_size: int = 32,
        steps: int = 100,
        chunk: int = 4096,
        validation: float = 0.05,
        test: float = 0.1,
    ) -> None:
        super().__init__()
        self.unit = require_unit(unit)
        if vocabulary_size is not None:
            require_int("vocabulary_size", vocabulary_size, 2)
            if unit != "words":
                raise ConfigError(
                    f"`vocabulary_size` is for words; `unit` is {unit}. Leave it out.", key="vocabulary_size"
                )
        self.vocabulary_size = vocabulary_size
        self.batch_size = require_int("batch_size", batch_size)
        self.steps = require_int("steps", steps)
        self.chunk = require_int("chunk", chunk)
        for name, share in (("validation", validation), ("test", test)):
            if not 0 < share < 1:
                raise ConfigError(f"`{name}` must be a share above 0 and below 1; got {share!r}.", key=name)
        if validation + test >= 1:
            raise ConfigError(
                f"`validation` and `test` must leave something to train on; they are {validation:g} and "
                f"{test:g}.",
                key="test",
            )
        self.validation, self.test = validation, test

    @abstractmethod
    def read(self) -> Mapping[str, Text]:
        """Reads the text `train`, and `val` and `test` where they are texts of their own; otherwise `train`
        is cut."""

    @cached_property
    def parts(self) -> Parts:
        """As read.

        Raises:
            DataError: a text cannot be read, or a part is too short.
        """
        texts = self.read()
        pieces = {part: cut(self.unit, text.content, text.name) for part, text in texts.items()}
        whole, left = pieces["train"], 1.0
        for part, share in (("test", self.test), ("val", self.validation)):
            if part not in pieces:
                stop, left = int(left * len(whole)), left - share
                pieces[part] = whole[int(left * len(whole)) : stop]
        pieces["train"] = whole[: int(left * len(whole))]
        names = {part: texts.get(part, texts["train"]).name for part in pieces}
        least = {"train": self.batch_size * self.steps + 1, "val": self.batch_size + 1, "test": 2}
        for part, count in least.items():
            if len(pieces[part]) < count:
                raise DataError(
                    f"{names[part]}: the {part} part must have at least {count} {self.unit}; it has "
                    f"{len(pieces[part])}. Lower `batch_size` or `steps`, or take a longer text."
                )
        vocabulary = Vocabulary.of(self.unit, pieces["train"], self.vocabulary_size)
        if len(vocabulary) < 2:
            raise DataError(
                f"{names['train']}: the train part must have {self.unit} that are not the unknown one, "
                f"{vocabulary.symbols[0]}; it has no other. Take another text."
            )
        tokens = {part: vocabulary.encode(held) for part, held in pieces.items()}
        return Parts(vocabulary, tokens, pieces["test"], names)

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the training part; of bytes, which need no text, all 256."""
        return Vocabulary(self.unit) if self.unit == "bytes" else self.parts.vocabulary

    @property
    def shape(self) -> LanguageShape:
        return LanguageShape(self.symbols)

    @property
    def symbols(self) -> int:
        """How many symbols there are."""
        return len(self.vocabulary)

    def scored_characters(self, count: int) -> int:
        """Characters of the first `count` tokens of the test part that are predicted, which begin with its
        second one."""
        pieces = self.parts.test
        return characters(self.unit, pieces[: count + 1]) - characters(self.unit, pieces[:1])

    def setup(self, stage: str | None = None) -> None:
        """Reads the text, but for predictions; calling it again changes nothing."""
        if stage != "predict":
            _ = self.parts

    def train_dataloader(self) -> DataLoader[TextBatch]:
        self.require_streams("batch_size", self.batch_size)
        tokens = self.parts.tokens["train"]
        per_lane = (len(tokens) - 1) // (self.batch_size * self.steps) * self.steps
        lanes = Lanes(tokens, self.batch_size, per_lane, self.steps, self.share)

        def one_phase(generator: torch.Generator) -> Callable[[int], int]:
            first = int(torch.randint(lanes.phases, (), generator=generator)) * lanes.chunks
            return lambda number: first + number

        return loader(lanes, EpochOrder(lanes.chunks, one_phase))

    def val_dataloader(self) -> DataLoader[TextBatch]:
        self.require_streams("batch_size", self.batch_size)
        tokens = self.parts.tokens["val"]
        per_lane = -(-(len(tokens) - 1) // self.batch_size)
        lanes = Lanes(tokens, self.batch_size, per_lane, self.steps, self.share)
        return loader(lanes, one_by_one(lanes.chunks))

    def test_dataloader(self) -> DataLoader[TextBatch]:
        tokens = self.parts.tokens["test"]
        whole = max(self.chunk // self.steps, 1) * self.steps
        lanes = Lanes(tokens, 1, len(tokens) - 1, whole, (0, 1))
        return loader(lanes, one_by_one(lanes.chunks))

    def predict_dataloader(self) -> DataLoader[TextBatch]:
        """One batch, of nothing: what is written begins with `model.sampling.prompt`, and needs no text."""
        return loader(Lanes(np.zeros(1, np.uint8), 1, 1, 1, (0, 1)), one_by_one(1))

    def rows_of(self, batch: TextBatch) -> Tensor:
        return torch.stack([batch.first, batch.first + batch.tokens.shape[1] - 1], 1)

    def source_of(self, row: int) -> str:
        rank, world = self.share
        return f"{self.parts.names['train']}, lane {rank + row * world}"

    def describe(self) -> list[tuple[str, str]]:
        """What a person wants to know before training, as (name, text) rows."""
        parts = self.parts
        counts = {part: len(tokens) for part, tokens in parts.tokens.items()}
        unknown = self.vocabulary.unknown
        missed = 0.0 if unknown is None else float((parts.tokens["test"] == unknown).mean())
        return [
            ("text", ", ".join(dict.fromkeys(parts.names[part] for part in ("train", "val", "test")))),
            (
                "tokens",
                f"{self.unit}: {counts['train']} to train on, {counts['val']} to validate, {counts['test']} "
                "to test",
            ),
            (
                "vocabulary",
                f"{self.symbols} symbols" + (f", {missed:.2%} of the test part unknown" if missed else ""),
            ),
            ("lanes", f"{self.batch_size}, {self.steps} tokens in a batch"),
        ]
