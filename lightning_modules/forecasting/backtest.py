"""`Backtest`: metrics and figures of a test, of the forecasters and of the naive forecasts.

Shapes: N windows, L look-back, H horizon, D inputs, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isnan

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
        rows = sum(member.parts.test.stop - member.parts.test.start for member in data.members)
        self.every = 1 if data.rolling and not data.many else max(rows // DRAWN, 1)
        """One origin in `every` is drawn, so that a test part of any size needs bounded memory."""
        self.wanted = _wanted(data)
        """Rows of the tables from which on an example is drawn, by the number of the series."""
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
        numbers = self.data.numbers_of(windows.origin)
        series = torch.as_tensor(numbers, device=past.device)
        made = dict(own)
        for name, naive in self.naive.items():
            future = naive(past)
            made[name] = (future, future.unsqueeze(-1) + self.spread[name] if self.levels else None)
        for name, (future, quantiles) in made.items():
            self._metric(name).update(future, windows.future, quantiles, series)
        drawn = [*own, "repeat-last"]
        errors = [(made[name][0].double() - windows.future).square().flatten(1).nanmean(1) for name in drawn]
        origin, values = windows.origin.cpu(), torch.stack([*errors, surprise, u_norm], 1).cpu()
        # float64, since float32 cannot count beyond 16 million rows
        drawn_rows = torch.cat([origin[:, None].double(), values.double()], 1)
        self.drawn.append(drawn_rows[origin % self.every == 0])
        self.columns = [*drawn, "surprise", "u_norm"]
        future, quantiles = next(iter(own.values()))
        for window, (number, origin) in enumerate(
            zip(numbers.tolist(), windows.origin.tolist(), strict=True)
        ):
            if (wanted := self.wanted.get(number)) and origin >= wanted[0]:
                self.wanted[number] = [row for row in wanted if row > origin]

                def unscaled(values: Tensor, row: Tensor = windows.origin[window : window + 1]) -> np.ndarray:
                    """Standardised targets (..., C) in the measurement units of the data."""
                    return self.data.unscale(values[None], row)[0].cpu().numpy()

                band = None
                if quantiles is not None:
                    band = unscaled(quantiles[window].movedim(-1, 0)).transpose(1, 2, 0)
                self.examples.append(
                    plots.Example(
                        origin,
                        unscaled(past[window]),
                        unscaled(windows.future[window]),
                        unscaled(future[window]),
                        band,
                    )
                )

    def _metric(self, model: str) -> ForecastMetrics:
        if model not in self.metrics:
            self.metrics[model] = forecast_metrics(self.data, self.levels, self.device)
        return self.metrics[model]

    def results(self) -> dict[str, dict[str, float]]:
        """Value of each metric of each model."""
        return {
            name: {k: float(v) for k, v in metric.compute().items()} for name, metric in self.metrics.items()
        }

    def by_series(self) -> dict[str, dict[str, float]]:
        """Metrics of the first forecaster for each series that was forecast, by its id; empty without ids."""
        data = self.data
        if not data.many or not self.metrics:
            return {}
        found = next(iter(self.metrics.values())).by_series()
        rows = zip(*(values.tolist() for values in found.values()), strict=True)
        return {
            str(member.name): {
                name: value for name, value in zip(found, row, strict=True) if not isnan(value)
            }
            for member, row in zip(data.members, rows, strict=True)
            if not all(map(isnan, row))
        }

    def origins(self) -> pd.DataFrame:
        """Table of the drawn origins: first row ahead, squared errors (standardised), surprise, norm of U.

        Rows are numbered within their series, whose id comes first if there are several.
        """
        if not self.drawn:
            return pd.DataFrame()
        data, drawn = self.data, torch.cat(self.drawn).numpy()
        origin = drawn[:, 0].astype(np.int64)
        values = dict(zip(self.columns, drawn[:, 1:].T, strict=True))
        time = table_times(data.times(origin), data.clock.zone)
        numbers = data.numbers_of(origin)
        ids = (
            {"unique_id": np.array([str(member.name) for member in data.members])[numbers]}
            if data.many
            else {}
        )
        return pd.DataFrame({**ids, "row": origin - data.starts[numbers], "time": time, **values})

    def figures(self) -> dict[str, Figure]:
        """Figures `forecasts` and `adaptation`; none if nothing was added."""
        if not self.drawn:
            return {}
        data, table = self.data, self.origins()
        if data.many:  # means over the series, by how many rows of its own came before
            table = table.drop(columns=["unique_id", "time"]).groupby("row", as_index=False).mean()
        first, last = table["row"].iloc[[0, -1]]
        changes = np.array([row for row in data.drift_rows if first <= row <= last], dtype=np.int64)
        errors = {name: table[name].to_numpy() for name in self.columns[:-2]}
        surprise, u_norm = (table[name].to_numpy() for name in ("surprise", "u_norm"))

        def times(rows: np.ndarray) -> np.ndarray:
            """Times of rows of the tables."""
            return figure_times(data.times(rows), data.clock.zone)

        places = table["row"].to_numpy()

        return {
            "forecasts": plots.forecasts(self.examples, data.target_columns, times),
            "adaptation": plots.adaptation(
                places if data.many else times(places), errors, surprise, u_norm, times(changes)
            ),
        }


def forecast_metrics(data: ForecastingData, levels: list[float], device: torch.device) -> ForecastMetrics:
    """Metrics of forecasts of `data`, without any forecast yet."""
    _, scale = data.units_of_targets
    return ForecastMetrics(torch.from_numpy(scale), data.season_errors, levels).to(device)


def _wanted(data: ForecastingData) -> dict[int, list[int]]:
    """Rows of the tables from which on an example is drawn: of one series several, or one of several."""
    ends = {}
    for number, member in enumerate(data.members):
        test, start = member.parts.test, int(data.starts[number])
        # the last origin, or at most a stride before it
        last = test.stop - data.horizon - (data.stride if data.rolling else 1) + 1
        if len(member.origins(test)):
            ends[number] = (start + test.start, start + max(last, test.start))
    some = [list(ends)[k] for k in np.linspace(0, len(ends) - 1, min(EXAMPLES, len(ends))).astype(int)]
    each = EXAMPLES // len(some)
    return {k: np.linspace(*ends[k], each).astype(int).tolist() for k in some}
