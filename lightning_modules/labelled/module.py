"""`LabelledModule`: what tasks that tell classes or tokens share.

Shapes: N samples of the batch, T steps of the longest, V classes or tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from torch import Tensor

from dream import DREAMState, DREAMTrace
from lightning_modules import ranks
from lightning_modules.base import TaskModule
from lightning_modules.cores import upper_errors
from lightning_modules.settings import PredictiveSettings


class LabelOutput(NamedTuple):
    """Outputs for a batch."""

    log_probs: Tensor
    """(N, V) log-probabilities of the classes of each sample, or (N, T, V) of those of each step"""
    prediction_loss: Tensor
    """() sum over layers and valid steps of the mean squared error of the layer's own predictions"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


class LabelledModule(TaskModule):
    """Base of the tasks that tell classes or tokens, whose names the data's schema holds as `vocabulary`.

        loss = sum of `misfit` / number of what is asked + prediction_weight * prediction_loss / steps

    with the numbers of the whole batch from `counted`. Batches have `lengths` (N,), None if all steps are
    valid; `names` (N,) of their samples; and `spare`, True if nothing in them counts.
    """

    vocabulary: tuple[str, ...] = ()

    def prepare(self, data: L.LightningDataModule) -> None:
        super().prepare(data)
        assert self.data is not None
        self.data.setup()
        self.vocabulary = self.read_vocabulary(self.data_schema.vocabulary)

    def read_vocabulary(self, plain: Any) -> tuple[str, ...]:
        return tuple(plain)

    @abstractmethod
    def read(self, batch: Any) -> LabelOutput:
        """Read a batch."""

    @abstractmethod
    def misfit(self, log_probs: Tensor, batch: Any) -> Tensor:
        """(N, ...) nats of what is asked, -ln p of the truth; 0 where nothing is."""

    @abstractmethod
    def counted(self, batch: Any) -> Tensor:
        """(2,) numbers of what is asked in a batch, and of its steps; 0 for a spare one."""

    def output(self, log_probs: Tensor, traces: list[DREAMTrace], states: list[DREAMState]) -> LabelOutput:
        """Outputs with the loss of the predictions in `traces`."""
        error = (traces[0].error.square().mean(-1) + upper_errors(traces)).sum()
        return LabelOutput(log_probs, error, traces, states)

    def losses(self, batch: Any) -> dict[str, Tensor]:
        output = self.read(batch)
        self.observe(output.traces, output.states, batch.lengths)
        counts = ranks.mean(self.counted(batch))
        asked, steps = torch.where(counts > 0, counts, 1)  # else what they divide is 0
        own = 0 if batch.spare else 1
        fit = own * self.misfit(output.log_probs, batch).sum() / asked
        prediction = own * output.prediction_loss / steps
        weight = cast("PredictiveSettings", self.settings).prediction_weight
        return {"loss": fit + weight * prediction, "fit": fit, "prediction_loss": prediction}

    def require_probabilities(self, batch: Any, log_probs: Tensor) -> None:
        """Refuse probabilities of a batch that are not finite, see `require_finite_outputs`."""
        self.require_finite_outputs({"the probabilities": log_probs}, batch.names.__getitem__)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        log_probs = self.read(batch).log_probs
        self.require_probabilities(batch, log_probs)
        asked = self.counted(batch)[0]
        self.add_validation(asked.clamp(max=1) * self.misfit(log_probs, batch).sum(), asked)
