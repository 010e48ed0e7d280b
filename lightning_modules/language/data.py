"""Text to predict token by token: several streams side by side to train on, the test text as a single one.

Shapes: N streams, T tokens of a chunk.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import CheckpointError, ConfigError, DataError
from lightning_modules.checks import require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.order import EpochOrder, loader, one_by_one
from lightning_modules.data.schema import Schema
from lightning_modules.language.vocabulary import Pieces, Unit, Vocabulary, characters, cut, require_unit

IGNORED = -1
"""A target that does not count."""


class TextBatch(NamedTuple):
    """One chunk of every stream: sample i continues sample i of the batch before."""

    tokens: Tensor
    """(N, T) int64 tokens to read."""
    targets: Tensor
    """(N, T) int64 token after each of them; `IGNORED` if there is none."""
    reset: Tensor
    """(N,) bool, True where a stream begins."""
    first: Tensor
    """(N,) int64 position of the chunk's first token in its part of the text."""


class Text(NamedTuple):
    """A text with the name of its source."""

    name: str
    content: bytes


class Parts(NamedTuple):
    """A text that is cut into parts."""

    vocabulary: Vocabulary
    """Vocabulary of the training part."""
    tokens: dict[str, np.ndarray]
    """Tokens of `train`, `val` and `test`, each of its own length."""
    test: Pieces
    """The test part as it is written."""
    names: dict[str, str]
    """Source of each part."""


class TextStreams(Dataset[TextBatch]):
    """Chunks of a text that is cut into equally long streams.

    Items are numbered phase by phase; in phase p all streams start p tokens later.

    Args:
        tokens: The text.
        streams: N, number of streams.
        length: Tokens that a stream reads; one that reaches beyond the text ends with tokens that do not
            count.
        steps: Tokens in a chunk; the last may be shorter.
        share: Rank r and number W of the processes: this one reads the streams r, r + W, ...
    """

    def __init__(
        self, tokens: np.ndarray, streams: int, length: int, steps: int, share: tuple[int, int]
    ) -> None:
        rank, world = share
        self.tokens = tokens
        self.length = length
        self.steps = steps
        self.starts = np.arange(rank, streams, world) * length
        self.chunks = -(-length // steps)
        self.phases = max(len(tokens) - streams * length, 1)

    def __len__(self) -> int:
        return self.phases * self.chunks

    def __getitem__(self, index: int) -> TextBatch:
        """Chunk `index` of every stream."""
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
    """Facts about a text that a module is built from. The data set them; flags cannot."""

    symbols: int = 256
    """V, number of different tokens."""


class LanguageData(TaskData, ABC):
    """A text in a training, a validation and a test part, read token by token with carried state.

    The training part is read as `batch_size` streams side by side, `steps` tokens in a batch; streams and
    borders of batches start elsewhere in each epoch, as far as the tokens that do not fill a batch allow. The
    validation part is read as `batch_size` streams, the test part as one stream from its first token to its
    last, both from a fresh state. Every token but the first of either part is predicted once.

    Args:
        unit: Kind of the tokens: bytes of any file (`bytes`), characters (`chars`) or words (`words`).
        vocabulary_size: Size of a vocabulary of words: the most frequent ones, and `<unk>` for all others;
            every word if not given.
        batch_size: Streams that are read side by side, by all processes together.
        steps: Tokens between two gradient steps, which is how far gradients reach back.
        chunk: Tokens read at once in the test, at least `steps`; results do not depend on it.
        validation: Share of the text, before the test part, that picks the best epoch; unused if the
            validation part is a text of its own.
        test: Share of the text, at its end, that is tested; unused if the test part is a text of its own.
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
        self.validation = validation
        self.test = test

    @abstractmethod
    def read(self) -> Mapping[str, Text]:
        """Read the text `train`, and `val` and `test` if they are texts of their own; else `train` is cut."""

    @cached_property
    def parts(self) -> Parts:
        """Parts of the text, read once.

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
                    f"{len(pieces[part])}. {self._remedy(part, len(pieces[part]), count, len(whole), texts)}"
                )
        vocabulary = Vocabulary.of(self.unit, pieces["train"], self.vocabulary_size)
        if self.recorded is not None and vocabulary != self.vocabulary:
            raise CheckpointError(
                f"the checkpoint knows {len(self.vocabulary)} {self.unit}, which are not the "
                f"{len(vocabulary)} {self.unit} of the training text here. Name the text it was trained on, "
                "or train anew."
            )
        if len(vocabulary) < 2:
            raise DataError(
                f"{names['train']}: the train part must have {self.unit} that are not the unknown one, "
                f"{vocabulary.symbols[0]}; it has no other. Take another text."
            )
        tokens = {part: vocabulary.encode(held) for part, held in pieces.items()}
        return Parts(vocabulary, tokens, pieces["test"], names)

    def _remedy(self, part: str, there: int, least: int, whole: int, texts: Mapping[str, Text]) -> str:
        """Settings that make a part of a text long enough, if any do."""
        if part == "train" and there > 1:
            return f"Lower `batch_size` times `steps` to at most {there - 1}, or take a longer text."
        if part == "val" and there > 1:
            return f"Lower `batch_size` to at most {there - 1}, or take a longer text."
        share = math.ceil(100 * (least + 1) / max(whole, 1)) / 100
        if part == "train" or part in texts or share > 0.3:
            return "Take a longer text."
        return f"Set `{'test' if part == 'test' else 'validation'}` to {share:g}, or take a longer text."

    @cached_property
    def fingerprint(self) -> Fingerprint:
        parts = self.parts
        # as it is written, since the characters of unknown words count
        test = " ".join(parts.test) if isinstance(parts.test, list) else parts.test
        return {
            "vocabulary": content_sum(parts.vocabulary.symbols),
            "train": content_sum(parts.tokens["train"]),
            "val": content_sum(parts.tokens["val"]),
            "test": content_sum(test),
        }

    @property
    def vocabulary(self) -> Vocabulary:
        """Symbols of the training part; without reading a text those of the schema that is followed, or for
        bytes all 256."""
        if self.recorded is not None:
            return Vocabulary.from_plain(self.recorded.vocabulary)
        return Vocabulary(self.unit) if self.unit == "bytes" else self.parts.vocabulary

    @cached_property
    def schema(self) -> Schema:
        return self.recorded or Schema(vocabulary=self.vocabulary.plain(), settings={"unit": self.unit})

    def follow(self, schema: Schema | None) -> None:
        super().follow(schema)
        if self.recorded is not None:
            self.recorded.require_settings({"unit": self.unit}, "the data")

    @property
    def shape(self) -> LanguageShape:
        return LanguageShape(self.symbols)

    @property
    def symbols(self) -> int:
        """Number of symbols."""
        return len(self.vocabulary)

    def scored_characters(self, count: int) -> int:
        """Characters of the first `count` predicted tokens of the test part, from its second token on."""
        pieces = self.parts.test
        return characters(self.unit, pieces[: count + 1]) - characters(self.unit, pieces[:1])

    def setup(self, stage: str | None = None) -> None:
        """Read the text, except for predictions; calling it again changes nothing."""
        super().setup(stage)
        if stage != "predict":
            _ = self.parts

    def train_dataloader(self) -> DataLoader[TextBatch]:
        self.require_streams("batch_size", self.batch_size)
        tokens = self.parts.tokens["train"]
        per_stream = (len(tokens) - 1) // (self.batch_size * self.steps) * self.steps
        streams = TextStreams(tokens, self.batch_size, per_stream, self.steps, self.share)

        def one_phase(generator: torch.Generator) -> Callable[[int], int]:
            first = int(torch.randint(streams.phases, (), generator=generator)) * streams.chunks
            return lambda number: first + number

        return loader(streams, EpochOrder(streams.chunks, one_phase))

    def val_dataloader(self) -> DataLoader[TextBatch]:
        self.require_streams("batch_size", self.batch_size)
        tokens = self.parts.tokens["val"]
        per_stream = -(-(len(tokens) - 1) // self.batch_size)
        streams = TextStreams(tokens, self.batch_size, per_stream, self.steps, self.share)
        return loader(streams, one_by_one(streams.chunks))

    def test_dataloader(self) -> DataLoader[TextBatch]:
        tokens = self.parts.tokens["test"]
        whole = max(self.chunk // self.steps, 1) * self.steps
        streams = TextStreams(tokens, 1, len(tokens) - 1, whole, (0, 1))
        return loader(streams, one_by_one(streams.chunks))

    def predict_dataloader(self) -> DataLoader[TextBatch]:
        """One empty batch: a generated text begins with `model.sampling.prompt`, and needs no data."""
        return loader(TextStreams(np.zeros(1, np.uint8), 1, 1, 1, (0, 1)), one_by_one(1))

    def rows_of(self, batch: TextBatch) -> Tensor:
        return torch.stack([batch.first, batch.first + batch.tokens.shape[1] - 1], 1)

    def source_of(self, sample: int) -> str:
        rank, world = self.share
        return f"{self.parts.names['train']}, stream {rank + sample * world}"

    def describe(self) -> list[tuple[str, str]]:
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
            ("streams", f"{self.batch_size}, {self.steps} tokens in a batch"),
        ]
