"""A stream of one's own to learn from while it passes: anything that Python can read, row by row in time
order."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_modules.data.series import Series
from lightning_modules.online import OnlineData
from lightning_modules.online.data import OnlineStream

INPUTS = ("outdoor", "sun", "people")


class MyHeating(OnlineData):
    """Power that a building needs for heating, from weather and people; the insulation changes on the way.
    Put your own source into `read`.

    Args:
        hours: Number of rows.
        changes: How often the building changes.
        seed: Of the generator.
    """

    def __init__(self, hours: int = 4000, changes: int = 3, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.hours = hours
        self.changes = changes
        self.seed = seed

    @property
    def drift_rows(self) -> tuple[int, ...]:
        """Rows at which the rule changes, for the picture; leave it out where nobody knows."""
        return tuple(self.hours * k // (self.changes + 1) for k in range(1, self.changes + 1))

    def read(self) -> OnlineStream:
        """Inputs (rows, columns), and what is to be said of each row, (rows, targets)."""
        random, hour = np.random.default_rng(self.seed), np.arange(self.hours)
        sun = np.maximum(np.sin(2 * np.pi * (hour - 6) / 24), 0)
        front = np.cumsum(random.standard_normal(self.hours)) % 40
        outdoor = 8 + 4 * sun + np.abs(front - 20) / 2 + random.standard_normal(self.hours)
        people = random.integers(0, 30, self.hours) * (sun > 0)
        leak, window = random.uniform([0.4, 1], [1.2, 4], (self.changes + 1, 2))[
            np.searchsorted(self.drift_rows, hour, "right")
        ].T
        power = leak * (21 - outdoor) - window * sun - 0.1 * people + 0.3 * random.standard_normal(self.hours)
        time = np.datetime64("2026-01-01", "ns") + hour * np.timedelta64(1, "h")
        inputs = Series(np.stack([outdoor, sun, people], 1), INPUTS, time, "heating of a building")
        return OnlineStream(inputs, "regression", ("power",), power[:, None])
