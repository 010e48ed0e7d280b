"""`ClassificationModule`: the class of each step of a sequence.

Shapes: N sequences of the batch, T steps of the longest, I inputs, F features, W width of the layer's output,
V classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dream import DREAMConfig
from lightning_modules.classification import plots
from lightning_modules.classification.data import (
    UNKNOWN,
    ClassificationBatch,
    ClassificationData,
    ClassificationShape,
)
from lightning_modules.classification.metrics import INSTANCES, by_instance, chosen, instances
from lightning_modules.cores import full
from lightning_modules.labelled import LabelledModule, LabelOutput
from lightning_modules.naive import late, nearest_labelled, nearest_mean_so_far
from lightning_modules.settings import PredictiveSettings, as_instance

NEIGHBOUR, MEAN, PREVIOUS = "nearest neighbour", "nearest mean", "previous label"


@dataclass(frozen=True)
class ClassificationSettings(PredictiveSettings):
    """Settings of `ClassificationModule`."""


class ClassificationModule(LabelledModule):
    """Classifies each step of a sequence, from its features and the labels of steps before.

    The core reads features and, `label_delay` steps late, labels; a linear head reads its output z_t and the
    first layer's forecast of the next step, by which the fast weights reach the result directly:

        log p_t = log softmax([z_t, forecast_t] E + e)
        loss = -mean ln p_t(label_t) + prediction_weight * sum over layers of MSE(its predictions, its input)

    with the first mean over the steps whose class is asked. What labels mean may differ from sequence to
    sequence (`EpisodeData`): then it can only be learnt within each.

    Table of results: the module; the same weights with plasticity off (only DREAM with fast weights); where
    labels are inputs, what needs no training: the class of the nearest step whose label is known by then, the
    class of the nearest mean over those (`lightning_modules.naive`), and, where steps follow each other in
    time, the newest label that is known. `accuracy_K` is the accuracy at the
    K-th time that a class comes up in its sequence.

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of a step.
        shape: Facts about the sequences; set by the data.
        **settings: Fields of `ClassificationSettings`.
    """

    accepts = ClassificationData
    higher_is_better = frozenset({"accuracy", *(f"accuracy_{k}" for k in INSTANCES)})
    data: ClassificationData
    """Data that the module was prepared for; set by `prepare`."""
    settings: ClassificationSettings
    shape: ClassificationShape

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("fast_adaptation"),  # noqa: B008 - frozen
        shape: ClassificationShape = ClassificationShape(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(ClassificationShape, shape), ClassificationSettings(**settings))
        inputs = self.shape.inputs
        self.core = self.make_core(inputs)
        self.dropout = nn.Dropout(self.settings.dropout)
        self.head = nn.Linear(self.core.output_dim + inputs, self.shape.classes)
        self._steps: dict[str, list[Tensor]] = {}
        self._instances: list[Tensor] = []
        self._shares: dict[str, np.ndarray] = {}

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> LabelOutput:
        """Read padded `inputs` (N, T, I), whose samples have `lengths` (N,), all T if None."""
        output, traces, states = self.core.trace(inputs, lengths=lengths)
        seen = torch.cat([self.dropout(output), traces[0].forecast], -1)
        return self.output(full(self.head(seen)).log_softmax(-1), traces, states)

    def read(self, batch: ClassificationBatch) -> LabelOutput:
        found: LabelOutput = self(batch.inputs, batch.lengths)
        return found

    def misfit(self, log_probs: Tensor, batch: ClassificationBatch) -> Tensor:
        """(N, T) nats of each step, -ln p(label); 0 where its class is not asked."""
        return cross_entropy(log_probs.transpose(1, 2), batch.labels, reduction="none", ignore_index=UNKNOWN)

    def counted(self, batch: ClassificationBatch) -> Tensor:
        asked = (batch.labels != UNKNOWN).sum()
        steps = torch.tensor(batch.labels.numel()).to(asked) if batch.lengths is None else batch.lengths.sum()
        return (0 if batch.spare else 1) * torch.stack([asked, steps])

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._steps = {name: [] for name in self.variants}
        self._instances = []

    def test_step(self, batch: ClassificationBatch, batch_idx: int) -> None:
        asked = batch.labels != UNKNOWN
        self._instances.append(instances(batch.labels, self.shape.classes)[asked].cpu())
        for name in self.variants:
            with self.variant(name):
                output = self.read(batch)
            if name == self.title:
                self.observe(output.traces, output.states, batch.lengths)
            self.require_probabilities(batch, output.log_probs)
            right = output.log_probs.argmax(-1) == batch.labels
            nats = self.misfit(output.log_probs, batch)
            self._steps[name].append(torch.stack([right, nats], -1)[asked].double().cpu())
        for name, guess in self.guesses(batch).items():
            right = (guess == batch.labels).unsqueeze(-1)
            self._steps.setdefault(name, []).append(right[asked].double().cpu())

    def guesses(self, batch: ClassificationBatch) -> dict[str, Tensor]:
        """Classes (N, T) by the baselines that need no training; none where labels are no inputs."""
        features, delay = batch.inputs[..., : self.shape.features], self.shape.label_delay
        if delay is None:
            return {}
        found = {
            NEIGHBOUR: nearest_labelled(features, batch.labels, delay),
            MEAN: nearest_mean_so_far(features, batch.labels, self.shape.classes, delay),
        }
        return found | ({PREVIOUS: late(batch.labels, delay).clamp_min(0)} if self.data.ordered else {})

    def on_test_epoch_end(self) -> None:
        instance = torch.cat(self._instances).numpy()
        results = {}
        for name, parts in self._steps.items():
            right, *nats = torch.cat(parts).numpy().T
            self._shares[name] = by_instance(right, instance)
            results[name] = {"accuracy": float(right.mean())} | chosen(self._shares[name])
            if nats:
                results[name]["nats"] = float(nats[0].mean())
        self.log_results(results)

    def figures(self) -> dict[str, Figure]:
        """Accuracy by how often a class has come up in its sequence."""
        if not self._shares:
            return {}
        own = {name: self._shares[name] for name in self.variants}
        others = {name: shares for name, shares in self._shares.items() if name not in own}
        return {"instances": plots.instances(own, others)}

    def predict_step(self, batch: ClassificationBatch, batch_idx: int) -> list[tuple[str, int, str, float]]:
        """Sequence, step, class and its probability, of each step."""
        log_probs = self.read(batch).log_probs
        self.require_probabilities(batch, log_probs)
        values, numbers = log_probs.max(-1)
        found = []
        for sample, name in enumerate(batch.names):
            steps = numbers.shape[1] if batch.lengths is None else int(batch.lengths[sample])
            pairs = zip(numbers[sample, :steps].tolist(), values[sample, :steps].tolist(), strict=True)
            found += [
                (name, step, self.vocabulary[number], math.exp(value))
                for step, (number, value) in enumerate(pairs)
            ]
        return found

    predictions_file = "labels.csv"

    def prediction_table(self, predictions: list[list[tuple[str, int, str, float]]]) -> pd.DataFrame:
        """Results of `predict_step` with a line for each step: sequence, step, class, its probability."""
        rows = [row for batch in predictions for row in batch]
        return self.in_kind(pd.DataFrame(rows, columns=["sequence", "step", "label", "score"]))
