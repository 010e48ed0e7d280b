"""`ForecastingModule`: direct forecasts of many rows ahead from a window or a stream of the past.

Shapes: N windows or streams, L look-back, H horizon, D inputs (targets, covariates, known covariates, ages of
the values), C targets, Q quantiles, P rows in a patch, K origins in a batch of streams, M rows of the layer's
batch: N C if channels are independent, N if they are not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dream import DREAMConfig, DREAMState, DREAMTrace
from dream.errors import ConfigError
from dream.files import write_atomic
from lightning_modules import ranks
from lightning_modules.base import TaskModule, require, require_finite
from lightning_modules.forecasting.backtest import Backtest
from lightning_modules.forecasting.data import ForecastingData, WindowBatch
from lightning_modules.forecasting.heads import KnownEffect, PatchHead
from lightning_modules.forecasting.metrics import ForecastMetrics, crps
from lightning_modules.forecasting.patches import by_channel, read
from lightning_modules.tables import forecast_table


class Forecast(NamedTuple):
    """What the module makes of a batch. Of streams, future and quantiles have an axis K after N."""

    future: Tensor
    """(N, H, C) standardised forecasts"""
    quantiles: Tensor | None
    """(N, H, C, Q) standardised quantile forecasts that never cross; None without `quantiles`"""
    prediction_loss: Tensor
    """() mean squared error of the first layer's own predictions of its input"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


class ForecastingModule(TaskModule):
    """Forecasts `horizon` rows of every target at once.

    The past is made relative (`normalization`), cut into patches of `patch` rows, encoded, and read by a
    core, DREAM unless told otherwise; a linear head reads the last output and the first layer's forecast of
    the next patch, so that the fast weights reach the result directly. What is known of the horizon adds its
    effect (`KnownEffect`). Loss: ``fit + prediction_weight * MSE(layer's predictions, layer's input)``; fit
    is the MSE or the MAE of the forecast, or with `quantiles` their CRPS, over the targets that are known.
    The second target is detached, since a learnt encoder would otherwise make its output constant.

    Streams (`data.streams`, `data.rolling`) carry the state from batch to batch. Each of their patches is
    relative to the look-back that ends with it, so the level may drift as far as it likes.

    Args:
        config: The DREAM layer. With the identity encoder its `input_dim` is set to the width of the data.
        channels: Number of targets; set by the data.
        covariates: Number of columns that are only read; set by the data.
        known: Number of columns that are known for the horizon too; set by the data.
        calendar: How many of them are the calendar's, the last ones; set by the data.
        aged: Number of columns whose age is read too; set by the data.
        look_back: Rows of the past; set by the data.
        horizon: Rows to forecast; set by the data.
        season: Rows in one season, for the seasonal-naive row of the table; set by the data.
        patch: Rows of the past that are read as one step. Must divide `look_back`, and for streams
            `data.stride`.
        channel_independent: One row of the batch, and so fast weights of its own, for each target; covariates
            are shown to every one. Otherwise one row reads all columns together.
        encoder: `identity`: the layer reads, and predicts, the data itself; `linear`: a learnt projection to
            `config.input_dim`.
        normalization: What targets and covariates are made relative to before they are read, and forecasts
            put back after: the last row of the look-back (`last`), its mean (`mean`), its mean and deviation
            (`instance`), or nothing (`none`). Known covariates are made relative in level but not in scale,
            the calendar not at all.
        head: How the features of an origin become its forecast: one linear map to the whole horizon
            (`linear`), or one to every patch ahead that reads the patch's position too (`patches`), which
            overfits a long horizon less.
        loss: What the point forecast is trained for: `mse` or `mae`; with `quantiles` it is the median, so
            `mae`.
        quantiles: Levels to forecast as well, increasing, 0.5 among them, such as [0.1, 0.5, 0.9].
        hidden_dims: Width of each layer of the stack; one of `config.hidden_dim` if not given.
        dropout: Share dropped between layers and before the head, in training.
        prediction_weight: Weight of the layer's own prediction loss.
        lr: Peak learning rate.
        weight_decay: AdamW's decay of the weight matrices.
        schedule: Learning rate after the warm-up: `cosine` down to 1 % or `constant`.
        warmup: Share of all steps in which the learning rate rises.
        core: What reads the patches: `dream`, or a rival of as many parameters: `lstm`, `gru`, `rnn`, or
            `linear`, which holds the last patches as they are.
        backend: Implementation of DREAM's scan, see `dream.ops.registry`.
    """

    monitor = "val/mse"
    unranked = frozenset({"coverage"})
    data: ForecastingData
    """What it was prepared for; there once `prepare` has run."""
    units: Tensor
    mase_scale: Tensor
    levels: Tensor

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("time_series_forecasting"),  # noqa: B008 - frozen
        channels: int = 1,
        covariates: int = 0,
        known: int = 0,
        calendar: int = 0,
        aged: int = 0,
        look_back: int = 96,
        horizon: int = 24,
        season: int = 24,
        patch: int = 12,
        channel_independent: bool = True,
        encoder: Literal["identity", "linear"] = "identity",
        normalization: Literal["last", "mean", "instance", "none"] = "instance",
        head: Literal["linear", "patches"] = "linear",
        loss: Literal["mse", "mae"] = "mse",
        quantiles: list[float] | None = None,
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
        require(
            "prediction_weight",
            prediction_weight,
            0 <= prediction_weight < math.inf,
            "a finite number of at least 0",
        )
        require("encoder", encoder, encoder in ("identity", "linear"), "identity or linear")
        kinds = ("last", "mean", "instance", "none")
        require("normalization", normalization, normalization in kinds, "last, mean, instance or none")
        require("head", head, head in ("linear", "patches"), "linear or patches")
        require("loss", loss, loss in ("mse", "mae"), "mse or mae")
        levels = list(quantiles or [])
        rising = levels == sorted(set(levels)) and all(0 < level < 1 for level in levels)
        rule = "increasing levels between 0 and 1 with 0.5 among them, such as [0.1, 0.5, 0.9]"
        require("quantiles", quantiles, rising and (not levels or 0.5 in levels), rule)
        require(
            "loss",
            loss,
            not levels or loss == "mae",
            "mae with `quantiles`, whose point forecast is the median",
        )
        columns, ages = (1, min(aged, 1)) if channel_independent else (channels, min(aged, channels))
        width = patch * (columns + ages + covariates + known + max(aged - channels, 0))
        if encoder == "identity":
            config = replace(config, input_dim=width)
        self.save_settings(
            config,
            channels=channels,
            covariates=covariates,
            known=known,
            calendar=calendar,
            aged=aged,
            look_back=look_back,
            horizon=horizon,
            season=season,
            patch=patch,
            channel_independent=channel_independent,
            encoder=encoder,
            normalization=normalization,
            head=head,
            loss=loss,
            quantiles=quantiles,
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
        self.channels, self.look_back, self.horizon, self.season, self.patch = (
            channels,
            look_back,
            horizon,
            season,
            patch,
        )
        self.relative, self.centred, self.inputs = (
            channels + covariates,
            known - calendar,
            channels + covariates + known,
        )
        self.channel_independent, self.normalization, self.loss = channel_independent, normalization, loss
        self.prediction_weight = prediction_weight
        self.rows_per_stream = channels if channel_independent else 1
        self.encoder = nn.Identity() if encoder == "identity" else nn.Linear(width, config.input_dim)
        self.make_core(core, config, hidden_dims, dropout, backend)
        self.dropout = nn.Dropout(dropout)
        features, outputs = self.stack.output_dim + config.input_dim, columns * max(len(levels), 1)
        self.head = self.make_head(features, outputs)
        self.known_effect = KnownEffect(features, known, outputs) if known else None
        # Facts about the data at hand, not about the model: a checkpoint must not bring those of other data.
        self.register_buffer("units", torch.ones(channels), persistent=False)
        self.register_buffer("mase_scale", torch.ones(channels), persistent=False)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self._validation: list[
            ForecastMetrics
        ] = []  # in a list, since what it holds belongs into no checkpoint
        self._backtest: Backtest | None = None

    def make_head(self, features: int, outputs: int) -> nn.Module:
        """What maps the features (M, K, F) of origins to forecasts (M, K, horizon outputs); a subclass may
        return another.

        ``__init__`` calls it once, when `horizon`, `season`, `patch`, `stack` and `hparams` are there.

        Args:
            features: F: the output of the core, then the first layer's forecast of the next patch.
            outputs: Values to forecast in a row: one, or one for each of `quantiles`; of each target if
                channels are not independent.
        """
        if self.hparams["head"] == "patches":
            dropout = self.hparams["dropout"]
            return PatchHead(features, self.stack.output_dim, self.horizon, self.patch, outputs, dropout)
        return nn.Linear(features, self.horizon * outputs)

    def forward(
        self,
        past: Tensor,
        reset: Tensor | None = None,
        known: Tensor | None = None,
        timespans: Tensor | None = None,
        origins: int = 1,
    ) -> Forecast:
        """Forecast from `past` (N, L, D), or with `reset` (N,) from the next rows of streams, (N, L + K
        stride, D).

        Args:
            past: see `WindowBatch`, as are the others.
            reset: True where a stream starts afresh; None for windows.
            known: (N, H, covariates), of streams (N, K, H, covariates).
            timespans: (N, rows of `past`).
            origins: K, forecasts of each stream.
        """
        streams = len(past)
        shape = (self.look_back, self.patch, None if reset is None else origins)
        reading = read(past, *shape, self.relative, self.centred, self.normalization)
        patches, copies = reading.patches.flatten(2), 1
        if self.channel_independent:
            patches, copies = by_channel(reading.patches, self.channels, self.inputs), self.channels
        steps = patches.shape[1]
        if timespans is not None:
            timespans = timespans[:, -steps * self.patch :].unflatten(1, (steps, self.patch)).mean(2)
            timespans = timespans.repeat_interleave(copies, 0)
        reset = None if reset is None else reset.repeat_interleave(copies)
        seen = self.encoder(patches)
        output, traces, states = self.stack.trace(
            seen, state=self.carried(reset, len(seen)), timespans=timespans
        )
        self.carry(states, reset)
        self.observe(traces, states, streams=reset is not None)
        at = slice(reading.every - 1, None, reading.every)
        features = torch.cat([self.dropout(output[:, at]), traces[0].forecast[:, at]], -1)
        values = self.head(features).unflatten(-1, (self.horizon, -1))  # (M, K, H, outputs)
        if self.known_effect is not None:
            if known is None:
                raise ConfigError(
                    "`known` must hold the known covariates of the horizon; got None.", key="known"
                )
            known = known if reset is not None else known.unsqueeze(1)
            level = reading.level[:, :, None, self.relative :]
            known = torch.cat([known[..., : self.centred] - level, known[..., self.centred :]], -1)
            values = values + self.known_effect(features, known)
        if self.channel_independent:
            values = values.unflatten(0, (streams, self.channels)).movedim(1, 3)  # (N, K, H, C, Q)
        else:
            values = values.unflatten(-1, (self.channels, -1))
        level, scale = (part[:, :, None, : self.channels, None] for part in (reading.level, reading.scale))
        values = values * scale + level
        if reset is None:
            values = values.squeeze(1)
        quantiles = values.sort(-1).values if len(self.levels) else None
        future = values[..., 0] if quantiles is None else quantiles[..., self._median]
        return Forecast(future, quantiles, mse_loss(traces[0].prediction, seen.detach()), traces, states)

    @property
    def _median(self) -> int:
        return self.levels.tolist().index(0.5)

    def on(self, batch: WindowBatch) -> Forecast:
        """The forecasts of a batch."""
        origins = 1 if batch.reset is None else batch.origin.shape[1]
        forecast: Forecast = self(batch.past, batch.reset, batch.known, batch.timespans, origins)
        return forecast

    def prepare(self, data: L.LightningDataModule) -> None:
        if not isinstance(data, ForecastingData):
            raise ConfigError(
                f"`data` must be a ForecastingData; got {type(data).__name__}. Try TableData.", key="data"
            )
        if (data.streams or data.rolling) and data.stride % self.patch:
            raise ConfigError(
                f"`data.stride` must be a multiple of `model.patch`, {self.patch}, for streams; got "
                f"{data.stride}.",
                key="stride",
            )
        self.data = data
        self.units.copy_(torch.as_tensor(data.prepared.scaler.scale[: self.channels]))
        self.mase_scale.copy_(data.mase_scale)

    def losses(self, batch: WindowBatch) -> dict[str, Tensor]:
        forecast = self.on(batch)
        valid = ~batch.future.isnan()
        target, future = batch.future[valid], forecast.future[valid]
        rows = 0 if batch.spare else len(batch.past)
        known, usual = ranks.mean(torch.tensor([target.numel(), rows], device=self.device))
        known = torch.where(
            known > 0, known, 1
        )  # a batch whose targets are all missing trains the layer's predictions only
        error = target - future
        terms = {"mse": error.square().sum() / known}
        if forecast.quantiles is not None:
            terms["crps"] = crps(forecast.quantiles[valid], target, self.levels).sum() / known
        elif self.loss == "mae":
            terms["mae"] = error.abs().sum() / known
        fit, prediction = list(terms.values())[-1], rows / usual * forecast.prediction_loss
        return {"loss": fit + self.prediction_weight * prediction, **terms, "prediction_loss": prediction}

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        metrics = ForecastMetrics(self.units.clone(), self.mase_scale.clone(), self.levels.tolist())
        self._validation = [metrics.to(self.device)]

    def _require_finite(self, batch: WindowBatch, future: Tensor, quantiles: Tensor | None) -> None:
        """Refuse forecasts of a batch that are not finite.

        Raises:
            DREAMError: naming the rows that the first of them was made of.
        """

        def place(row: int) -> str:
            first, last = self.data.rows_of(batch)[row].tolist()
            return f"{self.data.source_of(row)}, rows {first} to {last}"

        require_finite(
            {"the forecast": future} | ({} if quantiles is None else {"its quantiles": quantiles}), place
        )

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        forecast = self.on(batch)
        if (
            self.trainer.state.fn != TrainerFn.FITTING
        ):  # there NaNGuard says so, and a later epoch may be better
            self._require_finite(batch, forecast.future, forecast.quantiles)
        if self._counts(batch, self.data.prepared.split.val):  # a spare one has no known future
            self._validation[0].update(forecast.future, batch.future, forecast.quantiles)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log_dict(
            {f"val/{name}": value for name, value in self._validation[0].compute().items()}, prog_bar=False
        )

    @staticmethod
    def _counts(batch: WindowBatch, part: slice) -> bool:
        """Whether a batch belongs to the part, or comes before it and only prepares the state."""
        return int(batch.origin.min()) >= part.start

    def on_test_epoch_start(self) -> None:
        self.forget_states()
        self._backtest = Backtest(self.data, self.levels.tolist(), self.device)

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:
        forecast = self.on(batch)
        seen, self.observed = self.observed, []  # of the batches that count, and not of the windows afresh
        self._require_finite(batch, forecast.future, forecast.quantiles)
        if not self._counts(batch, self.data.prepared.split.test):
            return
        shape = (
            len(batch.past),
            self.channels if self.channel_independent else 1,
            batch.origin[0].numel(),
            -1,
        )
        surprise, u_norm = seen[0].surprise.reshape(shape), seen[0].u_norm.reshape(shape)
        windows = batch.afresh(self.look_back)
        own = {self.title: (forecast.future, forecast.quantiles)}
        if batch.reset is not None:
            afresh = self.on(windows)
            self._require_finite(windows, afresh.future, afresh.quantiles)
            quantiles = None if forecast.quantiles is None else forecast.quantiles.flatten(0, 1)
            own = {
                f"{self.title}, carried state": (forecast.future.flatten(0, 1), quantiles),
                f"{self.title}, windows afresh": (afresh.future, afresh.quantiles),
            }
        assert self._backtest is not None
        self._backtest.add(own, windows, surprise.mean((1, 3)).flatten(), u_norm[..., -1].mean(1).flatten())
        self.observed = seen

    def on_test_epoch_end(self) -> None:
        self.forget_states()
        assert self._backtest is not None
        self.log_results(self._backtest.results())

    def on_test_end(self) -> None:
        """With `data.rolling`, `origins.csv` in the run's folder: the errors at every origin."""
        if self.data.rolling and self._backtest is not None and (folder := self.run_folder):
            write_atomic(folder / "origins.csv", self._backtest.origins().to_csv(index=False))

    def figures(self) -> dict[str, Figure]:
        """Forecasts against truth for a few origins; error, surprise and U norm over the whole test part."""
        return {} if self._backtest is None else self._backtest.figures()

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Forecasts in the data's own units, (N, H, C, 1 + Q), the quantiles last; of a stream the last
        one."""
        forecast = self.on(batch)
        values = forecast.future.unsqueeze(-1)
        if forecast.quantiles is not None:
            values = torch.cat([values, forecast.quantiles], -1)
        if batch.reset is not None:
            values = values[:, -1]
        values = self.data.unscale(values.transpose(-1, -2)).transpose(-1, -2)
        self._require_finite(batch, values[..., 0], values[..., 1:] if len(self.levels) else None)
        return values

    def prediction_table(self, predictions: list[Tensor]) -> pd.DataFrame:
        """The last of the forecasts that `predict_step` gave: a row for each row ahead, see
        `forecast_table`."""
        values, times = predictions[-1][0].cpu().numpy(), self.data.future_times(len(self.data.series))
        return forecast_table(values, times, self.data.target_columns, self.levels.tolist())

    def write_predictions(self, predictions: list[Tensor], folder: Path) -> list[Path]:
        """`forecast.csv`: the `prediction_table`."""
        if not predictions:
            return []
        return [write_atomic(folder / "forecast.csv", self.prediction_table(predictions).to_csv(index=False))]
