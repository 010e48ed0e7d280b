"""`Change`: how far a stream has moved from what it usually is, seen by the layer itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

RECENT, USUAL = 20, 1000  # rows of the two running means
SETTLED = 2 * RECENT  # rows before anything counts as a change


class Running:
    """A value now, its mean over recent rows, and mean and variance over many."""

    def __init__(self, now: float = 0.0, recent: float = 0.0, mean: float = 0.0, var: float = 0.0) -> None:
        self.now = now
        self.recent = recent
        self.mean = mean
        self.var = var

    def add(self, value: float, recent: float, usual: float) -> None:
        """Enter the next value, by the rates of the two means."""
        self.now = value
        self.recent += recent * (value - self.recent)
        away = value - self.mean
        self.mean += usual * away
        self.var = (1 - usual) * (self.var + usual * away * away)

    @property
    def change(self) -> float:
        """Recent mean less the usual one, in usual deviations; 0 where nothing ever moved."""
        return (self.recent - self.mean) / math.sqrt(self.var) if self.var > 0 else 0.0


class Change:
    """Surprise and norm of the fast weights of a stream, relative to their own past.

    Both are of the first layer, means over its lanes; the surprise is the layer's own running mean,
    `DREAMState.avg_surprise`. Running means have rates 1/20 and 1/1000.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.surprise = Running()
        self.u_norm = Running()

    def add(self, surprise: float, u_norm: float) -> None:
        """Enter what the layer has after one more row."""
        self.rows += 1
        recent, usual = max(1 / RECENT, 1 / self.rows), max(1 / USUAL, 1 / self.rows)
        self.surprise.add(surprise, recent, usual)
        self.u_norm.add(u_norm, recent, usual)

    @property
    def size(self) -> float:
        """The larger change of the two, in usual deviations, without its sign; 0 before the 40th row."""
        if self.rows < SETTLED:
            return 0.0
        return max(abs(self.surprise.change), abs(self.u_norm.change))

    def values(self) -> list[float]:
        """Everything that it knows, for `load`."""
        return [float(self.rows), *vars(self.surprise).values(), *vars(self.u_norm).values()]

    def load(self, values: Sequence[float]) -> None:
        """Resume from what `values` returned."""
        self.rows = int(values[0])
        self.surprise, self.u_norm = Running(*values[1:5]), Running(*values[5:])
