"""Sequences that have one class each.

Shapes: N sequences of a batch, T steps of the longest, F features, V classes, I inputs: F, or 2 F with the
age of each value beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from dream.errors import DataError
from lightning_modules.checks import require, require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.columns import age, rows_since
from lightning_modules.data.dialect import Dialect
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.order import EpochOrder, loader, similar
from lightning_modules.data.schema import Schema, scales
from lightning_modules.data.series import Missing, Scaler, carry_forward, report_missing
from lightning_modules.data.split import spread, spread_groups
from lightning_modules.naive import nearest_mean

Part = Literal["train", "val", "test", "predict"]
UNKNOWN = -1
"""Number in the place of a class that is not known."""
STRETCHES = 16
"""Stretches of a sequence whose means the nearest mean compares."""
_RESTING = 1e-6  # deviation as a share of the size, below which a column only rounds


class WholeSequence(NamedTuple):
    """One sequence as it was read."""

    name: str
    values: np.ndarray
    """(T, F) float64 in the source's units, T of 1 or more; NaN where a value is missing"""
    label: str | None
    """Its class; None for one that is to be predicted"""
    part: Part | None = None
    """The part that the source has it in; None leaves that to the seed"""
    group: str = ""
    """Its subject; the sequences of one subject are all in the same part"""


class SequenceBatch(NamedTuple):
    """Sequences, padded to the longest."""

    inputs: Tensor
    """(N, T, I) float32, standardised, gaps filled; 0 past the end"""
    lengths: Tensor
    """(N,) int64 number of steps"""
    labels: Tensor
    """(N,) int64 class; `UNKNOWN` where it is asked"""
    names: list[str]
    """(N,) of the sequences"""
    observed: Tensor | None = None
    """(N, T, F) bool, False where a value is missing; None but for `missing: model`"""
    spare: bool = False
    """True if nothing in this batch counts: it keeps a process whose part of the batch is empty in step."""


@dataclass(frozen=True)
class SequenceShape:
    """Facts about sequences that a module is built from. The data set them; flags cannot."""

    inputs: int = 3
    """I"""
    classes: int = 6
    """V"""


class _Sample(NamedTuple):
    """One sequence as a model reads it."""

    inputs: Tensor
    """(T, I)"""
    observed: Tensor
    """(T, F)"""
    label: int
    name: str


class _Batches(Dataset[SequenceBatch]):
    """Batches of any samples of a part."""

    def __init__(self, data: SequenceData, part: Part) -> None:
        self.data = data
        self.part = part

    def __getitem__(self, numbers: list[int]) -> SequenceBatch:
        """Batch of the samples of these numbers; without any, a spare one."""
        samples = self.data.samples[self.part]
        return self.data.batch([samples[k] for k in numbers or [0]])._replace(spare=not numbers)


class SequenceData(TaskData, ABC):
    """Whole sequences of one class each, of any lengths.

    Columns are standardised by the mean and deviation of all steps of the training part; with `per_sequence`
    by those of each sequence, which removes level and scale, often the answer themselves. A sequence is in
    one part only. Where the source names no parts, `test` of the labelled sequences are the test part and
    `validation` of the others pick the best epoch: drawn by `seed`, spread evenly over the classes; of
    subjects, where sequences name theirs, whole ones, so that those of the test are new by then. Sequences
    without a label are in no part: ``dream predict`` labels them, or the test part if there are none.

    Args:
        per_sequence: Standardise each column of each sequence by itself.
        missing: Treatment of missing values: stop with an error (`error`), carry the last known value of the
            sequence forward (`ffill`), do so and show the model how old each value is (`mask`), or have DREAM
            read it as not observed, while a rival core reads the last known value (`model`). A column without
            any value in a sequence is at the mean of the training.
        validation: Share of the training sequences that picks the best epoch.
        test: Share of the sequences in the test part.
        seed: Seed of that choice, and of whatever the data draw at random.
        batch_size: Sequences in a batch, of all processes together.
    """

    for_own_files = "LabelledTable"

    def __init__(
        self,
        per_sequence: bool = False,
        missing: Literal["error", "ffill", "mask", "model"] = "error",
        validation: float = 0.2,
        test: float = 0.25,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        require("per_sequence", per_sequence, isinstance(per_sequence, bool), "true or false")
        require("missing", missing, missing in get_args(Missing), "error, ffill, mask or model")
        for name, share in (("validation", validation), ("test", test)):
            require(name, share, 0 < share < 1, "a share above 0 and below 1")
        self.per_sequence = per_sequence
        self.missing = missing
        self.validation = validation
        self.test = test
        self.seed = require_int("seed", seed, least=0)
        self.batch_size = require_int("batch_size", batch_size)

    @abstractmethod
    def read(self) -> Sequence[WholeSequence]:
        """The sequences, which have the columns `columns`."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the features, F."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Source of the sequences, for messages."""

    @cached_property
    def sequences(self) -> dict[Part, list[WholeSequence]]:
        """Sequences of each part, read once.

        Raises:
            DataError: a part is empty, a sequence is there twice, or a class has no training sequence.
        """
        found = list(self.read())
        if again := [name for name, times in Counter(one.name for one in found).items() if times > 1]:
            raise DataError(f"{self.source}: every sequence must be there once; {again[0]} is there twice.")
        parts: list[Part] = ["predict" if one.label is None else one.part or "train" for one in found]
        shares: dict[Part, float] = {"test": self.test, "val": self.validation}
        for part, share in shares.items():
            if part not in parts:
                for place in self._drawn(found, parts, share):
                    parts[place] = part
        made: dict[Part, list[WholeSequence]] = {part: [] for part in get_args(Part)}
        for one, part in zip(found, parts, strict=True):
            made[part].append(one)
        labelled = len(found) - len(made["predict"])
        if labelled:
            self._require_parts(made, labelled)
        elif self.recorded is None:
            raise DataError(f"{self.source}: no sequence has a label to learn. Name the column as `label`.")
        return made

    def _drawn(self, found: list[WholeSequence], parts: list[Part], share: float) -> list[int]:
        """Numbers of a share of the sequences that are in the training part."""
        open_ = [place for place, part in enumerate(parts) if part == "train"]
        labels = [str(found[place].label) for place in open_]
        if not open_:
            return []
        if not any(found[place].group for place in open_):
            chosen = spread([(label,) for label in labels], share, self.seed)
        else:
            chosen = spread_groups(labels, [found[place].group for place in open_], share, self.seed)
        return [open_[k] for k in chosen]

    def _require_parts(self, made: Mapping[Part, list[WholeSequence]], labelled: int) -> None:
        whose = "subjects" if any(one.group for one in made["train"]) else "sequences"
        for part in ("train", "val", "test"):
            if not made[part]:
                raise DataError(
                    f"{self.source}: the {part} part of its {labelled} labelled sequences is empty. Bring "
                    f"more {whose}."
                )
        if self.recorded is None:
            trained = {one.label for one in made["train"]}
            others = {one.label for part in ("val", "test") for one in made[part]}
            if lost := sorted(str(label) for label in others - trained):
                raise DataError(
                    f"{self.source}: every class must have a training sequence; {lost[0]} has none. Bring "
                    f"more {whose} of it, or lower `test` and `validation`."
                )

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return {part: content_sum([*map(list, found)]) for part, found in self.sequences.items() if found}

    @property
    def shape(self) -> SequenceShape:
        return SequenceShape(len(self.columns) * (2 if self.missing == "mask" else 1), len(self.vocabulary))

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        labels = {one.label for part in self.sequences.values() for one in part}
        found = sorted(label for label in labels if label is not None)
        if self.recorded is not None:
            known = tuple(self.recorded.vocabulary)
            if unknown := [name for name in found if name not in known]:
                raise DataError(
                    f"{self.source}: classes must be those that the checkpoint was trained on, "
                    f"{', '.join(known)}; unknown to it: {', '.join(unknown)}. Leave their sequences out, or "
                    "train again."
                )
            return known
        if len(found) < 2:
            raise DataError(
                f"{self.source}: at least two classes must occur; got {found}. Is `label` the column of "
                "classes?"
            )
        return tuple(found)

    @property
    def written(self) -> Dialect | None:
        """How the table is written; None for other sources."""
        return None

    @cached_property
    def schema(self) -> Schema:
        if self.recorded is not None:
            return self.recorded
        return Schema(
            columns={"features": self.columns},
            scales={} if self.scaler is None else scales(self.columns, self.scaler),
            vocabulary=list(self.vocabulary),
            dialect=None if self.written is None else self.written[:4],
            settings={"per_sequence": self.per_sequence},
        )

    def follow(self, schema: Schema | None) -> None:
        super().follow(schema)
        if self.recorded is not None:
            self.recorded.require_settings({"per_sequence": self.per_sequence}, self.source)

    @cached_property
    def scaler(self) -> Scaler | None:
        """Mean and deviation over the steps of the training part; None if each sequence has its own."""
        if self.per_sequence:
            return None
        if self.recorded is not None:
            return self.recorded.scaler(self.columns)
        return Scaler.fit(np.concatenate([one.values for one in self.sequences["train"]]), self.columns)

    @cached_property
    def samples(self) -> dict[Part, list[_Sample]]:
        """Sequences of each part as a model reads them."""
        numbers = {name: number for number, name in enumerate(self.vocabulary)}
        gaps = np.zeros(len(self.columns), dtype=np.int64)
        for one in (one for part in self.sequences.values() for one in part):
            gaps += np.isnan(one.values).sum(axis=0)
        report_missing(gaps, self.columns, self.source, self.missing)
        return {
            part: [
                _Sample(
                    self._inputs(one),
                    torch.from_numpy(~np.isnan(one.values)),
                    UNKNOWN if one.label is None else numbers[one.label],
                    one.name,
                )
                for one in found
            ]
            for part, found in self.sequences.items()
        }

    def _inputs(self, one: WholeSequence) -> Tensor:
        """(T, I) inputs of a sequence."""
        if self.scaler is None:
            values = by_itself(one.values)
        else:
            values = self.scaler.standardise(one.values, self.columns, f"{self.source}, sequence {one.name}")
        if np.isnan(values).any():
            values = np.nan_to_num(carry_forward(values))
        if self.missing == "mask":
            values = np.concatenate([values, age(rows_since(one.values))], axis=1)
        return torch.from_numpy(values.astype(np.float32))

    def batch(self, samples: Sequence[_Sample]) -> SequenceBatch:
        """Batch of samples, padded to the longest."""
        observed = [one.observed for one in samples]
        return SequenceBatch(
            pad_sequence([one.inputs for one in samples], batch_first=True),
            torch.tensor([len(one.inputs) for one in samples]),
            torch.tensor([one.label for one in samples]),
            [one.name for one in samples],
            pad_sequence(observed, batch_first=True) if self.missing == "model" else None,
        )

    def setup(self, stage: str | None = None) -> None:
        """Read and standardise the sequences; calling it again changes nothing."""
        super().setup(stage)
        _ = self.samples

    def _loader(self, part: Part, order: EpochOrder, shared: bool = True) -> DataLoader[SequenceBatch]:
        return loader(_Batches(self, part), order.shared(*self.share) if shared else order)

    def _lengths(self, part: Part) -> Callable[[int], int]:
        return lambda number: len(self.sequences[part][number].values)

    def _in_order(self, part: Part) -> EpochOrder:
        """Batches from the shortest sequences to the longest."""
        order = sorted(range(len(self.sequences[part])), key=self._lengths(part))
        batches = [order[k : k + self.batch_size] for k in range(0, len(order), self.batch_size)]
        return EpochOrder(len(batches), lambda _: batches.__getitem__)

    def train_dataloader(self) -> DataLoader[SequenceBatch]:
        count = len(self.sequences["train"])

        def drawn(generator: torch.Generator) -> list[int]:
            found: list[int] = torch.randperm(count, generator=generator).tolist()
            return found

        return self._loader("train", similar(count, drawn, self._lengths("train"), self.batch_size))

    def val_dataloader(self) -> DataLoader[SequenceBatch]:
        return self._loader("val", self._in_order("val"))

    def test_dataloader(self) -> DataLoader[SequenceBatch]:
        return self._loader("test", self._in_order("test"), shared=False)

    def predict_dataloader(self) -> DataLoader[SequenceBatch]:
        """Sequences without a label; the test part if all have one."""
        part: Part = "predict" if self.sequences["predict"] else "test"
        return self._loader(part, self._in_order(part), shared=False)

    def nearest_mean(self, batches: Sequence[SequenceBatch]) -> Tensor:
        """(N,) class of the nearest mean for each sequence of some batches, see `lightning_modules.naive`."""
        known = [one.inputs for one in self.samples["train"]]
        asked = [
            sample[:length]
            for batch in batches
            for sample, length in zip(batch.inputs, batch.lengths.tolist(), strict=True)
        ]
        means, places = (torch.stack([stretches(one) for one in part]) for part in (known, asked))
        return nearest_mean(means, torch.tensor([one.label for one in self.samples["train"]]), places)

    def rows_of(self, batch: SequenceBatch) -> Tensor:
        return batch.lengths.new_tensor([[0, batch.inputs.shape[1] - 1]]).expand(len(batch.lengths), 2)

    def source_of(self, sample: int) -> str:
        return self.source

    def sources(self, batch: SequenceBatch) -> Callable[[int], str]:
        return batch.names.__getitem__

    def describe(self) -> list[tuple[str, str]]:
        found = [one for part in self.sequences.values() for one in part]
        lengths = [len(one.values) for one in found]
        subjects = len({one.group for one in found} - {""})
        of = f" of {subjects} subjects" if subjects else ""
        return [
            ("source", self.source),
            ("sequences", f"{len(found)}{of}, {min(lengths)} to {max(lengths)} steps"),
            ("features", ", ".join(self.columns)),
            ("standardised", "each sequence by itself" if self.per_sequence else "by the training part"),
            ("classes", ", ".join(self.vocabulary)),
            *(
                ("to be labelled" if part == "predict" else part, f"{len(own)} sequences")
                for part, own in self.sequences.items()
                if own
            ),
        ]


def by_itself(values: np.ndarray) -> np.ndarray:
    """`values` (T, F) standardised by their own mean and deviation, NaN left out; 0 where a column rests."""
    known = ~np.isnan(values)
    count = known.sum(axis=0).clip(1)
    centred = values - np.where(known, values, 0.0).sum(axis=0) / count
    deviation = np.sqrt((np.where(known, centred, 0.0) ** 2).sum(axis=0) / count)
    size = np.where(known, np.abs(values), 0.0).max(axis=0)
    return centred / np.where(deviation > _RESTING * size, deviation, 1.0)


def stretches(values: Tensor) -> Tensor:
    """(16 F,) means of `values` (T, F) over 16 stretches of equal length, which overlap where T is less."""
    return adaptive_avg_pool1d(values.T, STRETCHES).flatten()
