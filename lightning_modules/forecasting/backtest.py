"""`Backtest`: metrics and figures of a test, of the forecasters and of the naive forecasts.

Shapes: N windows, L look-back, H horizon, D inputs, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.data.frequency import figure_times, table_times
from lightning_modules.forecasting import plots
from lightning_modules.forecasting.data import ForecastingData, WindowBatch
from lightning_modules.forecasting.metrics import ForecastMetrics
from lightning_modules.naive import error_quantiles, repeat_last, seasonal_naive

EXAMPLES = 4  # windows in the figure of forecasts
DRAWN = 200_000  # origins in the figure of errors
SPREAD = 256  # training windows from whose errors the quantiles of a naive forecast are taken, at most
MOST = 15_000_000  # values of those windows, at most: torch.quantile takes no more


class Backtest:
    """Scores of one or more forecasters, and of the naive forecasts, at the same origins.

    The quantiles of a naive forecast are those of its errors in the training part, at each row ahead.

    Args:
        data: Data to test on.
        levels: Levels of the quantile forecasts; empty for point forecasts.
        device: Device of the forecasts.
    """

    def __init__(self, data: ForecastingData, levels: list[float], device: torch.device) -> None:
        self.data = data
        self.levels = levels
        self.device = device
        self.metrics: dict[str, ForecastMetrics] = {}
        self.drawn: list[Tensor] = []
        self.columns: list[str] = []
        self.examples: list[plots.Example] = []
        test = data.parts.test
        self.every = 1 if data.rolling else max((test.stop - test.start) // DRAWN, 1)
        """One origin in `every` is drawn, so that a test part of any size needs bounded memory."""
        # the last origin, or at most a stride before it
        last = test.stop - data.horizon - (data.stride if data.rolling else 1) + 1
        self.wanted = np.linspace(test.start, max(last, test.start), EXAMPLES).astype(int).tolist()
        self.naive = {"repeat-last": partial(repeat_last, horizon=data.horizon)}
        for place, season in enumerate(data.seasons):
            if season <= data.look_back:
                name = f"seasonal-naive {season}" if place else "seasonal-naive"
                self.naive[name] = partial(seasonal_naive, horizon=data.horizon, season=season)
        self.spread: dict[str, Tensor] = {}
        if levels:
            count = max(min(SPREAD, MOST // (data.horizon * data.channels)), 1)
            past, future = (part.to(device) for part in data.training_windows(count))
            self.spread = {
                name: error_quantiles(naive, past, future, levels) for name, naive in self.naive.items()
            }

    def add(
        self,
        own: Mapping[str, tuple[Tensor, Tensor | None]],
        windows: WindowBatch,
        surprise: Tensor,
        u_norm: Tensor,
    ) -> None:
        """Add forecasts of `windows`, which must come in the order of time.

        Args:
            own: Forecasts (N, H, C) and their quantiles (N, H, C, Q), by the name of the forecaster.
            windows: Their windows.
            surprise: (N,) of the first forecaster.
            u_norm: (N,) of the first forecaster.
        """
        past = windows.past[..., : self.data.channels]
        made = dict(own)
        for name, naive in self.naive.items():
            future = naive(past)
            made[name] = (future, future.unsqueeze(-1) + self.spread[name] if self.levels else None)
        for name, (future, quantiles) in made.items():
            self._metric(name).update(future, windows.future, quantiles)
        drawn = [*own, "repeat-last"]
        errors = [(made[name][0].double() - windows.future).square().flatten(1).nanmean(1) for name in drawn]
        origin, values = windows.origin.cpu(), torch.stack([*errors, surprise, u_norm], 1).cpu()
        # float64, since float32 cannot count beyond 16 million rows
        drawn_rows = torch.cat([origin[:, None].double(), values.double()], 1)
        self.drawn.append(drawn_rows[origin % self.every == 0])
        self.columns = [*drawn, "surprise", "u_norm"]
        future, quantiles = next(iter(own.values()))
        for window, origin in enumerate(windows.origin.tolist()):
            if self.wanted and origin >= self.wanted[0]:
                self.wanted = [row for row in self.wanted if row > origin]
                band = None
                if quantiles is not None:
                    band = self._unscaled(quantiles[window].movedim(-1, 0)).transpose(1, 2, 0)
                before, truth, forecast = map(
                    self._unscaled, (past[window], windows.future[window], future[window])
                )
                self.examples.append(plots.Example(origin, before, truth, forecast, band))

    def _unscaled(self, values: Tensor) -> np.ndarray:
        """Standardised targets (..., C) in the measurement units of the data."""
        return self.data.unscale(values).cpu().numpy()

    def _metric(self, model: str) -> ForecastMetrics:
        if model not in self.metrics:
            scale = torch.as_tensor(self.data.scaler.scale[: self.data.channels]).float()
            self.metrics[model] = ForecastMetrics(scale, self.data.mase_scale, self.levels).to(self.device)
        return self.metrics[model]

    def results(self) -> dict[str, dict[str, float]]:
        """Value of each metric of each model."""
        return {
            name: {k: float(v) for k, v in metric.compute().items()} for name, metric in self.metrics.items()
        }

    def origins(self) -> pd.DataFrame:
        """Table of the drawn origins: first row ahead, squared errors (standardised), surprise, norm of U."""
        if not self.drawn:
            return pd.DataFrame()
        drawn = torch.cat(self.drawn).numpy()
        origin = drawn[:, 0].astype(np.int64)
        values = dict(zip(self.columns, drawn[:, 1:].T, strict=True))
        time = table_times(self.data.times(origin), self.data.clock.zone)
        return pd.DataFrame({"row": origin, "time": time, **values})

    def figures(self) -> dict[str, Figure]:
        """Figures `forecasts` and `adaptation`; none if nothing was added."""
        if not self.drawn:
            return {}
        data, table = self.data, self.origins()
        first, last = table["row"].iloc[[0, -1]]
        changes = np.array([row for row in data.drift_rows if first <= row <= last], dtype=np.int64)
        errors = {name: table[name].to_numpy() for name in self.columns[:-2]}
        surprise, u_norm = (table[name].to_numpy() for name in ("surprise", "u_norm"))

        def times(rows: np.ndarray) -> np.ndarray:
            return figure_times(data.times(rows), data.clock.zone)

        return {
            "forecasts": plots.forecasts(self.examples, data.target_columns, times),
            "adaptation": plots.adaptation(
                times(table["row"].to_numpy()), errors, surprise, u_norm, times(changes)
            ),
        }
