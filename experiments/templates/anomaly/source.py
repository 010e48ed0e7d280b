"""Data of one's own to watch: anything that Python can read, as streams of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_modules.anomaly import AnomalyData, AnomalyStream

COLUMNS = ("power", "temperature", "pressure")
TRAINING = 600  # rows at the start of each pump that are taken for normal


class MyPumps(AnomalyData):
    """Pumps whose temperature and pressure follow their power; each leaks for a while. Put your own source
    into `read`.

    Args:
        pumps: How many.
        rows: Minutes of each.
        seed: Of the generator.
    """

    def __init__(self, pumps: int = 3, rows: int = 2400, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.pumps = pumps
        self.rows = rows
        self.seed = seed

    def read(self) -> list[AnomalyStream]:
        """One stream for each pump: values (rows, columns), and where the leak is, which only the metrics
        see."""
        random = np.random.default_rng(self.seed)
        return [self._pump(f"pump {number}", random) for number in range(1, self.pumps + 1)]

    def _pump(self, name: str, random: np.random.Generator) -> AnomalyStream:
        minute = np.arange(self.rows)
        power = (
            5 + np.sin(2 * np.pi * minute / random.integers(40, 90)) + 0.2 * random.standard_normal(self.rows)
        )
        temperature = np.full(self.rows, 40.0)
        for t in range(1, self.rows):  # it warms up and cools down slowly
            temperature[t] = (
                0.9 * temperature[t - 1] + 0.1 * (20 + 4 * power[t]) + 0.1 * random.standard_normal()
            )
        pressure = 2 * power + 0.2 * random.standard_normal(self.rows)
        first = int(random.integers(TRAINING + 300, self.rows - 200))
        leak = (minute >= first) & (minute < first + 60)
        pressure[leak] *= 0.75
        time = np.datetime64("2026-01-01", "ns") + minute * np.timedelta64(1, "m")
        return AnomalyStream(name, np.stack([power, temperature, pressure], 1), COLUMNS, TRAINING, leak, time)
