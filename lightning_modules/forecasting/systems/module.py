"""`SystemsModule`: forecasts of the output of a driven system that is new in each sequence.

Shapes: N sequences of the batch, T steps, I inputs, A distances that are forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from dream import DREAMConfig, DREAMState, DREAMTrace
from lightning_modules import ranks
from lightning_modules.base import TaskModule
from lightning_modules.forecasting.systems import plots
from lightning_modules.forecasting.systems.data import SystemBatch, SystemsData, SystemsShape, regressors
from lightning_modules.naive import recursive_least_squares
from lightning_modules.settings import PredictiveSettings, as_instance

FLOOR = 1e-12
LEAST_SQUARES, LAST = "recursive least squares", "repeat-last"


class SystemsOutput(NamedTuple):
    """Outputs for a batch."""

    future: Tensor
    """(N, T, A) forecasts"""
    prediction_loss: Tensor
    """() mean squared error of the layer's own predictions"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


@dataclass(frozen=True)
class SystemsSettings(PredictiveSettings):
    """Settings of `SystemsModule`."""


class SystemsModule(TaskModule):
    """Forecasts what a system will do whose kind is known from training, and which is itself new.

    At each step the core reads the output and the inputs that are planned; a linear head reads its output z_t
    and the first layer's forecast of the next step, by which the fast weights reach the result directly:

        yhat_(t+a) = y_t + ([z_t, forecast_t, inputs_t] E + e)_a
        loss = mean_a(MSE_a / MSE_a of repeating y_t) + prediction_weight * MSE(own predictions, input)

    so that near and far forecasts count alike.

    Table of results: the module; the same weights with plasticity off (only DREAM with fast weights); linear
    models that learn within each sequence by recursive least squares, one for each distance; and the last
    output. `rmse_A` is the root of the mean squared error A steps ahead, in deviations of the output, over
    the steps from `data.skip` on.

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of a step.
        shape: Facts about the sequences; set by the data.
        **settings: Fields of `SystemsSettings`.
    """

    accepts = SystemsData
    data: SystemsData
    """Data that the module was prepared for; set by `prepare`."""
    settings: SystemsSettings
    shape: SystemsShape

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("fast_adaptation"),  # noqa: B008 - frozen
        shape: SystemsShape = SystemsShape(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(SystemsShape, shape), SystemsSettings(**settings))
        inputs = self.shape.inputs
        self.core = self.make_core(inputs)
        self.dropout = nn.Dropout(self.settings.dropout)
        self.head = nn.Linear(self.core.output_dim + 2 * inputs, len(self.shape.ahead))
        self._squares: dict[str, list[Tensor]] = {}

    def forward(self, inputs: Tensor) -> SystemsOutput:
        """Read `inputs` (N, T, I)."""
        output, traces, states = self.core.trace(inputs)
        seen = torch.cat([self.dropout(output), traces[0].forecast, inputs], -1)
        future = inputs[..., :1] + self.head(seen)
        return SystemsOutput(future, traces[0].error.square().mean(), traces, states)

    def losses(self, batch: SystemBatch) -> dict[str, Tensor]:
        output: SystemsOutput = self(batch.inputs)
        self.observe(output.traces, output.states)
        own = torch.tensor(0 if batch.spare else len(batch.inputs), device=self.device)
        share = own / ranks.mean(own).clamp_min(1)
        squares = share * (output.future - batch.targets).square().mean((0, 1))
        relative = (squares / self.usual(batch, share)).mean()
        prediction = share * output.prediction_loss
        return {
            "loss": relative + self.settings.prediction_weight * prediction,
            "relative_mse": relative,
            "prediction_loss": prediction,
        }

    @staticmethod
    def usual(batch: SystemBatch, share: Tensor) -> Tensor:
        """(A,) mean squared error of repeating the last output, over the batches of all processes."""
        last = (batch.targets - batch.inputs[..., :1]).square().mean((0, 1))
        return ranks.mean(share * last).clamp_min(FLOOR)

    def _require_finite(self, batch: SystemBatch, future: Tensor) -> None:
        self.require_finite_outputs({"the forecasts": future}, batch.names.__getitem__)

    def validation_step(self, batch: SystemBatch, batch_idx: int) -> None:
        future = self(batch.inputs).future
        self._require_finite(batch, future)
        squares = (future - batch.targets)[:, self.data.skip :].square().mean((0, 1))
        own = torch.tensor(0 if batch.spare else len(batch.inputs), device=self.device)
        share = own / ranks.mean(own).clamp_min(1)
        self.add_validation(own * (squares / self.usual(batch, share)).mean(), own)

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._squares = {}

    def test_step(self, batch: SystemBatch, batch_idx: int) -> None:
        made = {}
        for name in self.variants:
            with self.variant(name):
                output: SystemsOutput = self(batch.inputs)
            if name == self.title:
                self.observe(output.traces, output.states)
            self._require_finite(batch, output.future)
            made[name] = output.future
        for name, future in (made | self.guesses(batch)).items():
            self._squares.setdefault(name, []).append((future - batch.targets).square().double().cpu())

    def guesses(self, batch: SystemBatch) -> dict[str, Tensor]:
        """Forecasts (N, T, A) by the baselines that need no training."""
        linear = [
            recursive_least_squares(
                regressors(batch.inputs, self.shape, distance), batch.targets[..., place], distance
            )
            for place, distance in enumerate(self.shape.ahead)
        ]
        last = batch.inputs[..., :1].expand_as(batch.targets)
        return {LEAST_SQUARES: torch.stack(linear, -1), LAST: last}

    def on_test_epoch_end(self) -> None:
        scored = {name: torch.cat(parts)[:, self.data.skip :] for name, parts in self._squares.items()}
        self.log_results(
            {
                name: {
                    f"rmse_{distance}": float(squares[..., place].mean().sqrt())
                    for place, distance in enumerate(self.shape.ahead)
                }
                for name, squares in scored.items()
            }
        )

    def figures(self) -> dict[str, Figure]:
        """Error at each step since the start of a sequence, at each distance."""
        if not self._squares:
            return {}
        means: dict[str, np.ndarray] = {
            name: torch.cat(parts).mean(0).numpy() for name, parts in self._squares.items()
        }
        return {"systems": plots.errors(means, self.shape.ahead, (LEAST_SQUARES, LAST))}

    def predict_step(self, batch: SystemBatch, batch_idx: int) -> pd.DataFrame:
        """Table of the forecasts made at each step."""
        future = self(batch.inputs).future
        self._require_finite(batch, future)
        samples, steps, _ = future.shape
        table = pd.DataFrame(
            {"sequence": np.repeat(batch.names, steps), "step": np.tile(np.arange(steps), samples)}
        )
        columns = zip(self.shape.ahead, future.flatten(0, 1).T.cpu().numpy(), strict=True)
        return table.assign(**{f"ahead_{distance}": values for distance, values in columns})

    predictions_file = "forecast.csv"

    def prediction_table(self, predictions: list[pd.DataFrame]) -> pd.DataFrame:
        """Results of `predict_step` with a line for each step: sequence, step, forecast at each distance."""
        return pd.concat(predictions, ignore_index=True)
