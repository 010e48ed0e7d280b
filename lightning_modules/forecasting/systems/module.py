"""`SystemsModule`: forecasts of the output of a driven system that is new in each sequence.

Shapes: N sequences of the batch, T steps, I inputs, A distances that are forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from dream import DREAMConfig, DREAMState, DREAMTrace
from lightning_modules import ranks
from lightning_modules.base import TaskModule
from lightning_modules.cores import upper_errors
from lightning_modules.forecasting.systems import plots
from lightning_modules.forecasting.systems.data import SystemBatch, SystemsData, SystemsShape
from lightning_modules.forecasting.systems.reference import (
    OUTLIER,
    Reference,
    last_forecast,
    linear_forecast,
    reference,
)
from lightning_modules.settings import PredictiveSettings, as_instance

LEAST_SQUARES, LAST = "recursive least squares", "repeat-last"


class SystemsOutput(NamedTuple):
    """Outputs for a batch."""

    future: Tensor
    """(N, T, A) forecasts"""
    scale: Tensor
    """(N, T, A) usual error of the reference"""
    prediction_loss: Tensor
    """() mean squared error of each layer's own predictions, summed over the layers"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


@dataclass(frozen=True)
class SystemsSettings(PredictiveSettings):
    """Settings of `SystemsModule`."""

    reference: Literal["linear", "last"] = "linear"
    """Forecast that the model corrects: that of linear models which learn within the sequence by recursive
    least squares (`linear`), or the last output (`last`)."""


class SystemsModule(TaskModule):
    """Forecasts what a system will do whose kind is known from training, and which is itself new.

    It corrects a reference forecast r, in units of the reference's own newest errors s. At each step the core
    reads x_t: outputs, planned inputs, r, s and the newest error of r. A linear head, zero at first, reads
    the core's output z_t and the first layer's forecast of the next step, by which the fast weights reach the
    result directly:

        yhat_(t+a) = r_(t+a) + s_a ([z_t, forecast_t, x_t] E + e)_a
        loss = mean min((yhat - y) / s, 10)^2 + prediction_weight * sum over layers of MSE(predictions, input)

    so that near and far forecasts, and systems that are easy or hard to forecast, count alike.

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
        width = self.shape.inputs + 3 * len(self.shape.ahead)
        self.core = self.make_core(width)
        self.dropout = nn.Dropout(self.settings.dropout)
        self.head = nn.Linear(self.core.output_dim + 2 * width, len(self.shape.ahead))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._squares: dict[str, list[Tensor]] = {}

    def forward(self, inputs: Tensor) -> SystemsOutput:
        """Read `inputs` (N, T, I)."""
        known = self.reference(inputs)
        x = known.beside(inputs)
        output, traces, states = self.core.trace(x)
        seen = torch.cat([self.dropout(output), traces[0].forecast, x], -1)
        corrected = known.future + known.scale * self.head(seen)
        error = traces[0].error.square().mean() + upper_errors(traces).mean()
        return SystemsOutput(corrected, known.scale, error, traces, states)

    @torch.no_grad()
    def reference(self, inputs: Tensor) -> Reference:
        """The forecast that is corrected, from `inputs` (N, T, I)."""
        forecast = linear_forecast if self.settings.reference == "linear" else last_forecast
        return reference(inputs, forecast(inputs, self.shape), self.shape)

    @staticmethod
    def misfit(output: SystemsOutput, batch: SystemBatch) -> Tensor:
        """(N, T, A) squared errors in units of the reference's newest errors, up to `OUTLIER`."""
        return ((output.future - batch.targets) / output.scale).clamp(-OUTLIER, OUTLIER).square()

    def losses(self, batch: SystemBatch) -> dict[str, Tensor]:
        output: SystemsOutput = self(batch.inputs)
        self.observe(output.traces, output.states)
        own = torch.tensor(0 if batch.spare else len(batch.inputs), device=self.device)
        share = own / ranks.mean(own).clamp_min(1)
        misfit = share * self.misfit(output, batch).mean()
        prediction = share * output.prediction_loss
        return {
            "loss": misfit + self.settings.prediction_weight * prediction,
            "misfit": misfit,
            "prediction_loss": prediction,
        }

    def _require_finite(self, batch: SystemBatch, future: Tensor) -> None:
        self.require_finite_outputs({"the forecasts": future}, batch.names.__getitem__)

    def validation_step(self, batch: SystemBatch, batch_idx: int) -> None:
        output: SystemsOutput = self(batch.inputs)
        self._require_finite(batch, output.future)
        misfit = self.misfit(output, batch)[:, self.data.skip :]
        own = 0 if batch.spare else 1
        self.add_validation(own * misfit.sum(), torch.tensor(own * misfit.numel(), device=self.device))

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
        return {
            LEAST_SQUARES: linear_forecast(batch.inputs, self.shape),
            LAST: last_forecast(batch.inputs, self.shape),
        }

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
