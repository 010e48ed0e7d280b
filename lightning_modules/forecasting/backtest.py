"""`Backtest`: what a test of a forecaster collects: metrics of it and of the naive forecasts, and what its
figures show.

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

from lightning_modules.forecasting import plots
from lightning_modules.forecasting.data import ForecastingData, WindowBatch
from lightning_modules.forecasting.metrics import ForecastMetrics
from lightning_modules.naive import error_quantiles, repeat_last, seasonal_naive

EXAMPLES = 4  # windows that the figure of forecasts shows
DRAWN = 200_000  # origins that the figure of errors shows
SPREAD = (
    256  # training windows whose errors give a naive forecast its quantiles, fewer where they hold more than
)
MOST = 15_000_000  # values, since torch.quantile takes no more


class Backtest:
    """Scores of one or more forecasters, and of the naive forecasts, at the same origins.

    With quantiles a naive forecast gets its own from its errors in the training part, at each row ahead.

    Args:
        data: What is tested on.
        levels: Levels of the quantile forecasts; none for point forecasts.
        device: Where the forecasts are.
    """

    def __init__(self, data: ForecastingData, levels: list[float], device: torch.device) -> None:
        self.data, self.levels, self.device = data, levels, device
        self.metrics: dict[str, ForecastMetrics] = {}
        self.rows: list[Tensor] = []
        self.examples: list[plots.Example] = []
        test = data.prepared.split.test
        self.every = 1 if data.rolling else max((test.stop - test.start) // DRAWN, 1)
        """Only so many-th origins of a long test part are drawn, so that a file of any size is tested in
        bounded memory."""
        last = (
            test.stop - data.horizon - (data.stride if data.rolling else 1) + 1
        )  # the last origin, or at most a stride before
        self.wanted = np.linspace(test.start, max(last, test.start), EXAMPLES).astype(int).tolist()
        self.naive = {"repeat-last": partial(repeat_last, horizon=data.horizon)}
        if data.season <= data.look_back:
            self.naive["seasonal-naive"] = partial(seasonal_naive, horizon=data.horizon, season=data.season)
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
        """Add the forecasts (N, H, C) and their quantiles (N, H, C, Q) for `windows`, by the name of who made
        them.

        `surprise` (N,) and `u_norm` (N,) are those of the first one. Windows come in the order of time.
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
        row = torch.cat(
            [origin[:, None].double(), values.double()], 1
        )  # float32 cannot count beyond 16 million rows
        self.rows.append(row[origin % self.every == 0])
        self.columns = [*drawn, "surprise", "u_norm"]
        future, quantiles = next(iter(own.values()))
        for window, origin in enumerate(windows.origin.tolist()):
            if self.wanted and origin >= self.wanted[0]:
                self.wanted = [row for row in self.wanted if row > origin]
                band = (
                    None
                    if quantiles is None
                    else self._unscaled(quantiles[window].movedim(-1, 0)).transpose(1, 2, 0)
                )
                before, truth, forecast = map(
                    self._unscaled, (past[window], windows.future[window], future[window])
                )
                self.examples.append(plots.Example(origin, before, truth, forecast, band))

    def _unscaled(self, values: Tensor) -> np.ndarray:
        """Standardised targets (..., C) in the data's own units."""
        return self.data.unscale(values).cpu().numpy()

    def _metric(self, model: str) -> ForecastMetrics:
        if model not in self.metrics:
            scale = torch.as_tensor(self.data.prepared.scaler.scale[: self.data.channels]).float()
            self.metrics[model] = ForecastMetrics(scale, self.data.mase_scale, self.levels).to(self.device)
        return self.metrics[model]

    def results(self) -> dict[str, dict[str, float]]:
        """Model, then metric, then value."""
        return {
            name: {k: float(v) for k, v in metric.compute().items()} for name, metric in self.metrics.items()
        }

    def origins(self) -> pd.DataFrame:
        """A row for each origin drawn: its first row ahead, the squared errors (standardised), surprise and
        norm of U."""
        if not self.rows:
            return pd.DataFrame()
        rows = torch.cat(self.rows).numpy()
        origin = rows[:, 0].astype(np.int64)
        return pd.DataFrame(
            {
                "row": origin,
                "time": self.data.times(origin),
                **dict(zip(self.columns, rows[:, 1:].T, strict=True)),
            }
        )

    def figures(self) -> dict[str, Figure]:
        """`forecasts` and `adaptation`; none where nothing was added."""
        if not self.rows:
            return {}
        data, table = self.data, self.origins()
        first, last = table["row"].iloc[[0, -1]]
        changes = np.array([row for row in data.drift_rows if first <= row <= last], dtype=np.int64)
        errors = {name: table[name].to_numpy() for name in self.columns[:-2]}
        surprise, u_norm, time = (table[name].to_numpy() for name in ("surprise", "u_norm", "time"))
        return {
            "forecasts": plots.forecasts(self.examples, data.target_columns, data.times),
            "adaptation": plots.adaptation(time, errors, surprise, u_norm, data.times(changes)),
        }
