"""Labelled sequences, whose labels are also inputs some steps late.

Shapes: N sequences of a batch, T steps of the longest, F features, V classes, I inputs: F, or F + V with late
labels; M examples of a class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.checks import require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.order import EpochOrder, drawn, in_order, loader
from lightning_modules.data.schema import Schema
from lightning_modules.naive import late

Part = Literal["train", "val", "test"]
UNKNOWN = -1
"""Label of a step whose class is not asked."""
_SEEDS = 1 << 62  # of training sequences


class LabelledSequence(NamedTuple):
    """One sequence."""

    features: Tensor
    """(T, F) float32"""
    labels: Tensor
    """(T,) int64 class of each step; `UNKNOWN` where it is not asked"""
    name: str


class ClassificationBatch(NamedTuple):
    """Sequences, padded to the longest."""

    inputs: Tensor
    """(N, T, I) float32 features, then one-hot the label of `label_delay` steps before; 0 past the end"""
    labels: Tensor
    """(N, T) int64 class of each step; `UNKNOWN` where it is not asked, and past the end"""
    names: list[str]
    """(N,) of the sequences"""
    lengths: Tensor | None = None
    """(N,) int64 number of steps; None if all have T"""
    spare: bool = False
    """True if nothing in this batch counts: it keeps a process whose part of the batch is empty in step."""


@dataclass(frozen=True)
class ClassificationShape:
    """Facts about labelled sequences that a module is built from. The data set them; flags cannot."""

    features: int = 16
    """F"""
    classes: int = 5
    """V"""
    label_delay: int | None = 1
    """Steps after which the label of a step is an input; None if labels are no inputs."""

    @property
    def inputs(self) -> int:
        """I"""
        return self.features + (0 if self.label_delay is None else self.classes)


class _Batches(Dataset[ClassificationBatch]):
    """Batches of any sequences of a part."""

    def __init__(self, data: ClassificationData, part: Part) -> None:
        self.data = data
        self.part = part

    def __getitem__(self, keys: list[int]) -> ClassificationBatch:
        """Batch of these sequences; without any, a spare one."""
        found = [self.data.sequence(self.part, key) for key in keys or [0]]
        return self.data.batch(found)._replace(spare=not keys)


class ClassificationData(TaskData, ABC):
    """Sequences with a class for each step.

    The label of a step is known `label_delay` steps later, and an input from then on: of that later step, as
    a one-hot vector beside its features. So a model can learn within a sequence which class is which.

    Args:
        label_delay: Steps after which the label of a step is an input, 1 or more; null if labels are no
            inputs.
        batch_size: Sequences in a batch, of all processes together.
        seed: Seed of whatever the data draw at random.
        num_workers: Processes that prepare batches; 0 prepares them in the main process.
    """

    for_own_files = "SequenceTable"
    ordered: ClassVar[bool] = True
    """Whether steps follow each other in time, so that the label before tells something."""

    def __init__(
        self,
        label_delay: int | None = 1,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.label_delay = label_delay if label_delay is None else require_int("label_delay", label_delay)
        self.batch_size = require_int("batch_size", batch_size)
        self.seed = require_int("seed", seed, least=0)
        self.num_workers = require_int("num_workers", num_workers, least=0)

    @property
    @abstractmethod
    def source(self) -> str:
        """Source of the sequences, for messages."""

    @property
    @abstractmethod
    def features(self) -> int:
        """F, number of features of a step."""

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""

    @abstractmethod
    def order(self, part: Part) -> EpochOrder:
        """Order of the sequences of a part in an epoch: lists of keys of `sequence`, in training drawn anew
        for each epoch."""

    @abstractmethod
    def sequence(self, part: Part, key: int) -> LabelledSequence:
        """The sequence of a part that `key` names: the same one each time."""

    @property
    def shape(self) -> ClassificationShape:
        return ClassificationShape(self.features, len(self.vocabulary), self.label_delay)

    @cached_property
    def schema(self) -> Schema:
        return self.recorded or Schema(vocabulary=list(self.vocabulary), settings=dict(self.readings))

    @property
    def readings(self) -> Mapping[str, Any]:
        """Settings that decide what the inputs of a step mean."""
        return {"label_delay": self.label_delay}

    def follow(self, schema: Schema | None) -> None:
        super().follow(schema)
        if self.recorded is not None:
            self.recorded.require_settings(self.readings, self.source)

    def batch(self, sequences: Sequence[LabelledSequence]) -> ClassificationBatch:
        """Batch of sequences, padded to the longest."""
        features = pad_sequence([part.features for part in sequences], batch_first=True)
        labels = pad_sequence([part.labels for part in sequences], batch_first=True, padding_value=UNKNOWN)
        lengths = torch.tensor([len(part.labels) for part in sequences])
        even = bool((lengths == labels.shape[1]).all())
        if self.label_delay is not None:
            vectors = one_hot(labels.clamp_min(0), len(self.vocabulary)) * (labels != UNKNOWN).unsqueeze(-1)
            past_end = torch.arange(labels.shape[1]) >= lengths.unsqueeze(1)
            known = late(vectors.float(), self.label_delay).masked_fill(past_end.unsqueeze(-1), 0.0)
            features = torch.cat([features, known], -1)
        names = [part.name for part in sequences]
        return ClassificationBatch(features, labels, names, None if even else lengths)

    def _loader(self, part: Part, shared: bool = True) -> DataLoader[ClassificationBatch]:
        order = self.order(part)
        if shared:
            order = order.shared(*self.share)
        return loader(_Batches(self, part), order, self.num_workers)

    def train_dataloader(self) -> DataLoader[ClassificationBatch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[ClassificationBatch]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[ClassificationBatch]:
        return self._loader("test", shared=False)

    def predict_dataloader(self) -> DataLoader[ClassificationBatch]:
        """The test part."""
        return self._loader("test", shared=False)

    def rows_of(self, batch: ClassificationBatch) -> Tensor:
        return batch.labels.new_tensor([[0, batch.labels.shape[1] - 1]]).expand(len(batch.labels), 2)

    def source_of(self, sample: int) -> str:
        return self.source

    def sources(self, batch: ClassificationBatch) -> Callable[[int], str]:
        return batch.names.__getitem__


class EpisodeData(ClassificationData):
    """Sequences that draw their own classes from a pool, and number them anew: which number means what is to
    be learnt within each sequence.

    A sequence holds `ways` classes with `shots` examples each, in random order. Validation and test draw from
    classes of their own, which training never sees, and are the same sequences each time.

    Args:
        ways: Classes in a sequence.
        shots: Examples of each.
        episodes: Training sequences in an epoch.
        validation_episodes: Sequences of the validation.
        test_episodes: Sequences of the test.
    """

    ordered = False

    def __init__(
        self,
        ways: int = 5,
        shots: int = 10,
        episodes: int = 1600,
        validation_episodes: int = 200,
        test_episodes: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if self.label_delay is None:
            raise ConfigError(
                "`label_delay` must be given where each sequence draws its own classes; got None. Without "
                "labels nothing tells which class is which.",
                key="label_delay",
            )
        self.ways = require_int("ways", ways, least=2)
        self.shots = require_int("shots", shots)
        counts = {"episodes": episodes, "validation_episodes": validation_episodes}
        counts["test_episodes"] = test_episodes
        self.counts: dict[Part, int] = {
            part: require_int(name, count)
            for part, (name, count) in zip(get_args(Part), counts.items(), strict=True)
        }

    @abstractmethod
    def read(self) -> Mapping[Part, list[np.ndarray]]:
        """The classes of each part, each its examples (M, F), float32."""

    @cached_property
    def pool(self) -> Mapping[Part, list[np.ndarray]]:
        """Classes of each part, read once.

        Raises:
            DataError: a part has fewer classes, or a class fewer examples, than a sequence draws.
        """
        found = self.read()
        for part, classes in found.items():
            least = min((len(examples) for examples in classes), default=0)
            for name, there, wanted in (("ways", len(classes), self.ways), ("shots", least, self.shots)):
                if there < wanted:
                    what = "classes" if name == "ways" else "examples of a class"
                    raise DataError(
                        f"{self.source}: a sequence draws {wanted} {what}; the {part} part has {there}. "
                        f"Lower `{name}`."
                    )
        return found

    @cached_property
    def fingerprint(self) -> Fingerprint:
        drawn_by = [self.ways, self.shots, self.seed]
        return {
            part: content_sum([classes, drawn_by, self.counts[part]]) for part, classes in self.pool.items()
        }

    @property
    def features(self) -> int:
        return int(self.pool["train"][0].shape[1])

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(1, self.ways + 1))

    def setup(self, stage: str | None = None) -> None:
        """Read the pool; calling it again changes nothing."""
        super().setup(stage)
        _ = self.pool

    def order(self, part: Part) -> EpochOrder:
        if part == "train":
            return drawn(_SEEDS, self.counts[part], self.batch_size)
        return in_order(self.counts[part], self.batch_size)

    def sequence(self, part: Part, key: int) -> LabelledSequence:
        random = np.random.default_rng([self.seed, get_args(Part).index(part), key])
        classes = self.pool[part]
        chosen = random.choice(len(classes), self.ways, replace=False)
        examples = np.concatenate(
            [classes[k][random.choice(len(classes[k]), self.shots, replace=False)] for k in chosen]
        )
        order = random.permutation(len(examples))
        labels = np.repeat(np.arange(self.ways), self.shots)[order]
        return LabelledSequence(
            torch.from_numpy(examples[order]),
            torch.from_numpy(labels),
            f"{self.source}, {part} sequence {key}",
        )

    def describe(self) -> list[tuple[str, str]]:
        counts = {part: len(classes) for part, classes in self.pool.items()}
        return [
            ("source", self.source),
            ("classes", ", ".join(f"{count} {part}" for part, count in counts.items())),
            (
                "a sequence",
                f"{self.ways} classes, numbered anew, {self.shots} examples of each in random order",
            ),
            ("features", str(self.features)),
            ("labels", f"known {self.label_delay} steps late"),
            *(
                (part, f"{count} sequences" + (", drawn anew each epoch" if part == "train" else ""))
                for part, count in self.counts.items()
            ),
        ]
