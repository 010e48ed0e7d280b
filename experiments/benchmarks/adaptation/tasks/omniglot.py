"""One-shot classes that are real: handwritten characters of alphabets that training never saw.

A sequence is five characters, ten drawings of each, shuffled, with class numbers of its own; the label of a
drawing is an input one step later. Data and protocol are those of ``dream fit -c omniglot``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from dream import DREAMConfig
from experiments.benchmarks.adaptation.baselines import guessed
from experiments.benchmarks.adaptation.protocol import (
    BASELINE,
    Batch,
    Metric,
    Predictor,
    Scores,
    SequenceTask,
)
from lightning_modules.classification import Omniglot as Drawings
from lightning_modules.classification.data import Part
from lightning_modules.classification.metrics import by_instance, instances
from lightning_modules.naive import nearest_labelled, nearest_mean_so_far

FEATURES, WAYS, SHOTS = 64, 5, 10
BATCH = 32
SEQUENCES = {"validation": 200, "test": 1000}
SHOWN = {"1st instance": 1, "2nd instance": 2, "5th instance": 5, "10th instance": 10}


class Omniglot(SequenceTask):
    name = "omniglot"
    group = "new subjects, real"
    title = "one-shot Omniglot, accuracy"
    config = DREAMConfig.preset("fast_adaptation", input_dim=FEATURES + WAYS, hidden_dim=128, rank=8)
    classes = WAYS
    steps = 1500
    metrics = (
        Metric("mean", higher=True, bar=0.65),
        *(Metric(name, higher=True, beats=(BASELINE,) if at == 2 else ()) for name, at in SHOWN.items()),
    )
    axis, positions = "drawing of a character", tuple(range(1, SHOTS + 1))

    @cached_property
    def drawings(self) -> Drawings:
        """Sequences of this seed."""
        return Drawings(components=FEATURES, ways=WAYS, shots=SHOTS, seed=self.seed)

    def setup(self) -> None:
        self.drawings.setup()

    def batch_of(self, part: Part, keys: Sequence[int]) -> Batch:
        """Batch of the sequences that `keys` name."""
        drawn = self.drawings.batch([self.drawings.sequence(part, key) for key in keys])
        return Batch(drawn.inputs, drawn.labels)

    def train_batch(self, random: torch.Generator) -> Batch:
        return self.batch_of("train", torch.randint(2**62, (BATCH,), generator=random).tolist())

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        parts: dict[str, Part] = {"validation": "val", "test": "test"}
        return [self.batch_of(parts[part], range(SEQUENCES[part]))]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        labels = batches[0].targets
        right = (predictions[0].argmax(-1) == labels).flatten().numpy()
        shares = by_instance(right, instances(labels, WAYS).flatten().numpy()).tolist()
        values = {name: shares[at - 1] for name, at in SHOWN.items()}
        return Scores({"mean": float(right.mean()), **values}, shares)

    def baselines(self) -> dict[str, Predictor]:
        """Nearest drawing and nearest mean, on the features and on components that are not scaled."""
        return {
            "nearest neighbour": partial(self.nearest_neighbour, torch.ones(FEATURES)),
            "nearest mean": partial(self.nearest_means, torch.ones(FEATURES)),
            "nearest neighbour, unscaled": partial(self.nearest_neighbour, self.deviations),
            "nearest mean, unscaled": partial(self.nearest_means, self.deviations),
        }

    @property
    def deviations(self) -> Tensor:
        """(F,) deviations by which components were divided."""
        self.setup()
        return torch.from_numpy(self.drawings.deviations)

    @staticmethod
    def nearest_neighbour(scale: Tensor, batch: Batch) -> Tensor:
        """Log probabilities of the class of the nearest drawing before."""
        return guessed(nearest_labelled(batch.inputs[..., :FEATURES] * scale, batch.targets), WAYS)

    @staticmethod
    def nearest_means(scale: Tensor, batch: Batch) -> Tensor:
        """Log probabilities of the class with the nearest mean before."""
        return guessed(nearest_mean_so_far(batch.inputs[..., :FEATURES] * scale, batch.targets, WAYS), WAYS)
