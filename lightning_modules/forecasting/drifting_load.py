"""A synthetic electric load whose behaviour changes at known rows, to try out adaptation without any file."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from lightning_modules.checks import require_int
from lightning_modules.data.series import Series
from lightning_modules.forecasting.data import ForecastingData

_HOURS_BETWEEN_FEEDERS = 12
_WARM_UP = 400


class DriftingLoad(ForecastingData):
    """Hourly load of several feeders in MW, generated; bit for bit the same for the same arguments.

    Feeder f at hour t, in regime r (all drawn for each regime):

        y_f(t) = level_rf + trend_f t + amplitude_rf day(t + phase_rf) + week_f(t) + heating_rf temperature(t)
                 + n_f(t) + sum_g coupling_rfg n_g(t - 12)

    `temperature` is one slow factor behind all feeders and `n` is first-order autoregressive noise. A third
    of the regime changes (at least one) falls into the last fifth of the rows, the test part of the default
    split: a model must adapt there to stay accurate.

    Args:
        feeders: Number of columns.
        rows: Number of hours.
        seed: Seed of the generator; nothing else is random.
        drifts: Number of regime changes; 0 keeps one regime.
        temperature: Add warm and cold fronts that all loads follow, and the temperature as a known covariate.
            The loads of the last `horizon` rows are then unknown, and their temperature is a perfect
            forecast.
    """

    def __init__(
        self,
        feeders: int = 6,
        rows: int = 6000,
        seed: int = 7,
        drifts: int = 6,
        temperature: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.feeders = require_int("feeders", feeders)
        self.rows = require_int("rows", rows, least=100)
        self.seed = require_int("seed", seed, least=0)
        self.drifts = require_int("drifts", drifts, least=0)
        self.known_covariates = ["temperature"] if temperature else None

    @cached_property
    def drift_rows(self) -> tuple[int, ...]:
        """The first row of each regime but the first one."""
        late = max(1, self.drifts // 3) if self.drifts else 0
        border = 4 * self.rows // 5
        early = np.linspace(0, border, self.drifts - late + 2)[1:-1]
        return tuple(
            np.concatenate([early, np.linspace(border, self.rows, late + 2)[1:-1]]).astype(int).tolist()
        )

    def read(self) -> Series:
        random = np.random.default_rng(self.seed)
        hours = np.arange(self.rows, dtype=np.float64)[:, None]
        regime = np.searchsorted(self.drift_rows, np.arange(self.rows), side="right")

        def draw(low: float, high: float, *shape: int) -> np.ndarray:
            return random.uniform(low, high, (self.drifts + 1, self.feeders, *shape))[regime]

        size = draw(20, 60)[:1]
        values = size * draw(0.85, 1.15) + size * random.uniform(-0.1, 0.2, self.feeders) * hours / 8760
        phase = 2 * np.pi * (hours + draw(-4, 4)) / 24
        values += size * draw(0.1, 0.3) * (np.sin(phase) + 0.4 * np.sin(2 * phase))
        values -= size * 0.1 * (hours // 24 % 7 >= 5)
        temperature = _autoregressive(random, self.rows, 1, 0.995) + 2 * np.sin(2 * np.pi * hours / 8760)
        values += size * draw(-0.06, 0.06) * temperature
        noise = _autoregressive(random, self.rows + _HOURS_BETWEEN_FEEDERS, self.feeders, 0.8)
        earlier, now = noise[: self.rows], noise[_HOURS_BETWEEN_FEEDERS:]
        values += 0.06 * size * (now + np.einsum("tfg,tg->tf", draw(-1.5, 1.5, self.feeders), earlier))
        if self.known_covariates:
            fronts = _autoregressive(random, self.rows, 1, 0.9)
            values += size * draw(-0.2, -0.1) * fronts
            values[-self.horizon :] = np.nan
            temperature += fronts
        time = np.datetime64("2024-01-01T00", "ns") + np.arange(self.rows) * np.timedelta64(1, "h")
        columns = tuple(f"feeder_{number}" for number in range(1, self.feeders + 1))
        if self.known_covariates:
            values, columns = np.concatenate([values, temperature], axis=1), (*columns, "temperature")
        settings = f"feeders {self.feeders}, rows {self.rows}, seed {self.seed}, drifts {self.drifts}"
        return Series(values, columns, time, f"drifting load ({settings})")


def _autoregressive(random: np.random.Generator, rows: int, columns: int, memory: float) -> np.ndarray:
    """Noise n(t) = memory n(t-1) + e(t) of variance 1, (rows, columns)."""
    shocks = random.standard_normal((rows + _WARM_UP, columns)) * np.sqrt(1 - memory**2)
    noise = np.zeros_like(shocks)
    for row in range(1, len(shocks)):
        noise[row] = memory * noise[row - 1] + shocks[row]
    return noise[_WARM_UP:]
