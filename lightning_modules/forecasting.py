"""`ForecastingModule`: direct forecasts of many rows ahead from a window or a stream of the past.

Shapes: N windows, L look-back, H horizon, D inputs (targets first, then covariates), C targets, P rows in a patch,
M rows of the layer's batch: N C if channels are independent, N if they are not.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dream import DREAMConfig, DREAMState, DREAMTrace
from dream.errors import ConfigError
from dream.files import write_atomic
from lightning_modules.base import TaskModule, require
from lightning_modules.data.windows import ForecastingData, WindowBatch
from lightning_modules.metrics.forecasting import ForecastMetrics
from lightning_modules.naive import repeat_last, seasonal_naive
from lightning_modules.plots import forecasting as plots

SCALE_FLOOR = 1e-3  # of a training deviation: below it a window counts as constant
EXAMPLES = 4  # windows that the figure of forecasts shows


class Forecast(NamedTuple):
    """What the module makes of a batch."""

    future: Tensor
    """(N, H, C) standardised forecasts"""
    prediction_loss: Tensor
    """() mean squared error of the first layer's own predictions of its input"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


class ForecastingModule(TaskModule):
    """Forecasts `horizon` rows of every target at once.

    The past is made relative (`normalization`), cut into patches of `patch` rows, encoded, and read by a `DREAMStack`;
    a linear head reads the last output and the first layer's forecast of the next patch, so that the fast weights reach
    the result directly. Loss: ``MSE(forecast, future) + prediction_weight * MSE(layer's predictions, layer's input)``,
    the second target detached, since a learnt encoder would otherwise make its output constant.

    Args:
        config: The DREAM layer. With the identity encoder its `input_dim` is set to the width of the data.
        channels: Number of targets; set by the data.
        covariates: Number of columns that are only read; set by the data.
        look_back: Rows of the past; set by the data.
        horizon: Rows to forecast; set by the data.
        season: Rows in one season, for the seasonal-naive row of the table; set by the data.
        patch: Rows of the past that are read as one step. Must divide `look_back`.
        channel_independent: One row of the batch, and so fast weights of its own, for each target; covariates are
            shown to every one. Otherwise one row reads all columns together.
        encoder: `identity`: the layer reads, and predicts, the data itself; `linear`: a learnt projection to
            `config.input_dim`.
        normalization: What a window is made relative to before it is read, and put back after: its last row (`last`),
            its own mean and deviation (`instance`), or nothing (`none`; needed for streams, whose level may not jump).
        hidden_dims: Width of each layer of the stack; one of `config.hidden_dim` if not given.
        dropout: Share dropped between layers and before the head, in training.
        prediction_weight: Weight of the layer's own prediction loss.
        lr: Peak learning rate.
        weight_decay: AdamW's decay of the weight matrices.
        schedule: Learning rate after the warm-up: `cosine` down to 1 % or `constant`.
        warmup: Share of all steps in which the learning rate rises.
        core: What reads the patches: `dream`, or a rival of as many parameters: `lstm`, `gru`, `rnn`, or `linear`, which
            holds the last patches as they are.
        backend: Implementation of DREAM's scan, see `dream.ops.registry`.
    """

    monitor = "val/mse"
    data: ForecastingData
    """What it was prepared for; there once `prepare` has run."""
    units: Tensor
    mase_scale: Tensor

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("time_series_forecasting"),  # noqa: B008 - frozen
        channels: int = 1,
        covariates: int = 0,
        look_back: int = 96,
        horizon: int = 24,
        season: int = 24,
        patch: int = 12,
        channel_independent: bool = True,
        encoder: Literal["identity", "linear"] = "identity",
        normalization: Literal["last", "instance", "none"] = "instance",
        hidden_dims: list[int] | None = None,
        dropout: float = 0.1,
        prediction_weight: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: Literal["cosine", "constant"] = "cosine",
        warmup: float = 0.05,
        core: Literal["dream", "lstm", "gru", "rnn", "linear"] = "dream",
        backend: str = "auto",
    ) -> None:
        super().__init__(lr, weight_decay, schedule, warmup)
        config = config if isinstance(config, DREAMConfig) else DREAMConfig(**config)
        require("patch", patch, patch > 0 and look_back % patch == 0, f"a divisor of look_back, {look_back}")
        require("prediction_weight", prediction_weight, 0 <= prediction_weight < math.inf, "a finite number of at least 0")
        require("encoder", encoder, encoder in ("identity", "linear"), "identity or linear")
        require("normalization", normalization, normalization in ("last", "instance", "none"), "last, instance or none")
        width = patch * ((1 if channel_independent else channels) + covariates)
        if encoder == "identity":
            config = replace(config, input_dim=width)
        self.save_settings(
            config,
            channels=channels,
            covariates=covariates,
            look_back=look_back,
            horizon=horizon,
            season=season,
            patch=patch,
            channel_independent=channel_independent,
            encoder=encoder,
            normalization=normalization,
            hidden_dims=hidden_dims,
            dropout=dropout,
            prediction_weight=prediction_weight,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup=warmup,
            core=core,
            backend=backend,
        )
        self.config = config
        self.channels, self.horizon, self.season, self.patch = channels, horizon, season, patch
        self.channel_independent, self.normalization = channel_independent, normalization
        self.prediction_weight = prediction_weight
        self.encoder = nn.Identity() if encoder == "identity" else nn.Linear(width, config.input_dim)
        self.make_core(core, config, hidden_dims, dropout, backend)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(
            self.stack.output_dim + config.input_dim, horizon if channel_independent else horizon * channels
        )
        # Facts about the data at hand, not about the model: a checkpoint must not bring those of other data.
        self.register_buffer("units", torch.ones(channels), persistent=False)
        self.register_buffer("mase_scale", torch.ones(channels), persistent=False)
        self._metrics: dict[str, ForecastMetrics] = {}
        self._timeline: list[Tensor] = []
        self._examples: list[plots.Example] = []

    def forward(self, past: Tensor, reset: Tensor | None = None) -> Forecast:
        """Forecast from `past` (N, L, D); `reset` (N,) for a batch that continues streams."""
        windows, look_back, _ = past.shape
        level, scale = self._relative_to(past)
        relative = (past - level) / scale
        if self.channel_independent:
            own = relative[..., : self.channels].transpose(1, 2).reshape(-1, look_back, 1)
            shared = relative[..., self.channels :].repeat_interleave(self.channels, 0)
            relative = torch.cat([own, shared], -1)
            reset = None if reset is None else reset.repeat_interleave(self.channels)
        patches = relative.reshape(len(relative), look_back // self.patch, -1)  # (M, L / P, P * inputs of a row)
        seen = self.encoder(patches)
        output, traces, states = self.stack.trace(seen, state=self.carried(reset, len(seen)))
        self.carry(states, reset)
        self.observe(traces, states)
        heads = self.head(torch.cat([self.dropout(output[:, -1]), traces[0].forecast[:, -1]], -1))
        if self.channel_independent:
            future = heads.reshape(windows, self.channels, self.horizon).transpose(1, 2)
        else:
            future = heads.reshape(windows, self.horizon, self.channels)
        future = future * scale[..., : self.channels] + level[..., : self.channels]
        return Forecast(future, mse_loss(traces[0].prediction, seen.detach()), traces, states)

    def _relative_to(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """Level and scale (N, 1, D) that a window is read, and its forecast given, relative to."""
        if self.normalization == "none":
            return past.new_zeros(()).expand_as(past[:, :1]), past.new_ones(()).expand_as(past[:, :1])
        if self.normalization == "last":
            return past[:, -1:], past.new_ones(()).expand_as(past[:, :1])
        return past.mean(1, keepdim=True), past.std(1, keepdim=True, correction=0).clamp_min(SCALE_FLOOR)

    def prepare(self, data: L.LightningDataModule) -> None:
        if not isinstance(data, ForecastingData):
            raise ConfigError(f"`data` must be a ForecastingData; got {type(data).__name__}. Try TableData.", key="data")
        if data.streams and self.normalization != "none":
            raise ConfigError(
                f"`model.normalization` must be none with `data.streams`; got {self.normalization!r}: each chunk of a "
                "stream would get another level.",
                key="normalization",
            )
        self.data = data
        self.units.copy_(torch.as_tensor(data.prepared.scaler.scale[: self.channels]))
        self.mase_scale.copy_(data.mase_scale)

    def losses(self, batch: WindowBatch) -> dict[str, Tensor]:
        forecast: Forecast = self(batch.past, batch.reset)
        mse, prediction = mse_loss(forecast.future, batch.future), forecast.prediction_loss
        return {"loss": mse + self.prediction_weight * prediction, "mse": mse, "prediction_loss": prediction}

    def _metric(self, model: str) -> ForecastMetrics:
        if model not in self._metrics:
            self._metrics[model] = ForecastMetrics(self.units.clone(), self.mase_scale.clone()).to(self.device)
        return self._metrics[model]

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._metrics = {}

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        self._metric(self.title).update(self(batch.past).future, batch.future)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        values = self._metric(self.title).compute()
        self.log_dict({f"val/{name}": value for name, value in values.items()}, prog_bar=False)

    def on_test_epoch_start(self) -> None:
        self._metrics, self._timeline, self._examples = {}, [], []

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:
        forecast = self(batch.past)
        targets = batch.past[..., : self.channels]
        rivals = {self.title: forecast.future, "repeat-last": repeat_last(targets, self.horizon)}
        if self.season <= targets.shape[1]:
            rivals["seasonal-naive"] = seasonal_naive(targets, self.horizon, self.season)
        for name, future in rivals.items():
            self._metric(name).update(future, batch.future)
        self._remember(batch, batch_idx, rivals)

    def _remember(self, batch: WindowBatch, batch_idx: int, rivals: dict[str, Tensor]) -> None:
        """Keep what the figures show: one row for each window, and a few whole windows."""
        first, windows = self.observed[0], len(batch.origin)
        errors = [(future - batch.future).square().mean((1, 2)) for future in list(rivals.values())[:2]]
        surprise = first.surprise.mean(1).reshape(windows, -1).mean(1)
        u_norm = first.u_norm[:, -1].reshape(windows, -1).mean(1)
        row = torch.stack([batch.origin.to(surprise), *errors, surprise, u_norm], 1)
        self._timeline.append(row.double().cpu())
        batches = self.trainer.num_test_batches[0]
        shown = {round(k * (batches - 1) / max(EXAMPLES - 1, 1)) for k in range(EXAMPLES)}
        if batch_idx in shown:
            unscale = self.data.unscale
            self._examples.append(
                plots.Example(
                    int(batch.origin[0]),
                    unscale(batch.past[0, :, : self.channels]).cpu().numpy(),
                    unscale(batch.future[0]).cpu().numpy(),
                    unscale(rivals[self.title][0]).cpu().numpy(),
                )
            )

    def on_test_epoch_end(self) -> None:
        self.log_results(
            {name: {k: float(v) for k, v in metric.compute().items()} for name, metric in self._metrics.items()}
        )

    def figures(self) -> dict[str, Figure]:
        """Forecasts against truth for a few test windows; error, surprise and U norm over the whole test part."""
        if not self._timeline:
            return {}
        data = self.data
        timeline = torch.cat(self._timeline).numpy()
        origins = timeline[:, 0].astype(int)
        changes = np.array([row for row in data.drift_rows if origins[0] <= row <= origins[-1]], dtype=np.int64)
        return {
            "forecasts": plots.forecasts(self._examples, data.target_columns, data.times),
            "adaptation": plots.adaptation(data.times(origins), timeline[:, 1:].T, data.times(changes), self.title),
        }

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Forecasts in the data's own units, (N, H, C)."""
        future: Tensor = self(batch.past).future
        return self.data.unscale(future)

    def write_predictions(self, predictions: list[Tensor], folder: Path) -> list[Path]:
        """`forecast.csv`: a row for each row ahead, with its time, a column for each target, in the data's own units."""
        if not predictions:
            return []
        values = predictions[0][0].cpu().numpy()
        table = pd.DataFrame(values, columns=list(self.data.target_columns))
        name = "time"
        while name in table:
            name += "_"
        table.insert(0, name, self.data.future_times(len(self.data.series.values)))
        return [write_atomic(folder / "forecast.csv", table.to_csv(index=False))]
