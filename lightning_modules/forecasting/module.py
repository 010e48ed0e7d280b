"""`ForecastingModule`: direct forecasts of many rows ahead from a window or a stream of the past.

Shapes: N windows or streams, L look-back, H horizon, D inputs (targets, covariates, known covariates, ages of
the values), C targets, Q quantiles, P rows in a patch, K origins in a batch of streams, M samples of the
layer's batch: N C if channels are independent, N if they are not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dream import DREAMConfig, DREAMStack, DREAMState, DREAMTrace
from dream.errors import ConfigError
from dream.files import write_atomic
from lightning_modules import ranks
from lightning_modules.base import TaskModule
from lightning_modules.checks import require
from lightning_modules.cores import upper_errors
from lightning_modules.data.frequency import table_times
from lightning_modules.data.place import ONLY, Place, StreamEnd
from lightning_modules.forecasting.backtest import Backtest, forecast_metrics
from lightning_modules.forecasting.batches import WindowBatch
from lightning_modules.forecasting.data import ForecastingData
from lightning_modules.forecasting.heads import KnownEffect, PatchHead
from lightning_modules.forecasting.metrics import ForecastMetrics, crps
from lightning_modules.forecasting.patches import by_channel, read
from lightning_modules.forecasting.source import ForecastingShape
from lightning_modules.settings import PredictiveSettings, as_instance
from lightning_modules.tables import csv_text, forecast_table, long_forecast_table

PATCH = 12
"""Largest patch where none is given."""
ROWS, TIMES = "rows", "times"
"""Tensors of a stream's end: the last look-back, (L, columns of the source), in measurement units, and its
time stamps (L,) in nanoseconds since 1970, if there are any."""


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`."""
    return next(part for part in range(min(most, number), 0, -1) if number % part == 0)


class Forecast(NamedTuple):
    """Forecasts of a batch. For streams, `future` and `quantiles` have an axis K after N."""

    future: Tensor
    """(N, H, C) standardised forecasts"""
    quantiles: Tensor | None
    """(N, H, C, Q) standardised quantile forecasts that never cross; None without `quantiles`"""
    prediction_loss: Tensor
    """() mean squared error of each layer's own predictions of its input, summed over the layers"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


@dataclass(frozen=True)
class ForecastingSettings(PredictiveSettings):
    """Settings of `ForecastingModule`."""

    dropout: float = 0.1
    lr: float = 1e-3
    patch: int | None = None
    """Rows of the past that are read as one step. Must divide `data.look_back`, and for streams
    `data.stride`. null: the largest number up to 12 that divides the look-back."""
    channel_independent: bool = True
    """Whether each target is read by itself, beside all covariates and with fast weights of its own;
    otherwise all columns are read together."""
    encoder: Literal["identity", "linear"] = "identity"
    """Input of the layer, which it also predicts: the data (`identity`), or a learned projection of them to
    `config.input_dim` values (`linear`)."""
    normalization: Literal["last", "mean", "instance", "none"] = "instance"
    """Reference of targets and covariates, which is added back to forecasts: the last row of the look-back
    (`last`), its mean (`mean`), its mean and deviation (`instance`), or nothing (`none`). Known covariates
    are made relative in level but not in scale, calendar columns not at all."""
    head: Literal["linear", "patches"] = "linear"
    """Map from the features of an origin to its forecast: linear, to the whole horizon at once (`linear`), or
    one that is shared by all patches ahead and also reads a patch's position (`patches`), which overfits a
    long horizon less."""
    loss: Literal["mse", "mae"] = "mse"
    """Loss of the point forecast: `mse` or `mae`; only `mae` with `quantiles`, where it is the median."""
    quantiles: list[float] | None = None
    """Levels of quantiles to forecast as well: increasing, with 0.5 among them, such as [0.1, 0.5, 0.9]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = self.levels
        rising = levels == sorted(set(levels)) and all(0 < level < 1 for level in levels)
        rule = "increasing levels between 0 and 1 with 0.5 among them, such as [0.1, 0.5, 0.9]"
        require("quantiles", self.quantiles, rising and (not levels or 0.5 in levels), rule)
        median = "mae with `quantiles`, whose point forecast is the median"
        require("loss", self.loss, not levels or self.loss == "mae", median)

    @property
    def levels(self) -> list[float]:
        """`quantiles`, or an empty list."""
        return list(self.quantiles or [])


class ForecastingModule(TaskModule):
    """Forecasts a time series: all of the next `horizon` rows of every target column, from the rows before.

    The past is made relative (`normalization`), cut into patches of `patch` rows, encoded, and read by the
    core; a linear head reads the last output and the first layer's forecast of the next patch, so that the
    fast weights reach the result directly. Covariates that are known for the horizon add their effect
    (`KnownEffect`).

        loss = fit + prediction_weight * sum over layers of MSE(layer's predictions, its input)

    where fit is the MSE or MAE of the forecast, or with `quantiles` their CRPS, over the known targets. The
    layer's input is detached there, since a learned encoder would otherwise make it constant.

    Streams (`data.streams`, `data.rolling`) carry the state from batch to batch. Each of their patches is
    relative to the look-back that ends with it, so that the level may drift without limit.

    With `data.missing: model` DREAM reads a missing value as not observed, and neither levels and scales nor
    the loss of the layer's predictions count it. A rival core reads the last known value in its place.

    Args:
        config: The DREAM layer. With the identity encoder its `input_dim` is set to the width of the data.
        shape: Facts about the data; set by the data.
        **settings: Fields of `ForecastingSettings`.
    """

    accepts = ForecastingData
    monitor = "val/mse"
    unranked = frozenset({"coverage"})
    data: ForecastingData
    """Data that the module was prepared for; set by `prepare`."""
    settings: ForecastingSettings
    shape: ForecastingShape
    levels: Tensor

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("time_series_forecasting"),  # noqa: B008 - frozen
        shape: ForecastingShape = ForecastingShape(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        shape, options = as_instance(ForecastingShape, shape), ForecastingSettings(**settings)
        fitting = largest_divisor(shape.look_back, PATCH)
        patch = fitting if options.patch is None else options.patch
        super().__init__(config, shape, replace(options, patch=patch))
        options, self.patch = self.settings, patch
        divides = self.patch > 0 and shape.look_back % self.patch == 0
        rule = f"a divisor of look_back, {shape.look_back}, such as {fitting}"
        require("patch", self.patch, divides, rule)
        targets = 1 if options.channel_independent else shape.channels
        own_ages, shared_ages = min(shape.aged, targets), max(shape.aged - shape.channels, 0)
        width = self.patch * (targets + own_ages + shape.covariates + shape.known + shared_ages)
        identity = options.encoder == "identity"
        self.encoder = nn.Identity() if identity else nn.Linear(width, self.config.input_dim)
        self.core = self.make_core(width if identity else None)
        self.dropout = nn.Dropout(options.dropout)
        levels = options.levels
        features, outputs = self.core.output_dim + self.config.input_dim, targets * max(len(levels), 1)
        self.head = self.make_head(features, outputs)
        self.known_effect = KnownEffect(features, shape.known, outputs) if shape.known else None
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self._validation: list[ForecastMetrics] = []  # in a list, to keep its state out of checkpoints
        self._backtest: Backtest | None = None

    def make_head(self, features: int, outputs: int) -> nn.Module:
        """Build the head, from features (M, K, F) of origins to forecasts (M, K, horizon outputs).

        A subclass may return another. ``__init__`` calls it once, after setting `config`, `shape`, `settings`
        and `core`.

        Args:
            features: F: the output of the core, then the first layer's forecast of the next patch.
            outputs: Values to forecast in a row: one, or one for each of `quantiles`; times the targets if
                channels are not independent.
        """
        settings, horizon = self.settings, self.shape.horizon
        if settings.head == "patches":
            width = self.core.output_dim
            return PatchHead(features, width, horizon, self.patch, outputs, settings.dropout)
        return nn.Linear(features, horizon * outputs)

    def forward(
        self,
        past: Tensor,
        reset: Tensor | None = None,
        known: Tensor | None = None,
        timespans: Tensor | None = None,
        origins: int = 1,
        observed: Tensor | None = None,
    ) -> Forecast:
        """Forecast from windows, or with `reset` from the next rows of streams; see `WindowBatch`.

        Args:
            past: (N, L, D), of streams (N, L + K stride, D).
            reset: (N,) True where a stream starts from a fresh state; None for windows.
            known: (N, H, covariates), of streams (N, K, H, covariates).
            timespans: (N, rows of `past`).
            origins: K, forecasts of each stream.
            observed: Bool like `past`, False where a value was not observed; None if all were.
        """
        shape, patch = self.shape, self.patch
        cut = (shape.look_back, patch, None if reset is None else origins)
        if not isinstance(self.core, DREAMStack):
            observed = None  # a rival reads what is carried forward
        reading = read(
            past, *cut, shape.relative, shape.centred, self.settings.normalization, observed, shape.absolute
        )
        patches, copies = reading.patches.flatten(2), 1
        if self.settings.channel_independent:
            patches, copies = by_channel(reading.patches, shape.channels, shape.inputs), shape.channels
        steps = patches.shape[1]
        if timespans is not None:
            timespans = timespans[:, -steps * patch :].unflatten(1, (steps, patch)).mean(2)
            timespans = timespans.repeat_interleave(copies, 0)
        seen = self.encoder(patches)
        output, traces, states = self.core.trace(
            seen, state=self.carried(reset, seen.shape[0]), timespans=timespans
        )
        self.carry(states, reset)
        self.observe(traces, states, streams=reset is not None)
        at = slice(reading.every - 1, None, reading.every)
        features = torch.cat([self.dropout(output[:, at]), traces[0].forecast[:, at]], -1)
        values = self.head(features).unflatten(-1, (shape.horizon, -1))  # (M, K, H, outputs)
        if self.known_effect is not None:
            if known is None:
                raise ConfigError(
                    "`known` must hold the known covariates of the horizon; got None.", key="known"
                )
            known = known if reset is not None else known.unsqueeze(1)
            level = reading.level[:, :, None, shape.relative :]
            known = torch.cat([known[..., : shape.centred] - level, known[..., shape.centred :]], -1)
            values = values + self.known_effect(features, known)
        if self.settings.channel_independent:
            values = values.unflatten(0, (-1, shape.channels)).movedim(1, 3)  # (N, K, H, C, Q)
        else:
            values = values.unflatten(-1, (shape.channels, -1))
        level, scale = (part[:, :, None, : shape.channels, None] for part in (reading.level, reading.scale))
        values = values * scale + level
        if reset is None:
            values = values.squeeze(1)
        quantiles = values.sort(-1).values if len(self.levels) else None
        future = values[..., 0] if quantiles is None else quantiles[..., self._median]
        read_at = slice(None) if observed is None else ~seen.isnan()
        prediction_loss = mse_loss(traces[0].prediction[read_at], seen.detach()[read_at])
        return Forecast(future, quantiles, prediction_loss + upper_errors(traces).mean(), traces, states)

    @property
    def _median(self) -> int:
        return self.settings.levels.index(0.5)

    def on(self, batch: WindowBatch) -> Forecast:
        """Forecast from a batch."""
        origins = 1 if batch.reset is None else batch.origin.shape[1]
        forecast: Forecast = self(
            batch.past, batch.reset, batch.known, batch.timespans, origins, batch.observed
        )
        return forecast

    def prepare(self, data: L.LightningDataModule) -> None:
        super().prepare(data)
        patch, stride = self.patch, self.data.stride
        if (self.data.streams or self.data.rolling) and stride % patch:
            fitting = largest_divisor(gcd(stride, self.shape.look_back), PATCH)
            raise ConfigError(
                f"`data.stride` must be a multiple of `model.patch`, {patch}, for streams; got {stride}. Set "
                f"`model.patch` to {fitting} in training, or `data.stride` to {-(-stride // patch) * patch}.",
                key="stride",
            )
        missing = self.data.missing == "model"
        if missing and self.settings.encoder != "identity":
            raise ConfigError(
                "`data.missing` must be error, ffill or mask with `model.encoder: linear`, which mixes "
                "columns before the layer could read one as not observed; got model. Use mask.",
                key="missing",
            )
        if isinstance(self.core, DREAMStack):
            self.core.missing = missing
        if self.data.recorded is None:
            _ = self.data.season_errors  # a season that is too long is refused before anything is trained

    def losses(self, batch: WindowBatch) -> dict[str, Tensor]:
        forecast = self.on(batch)
        valid = ~batch.future.isnan()
        target, future = batch.future[valid], forecast.future[valid]
        samples = 0 if batch.spare else len(batch.past)
        known, usual = ranks.mean(torch.tensor([target.numel(), samples], device=self.device))
        # a batch whose targets are all missing trains the layer's predictions only
        known = torch.where(known > 0, known, 1)
        error = target - future
        fit = "mse"
        terms = {fit: error.square().sum() / known}
        if forecast.quantiles is not None:
            fit = "crps"
            terms[fit] = crps(forecast.quantiles[valid], target, self.levels).sum() / known
        elif self.settings.loss == "mae":
            fit = "mae"
            terms[fit] = error.abs().sum() / known
        prediction = samples / usual * forecast.prediction_loss
        return {
            "loss": terms[fit] + self.settings.prediction_weight * prediction,
            **terms,
            "prediction_loss": prediction,
        }

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._validation = [forecast_metrics(self.data, self.levels.tolist(), self.device)]

    def _require_finite(self, batch: WindowBatch, future: Tensor, quantiles: Tensor | None) -> None:
        """Refuse forecasts of a batch that are not finite, naming the rows that the first was made from."""

        def place(sample: int) -> str:
            first, last = self.data.rows_of(batch)[sample].tolist()
            return f"{self.data.sources(batch)(sample)}, rows {first} to {last}"

        outputs = {"the forecast": future} | ({} if quantiles is None else {"its quantiles": quantiles})
        self.require_finite_outputs(outputs, place)

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        forecast = self.on(batch)
        self._require_finite(batch, forecast.future, forecast.quantiles)
        if self.data.counts(batch, "val"):  # a spare batch has no known future
            windows, quantiles = batch, forecast.quantiles
            future = forecast.future
            if batch.reset is not None:
                windows, future = batch.afresh(self.shape.look_back), future.flatten(0, 1)
                quantiles = None if quantiles is None else quantiles.flatten(0, 1)
            series = torch.as_tensor(self.data.numbers_of(windows.origin), device=future.device)
            self._validation[0].update(future, windows.future, quantiles, series)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log_dict(
            {f"val/{name}": value for name, value in self._validation[0].compute().items()}, prog_bar=False
        )

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._backtest = Backtest(self.data, self.levels.tolist(), self.device)

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:
        forecast = self.on(batch)
        # callbacks see batches that count, and not the windows that are read afresh
        seen = self.observed
        self.observed = []
        self._require_finite(batch, forecast.future, forecast.quantiles)
        if not self.data.counts(batch, "test"):
            return
        shape = (
            len(batch.past),
            self.shape.channels if self.settings.channel_independent else 1,
            batch.origin[0].numel(),
            -1,
        )
        surprise, u_norm = seen[0].surprise.reshape(shape), seen[0].u_norm.reshape(shape)
        windows = batch.afresh(self.shape.look_back)
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
        data = self.data
        if not data.many:
            end = data.parts.test.stop
            place = Place().after(data.series.time, 0, end, data.parts.train.stop, data.series.zone)
            look_back = slice(end - data.look_back, end)
            held = {ROWS: data.values_of(look_back)}
            if data.series.time is not None:
                held[TIMES] = data.series.time[look_back].astype("datetime64[ns]").astype(np.int64)
            self.ends = {ONLY: StreamEnd(place, {name: torch.tensor(part) for name, part in held.items()})}
        self.log_results(self._backtest.results())
        self.by_series = self._backtest.by_series()

    def write_test_files(self, folder: Path) -> None:
        """Write `origins.csv` with `data.rolling`: the errors at every origin."""
        if self.data.rolling and self._backtest is not None:
            write_atomic(folder / "origins.csv", csv_text(self._backtest.origins()))

    def figures(self) -> dict[str, Figure]:
        """Forecasts against truth at a few origins; error, surprise and norm of U over the test part."""
        return {} if self._backtest is None else self._backtest.figures()

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Forecasts (N, H, C, 1 + Q) in measurement units, quantiles last; of streams the newest."""
        forecast = self.on(batch)
        values = forecast.future.unsqueeze(-1)
        if forecast.quantiles is not None:
            values = torch.cat([values, forecast.quantiles], -1)
        if batch.reset is not None:
            values = values[:, -1]
        origin, newest = batch.origin.reshape(len(batch.origin), -1)[:, -1], batch.reset is None
        values = self.data.unscale(values.transpose(-1, -2), origin, newest).transpose(-1, -2)
        self._require_finite(batch, values[..., 0], values[..., 1:] if len(self.levels) else None)
        return values

    predictions_file = "forecast.csv"

    def prediction_table(self, predictions: list[Tensor]) -> pd.DataFrame:
        """Newest forecast as a table with a line for each row ahead, see `forecast_table`; of several series
        as `long_forecast_table`."""
        data, levels = self.data, self.levels.tolist()
        found = [
            (data.members[number], values, table_times(data.ahead(number), data.clock.zone))
            for number, values in data.forecasts(predictions)
        ]
        if data.many:
            parts = [(str(member.name), values, times) for member, values, times in found]
            return self.in_kind(long_forecast_table(parts, data.target_columns, levels))
        _, values, times = found[0]
        return self.in_kind(forecast_table(values, times, data.target_columns, levels))
