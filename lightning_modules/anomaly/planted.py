"""A generated plant with planted anomalies of five kinds, and a change of regime that is no anomaly."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from lightning_modules.anomaly.data import AnomalyData, AnomalyStream
from lightning_modules.checks import require_int

KINDS = ("spike", "shift", "flat line", "noise", "decoupled")
SETTLING = 200  # rows that are generated before the first one that is kept


class Planted(NamedTuple):
    """One planted anomaly: its kind, column, first and last row."""

    kind: str
    column: int
    first: int
    last: int


class PlantedAnomalies(AnomalyData):
    """Sensors of one plant, generated; bit for bit the same for the same arguments.

    Sensor c at row t:

        y_c(t) = level_c + sum_k mix_ck s_k(t) + noise

    with as many sources s_k as sensors, half of them rhythms (periods of 24 to 90 rows) and half first-order
    autoregressive. After the training part, anomalies are planted in turn, in one sensor at a time: a spike
    (2 rows), a shifted level, a flat line, noise of one and a half times the deviation, and a sensor
    decoupled from the others (the sources reach it 40 rows late). Two thirds into the stream the regime
    changes for good: levels and rhythms of all sensors move, which no label marks.

    Args:
        sensors: Number of columns.
        rows: Number of rows.
        anomalies: Number of planted anomalies.
        training: Rows at the start in which nothing is planted.
        seed: Seed of the generator; nothing else is random.
    """

    def __init__(
        self,
        sensors: int = 4,
        rows: int = 5000,
        anomalies: int = 20,
        training: int = 1000,
        seed: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.sensors = require_int("sensors", sensors)
        self.anomalies = require_int("anomalies", anomalies)
        self.training = require_int("training", training, least=100)
        self.rows = require_int("rows", rows, least=training + 100 * anomalies)
        self.seed = require_int("seed", seed, least=0)

    @property
    def drift_rows(self) -> tuple[int, ...]:
        return (2 * self.rows // 3,)

    @cached_property
    def planted(self) -> list[Planted]:
        """All planted anomalies, in time order; none of them spans the change of regime."""
        random = np.random.default_rng([self.seed, 1])
        borders = np.linspace(self.training, self.rows, self.anomalies + 1).astype(int)
        found = []
        for k, (start, end) in enumerate(pairwise(borders)):
            kind = KINDS[k % len(KINDS)]
            length = 2 if kind == "spike" else int(random.integers(20, 40))
            first = int(random.integers(start + 20, end - length - 20))
            change = self.drift_rows[0]
            if first <= change <= first + length:
                first = change - length - 1
            found.append(Planted(kind, int(random.integers(self.sensors)), first, first + length - 1))
        return found

    def read(self) -> list[AnomalyStream]:
        random = np.random.default_rng([self.seed, 0])
        total, change = self.rows + SETTLING, self.drift_rows[0] + SETTLING
        regime = (np.arange(total) >= change).astype(int)[:, None]
        time = np.arange(total, dtype=np.float64)[:, None]
        rhythms = (self.sensors + 1) // 2
        period = random.uniform(24, 90, (2, rhythms))[regime[:, 0]]
        phase = random.uniform(0, 2 * np.pi, rhythms)
        waves = np.sin(2 * np.pi * time / period + phase)
        shocks = 0.04 * random.standard_normal((total, self.sensors))
        slow = np.zeros_like(shocks)
        for row in range(1, total):
            slow[row] = 0.9 * slow[row - 1] + shocks[row]
        sources = np.concatenate([waves, slow[:, : self.sensors - rhythms]], 1)
        mix = random.uniform(-1, 1, (self.sensors, self.sensors))
        level = 10 * random.uniform(-1, 1, (2, self.sensors))
        clean = level[0] + regime * 0.2 * level[1] + sources @ mix
        noise = 0.02 * random.standard_normal(clean.shape)
        values, late = (clean + noise)[SETTLING:], (clean + noise)[SETTLING - 40 : -40]
        label = np.zeros(self.rows, dtype=bool)
        deviation = values[: self.training].std(0)
        for kind, column, first, last in self.planted:
            rows = slice(first, last + 1)
            label[rows] = True
            part = values[rows, column]
            if kind == "spike":
                part += 5 * deviation[column]
            elif kind == "shift":
                part += 3 * deviation[column]
            elif kind == "flat line":
                part[:] = part[0]
            elif kind == "noise":
                part += 1.5 * deviation[column] * random.standard_normal(len(part))
            else:
                part[:] = late[rows, column]
        names = tuple(f"sensor_{number}" for number in range(1, self.sensors + 1))
        settings = f"sensors {self.sensors}, rows {self.rows}, anomalies {self.anomalies}, seed {self.seed}"
        return [AnomalyStream(f"planted anomalies ({settings})", values, names, self.training, label)]
