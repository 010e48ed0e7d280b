"""`SequenceModule`: the class of a whole sequence.

Shapes: N sequences of the batch, T steps of the longest, I inputs, F features, V classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import lightning as L
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from dream import DREAMConfig, DREAMStack
from dream.files import write_atomic
from lightning_modules.checks import require
from lightning_modules.classification.sequences.data import (
    UNKNOWN,
    SequenceBatch,
    SequenceData,
    SequenceShape,
)
from lightning_modules.cores import full
from lightning_modules.labelled import LabelledModule, LabelOutput
from lightning_modules.labelled.pooling import Pooling, Read, varied
from lightning_modules.plots import confusion
from lightning_modules.settings import PredictiveSettings, as_instance
from lightning_modules.tables import csv_text

NEAREST = "nearest mean"


@dataclass(frozen=True)
class SequenceSettings(PredictiveSettings):
    """Settings of `SequenceModule`."""

    dropout: float = 0.1
    reads: list[Read] = field(default_factory=lambda: list(get_args(Read)))
    """Parts that the head reads, by default all: the `last` output of the core; its `mean` and its standard
    `deviation` over the steps; four means with learned weights of the steps (`attention`); the mean size of
    the core's own forecast `error` of each input."""
    noise: float = 0.0
    """Deviation of the noise that is added to the standardised columns in training."""
    mask: float = 0.0
    """Longest stretch of a sequence that is hidden in training, as a share of its length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = get_args(Read)
        fits = 0 < len(set(self.reads)) == len(self.reads) and set(self.reads) <= set(known)
        require("reads", self.reads, fits, f"one or more of {', '.join(known)}, each once")
        require("noise", self.noise, 0 <= self.noise <= 10, "from 0 to 10 deviations")
        require("mask", self.mask, 0 <= self.mask <= 0.5, "a share from 0 to 0.5")


class SequenceModule(LabelledModule):
    """Tells the class of a whole sequence, of any length from 1 step on.

    The core reads padded batches with their lengths (`DREAMStack.trace`, like `forward_with_mask`): padding
    changes nothing. The head reads one vector v of a sequence, made of the parts that `reads` names
    (`lightning_modules.labelled.pooling`):

        p = softmax(v E + e)
        loss = -mean ln p(label) + prediction_weight * sum over layers of MSE(its predictions, its input)

    Where values are missing and the data say `missing: model`, DREAM reads them as not observed; a rival core
    reads the last known value.

    Table of results: the module; the same weights with plasticity off (only DREAM with fast weights); the
    class of the nearest mean (`SequenceData.nearest_mean`). `macro_f1` is the mean over the classes of the
    harmonic mean of precision and recall, `nats` the mean of -ln p(label).

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of a step.
        shape: Facts about the sequences; set by the data.
        **settings: Fields of `SequenceSettings`.
    """

    accepts = SequenceData
    higher_is_better = frozenset({"accuracy", "macro_f1"})
    data: SequenceData
    """Data that the module was prepared for; set by `prepare`."""
    settings: SequenceSettings
    shape: SequenceShape

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig(),  # noqa: B008 - frozen
        shape: SequenceShape = SequenceShape(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(SequenceShape, shape), SequenceSettings(**settings))
        self.core = self.make_core(self.shape.inputs)
        self.pooling = Pooling(self.settings.reads, self.core.output_dim, self.shape.inputs)
        self.dropout = nn.Dropout(self.settings.dropout)
        self.head = nn.Linear(self.pooling.width, self.shape.classes)
        self._seen: dict[str, list[Tensor]] = {}
        self._batches: list[SequenceBatch] = []
        self._confused: Tensor | None = None

    def prepare(self, data: L.LightningDataModule) -> None:
        super().prepare(data)
        if isinstance(self.core, DREAMStack):
            self.core.missing = self.data.missing == "model"

    def forward(self, inputs: Tensor, lengths: Tensor, observed: Tensor | None = None) -> LabelOutput:
        """Read padded `inputs` (N, T, I), whose samples have `lengths` (N,).

        Where `observed` is False, DREAM reads a value as not observed.
        """
        if self.training:
            inputs = varied(inputs, lengths, self.settings.noise, self.settings.mask)
        if observed is not None and isinstance(self.core, DREAMStack):
            inputs = torch.where(observed, inputs, torch.nan)
        output, traces, states = self.core.trace(inputs, lengths=lengths)
        seen = self.pooling(output, traces[0].error, lengths)
        return self.output(full(self.head(self.dropout(seen))).log_softmax(-1), traces, states)

    def read(self, batch: SequenceBatch) -> LabelOutput:
        found: LabelOutput = self(batch.inputs, batch.lengths, batch.observed)
        return found

    def misfit(self, log_probs: Tensor, batch: SequenceBatch) -> Tensor:
        """(N,) nats of each sequence, -ln p(label)."""
        return nll_loss(log_probs, batch.labels, reduction="none", ignore_index=UNKNOWN)

    def counted(self, batch: SequenceBatch) -> Tensor:
        asked = (batch.labels != UNKNOWN).sum()
        return (0 if batch.spare else 1) * torch.stack([asked, batch.lengths.sum()])

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._seen = {name: [] for name in self.variants}
        self._batches = []

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        self._batches.append(batch)
        for name in self.variants:
            with self.variant(name):
                output = self.read(batch)
            if name == self.title:
                self.observe(output.traces, output.states, batch.lengths)
            self.require_probabilities(batch, output.log_probs)
            self._seen[name].append(output.log_probs.cpu())

    def on_test_epoch_end(self) -> None:
        truth = torch.cat([batch.labels for batch in self._batches]).cpu()
        seen = {name: torch.cat(parts) for name, parts in self._seen.items()}
        results = {
            name: self._scores(log_probs.argmax(1), truth) | {"nats": float(nll_loss(log_probs, truth))}
            for name, log_probs in seen.items()
        }
        batches = [batch._replace(inputs=batch.inputs.cpu()) for batch in self._batches]
        results[NEAREST] = self._scores(self.data.nearest_mean(batches), truth)
        self._confused = multiclass_confusion_matrix(seen[self.title], truth, self.shape.classes)
        self.log_results(results)

    def _scores(self, predicted: Tensor, truth: Tensor) -> dict[str, float]:
        count = self.shape.classes
        accuracy = multiclass_accuracy(predicted, truth, count, average="micro")
        f1 = multiclass_f1_score(predicted, truth, count, average="macro")
        return {"accuracy": float(accuracy), "macro_f1": float(f1)}

    def figures(self) -> dict[str, Figure]:
        """Which class is taken for which."""
        if self._confused is None:
            return {}
        return {"confusion": confusion(self._confused.numpy(), self.vocabulary)}

    def write_test_files(self, folder: Path) -> None:
        """Write `confusion.csv`: how often each class, a row, was taken for each, a column."""
        if self._confused is not None:
            table = pd.DataFrame(self._confused.numpy(), columns=list(self.vocabulary))
            table.insert(0, "label", self.vocabulary, allow_duplicates=True)
            write_atomic(folder / "confusion.csv", csv_text(table))

    def predict_step(self, batch: SequenceBatch, batch_idx: int) -> tuple[list[str], np.ndarray]:
        """Names of the sequences, and the probabilities of their classes (N, V)."""
        log_probs = self.read(batch).log_probs
        self.require_probabilities(batch, log_probs)
        return batch.names, log_probs.exp().cpu().numpy()

    def prediction_table(self, predictions: list[tuple[list[str], np.ndarray]]) -> pd.DataFrame:
        """Results of `predict_step` with a line for each sequence, in the order of the source: its name,
        its class, and the probability of each class."""
        names = [name for batch, _ in predictions for name in batch]
        shares = np.concatenate([part for _, part in predictions])
        labels = [self.vocabulary[k] for k in shares.argmax(1)]
        table = pd.DataFrame(shares, columns=[f"p_{label}" for label in self.vocabulary])
        table.insert(0, "unique_id", names)
        table.insert(1, "label", labels)
        order = {one.name: k for k, one in enumerate(chain(*self.data.sequences.values()))}
        return table.sort_values("unique_id", key=lambda column: column.map(order))
