"""`DREAMAnomalyDetector`: how unusual each row of a stream is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dream import DREAMConfig
from lightning_modules.base import require
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.supervised import LAYER
from lightning_modules.stream import Reading, Shape, Updates
from lightning_modules.stream.rules import Moves

RATE = 0.01  # of the running error variance


class DREAMAnomalyDetector(OnlineObject):
    """Forecasts each row from those before; the score says how rare an error as large as this one has been of late.

    With e_i the error of column i, v_i its running mean square and r the deviation, as in line 3 of
    `dream.functional.dream_step`: ``r = sqrt(mean_i e_i^2 / v_i)``, ``score = (1 + #{r' < r}) / (2 + n)`` over the n
    deviations r' of the last `window` rows learnt: near 1 for a row that is further off than all of them, 0.5 in the
    middle, never 0 or 1. Rows are scored before they are learnt, so that an anomaly is measured with what was usual.

    Args:
        config, reading, updates, moves, seed: See `OnlineObject`.
        window: Rows over which a deviation is compared.

    Example:
        >>> model = DREAMAnomalyDetector(window=100)
        >>> for k in range(300):
        ...     model = model.learn_one({"a": (k * 37 % 100) / 100})
        >>> model.score_one({"a": 9.0}) > 0.98 > model.score_one({"a": 0.5})
        True
    """

    kind = "anomaly detector"

    def __init__(
        self,
        config: DREAMConfig = LAYER,
        reading: Reading = Reading(rate=0.01, lags=4),  # noqa: B008 - frozen
        updates: Updates = Updates("least_squares", forgetting=0.999),  # noqa: B008 - frozen
        moves: Moves = "head",
        seed: int = 0,
        window: int = 1000,
    ) -> None:
        super().__init__(config, reading, updates, moves, seed)
        require("window", window, isinstance(window, int) and window >= 1, "a whole number of at least 1")
        self.window = window
        self.expected: Tensor | None = None
        """(D,) forecast of the next row"""
        self.usual = torch.zeros(0, dtype=torch.float64)
        """(D,) running mean square of the errors"""
        self.past = torch.zeros(0, dtype=torch.float64)
        """Deviations of the last rows, oldest first"""

    def _shape(self) -> Shape:
        return Shape("forecasting", len(self.columns), len(self.columns))

    def _extra(self) -> dict[str, Any]:
        return {"arguments": {"window": self.window}}

    def _tensors(self) -> dict[str, Tensor]:
        found = {"usual": self.usual, "past": self.past}
        return found if self.expected is None else found | {"expected": self.expected}

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.expected, self.usual, self.past = tensors.get("expected"), tensors["usual"], tensors["past"]

    def _squares(self, row: Tensor) -> Tensor:
        """Squared error of each column, 0 where its value is missing."""
        assert self.expected is not None
        return (row - self.expected).square().nan_to_num()

    def _deviation(self, squares: Tensor) -> Tensor:
        return torch.where(self.usual > 0, squares / self.usual, squares.sign()).mean().sqrt()

    def score_one(self, x: Mapping[str, float | None]) -> float:
        """How unusual row `x` would be if it came next, in (0, 1); 0.5 while there is nothing to compare with.

        Raises:
            DataError: columns or a value that do not fit.
        """
        row = self._row(x)
        if self.expected is None or not len(self.past):
            return 0.5
        deviation = self._deviation(self._squares(row))
        return (1 + int((self.past < deviation).sum())) / (2 + len(self.past))

    def learn_one(self, x: Mapping[str, float | None]) -> DREAMAnomalyDetector:
        """Read row `x`, and learn what is usual from it.

        Raises:
            DataError: columns or a value that do not fit.
        """
        row = self._row(x, settle=True)
        if self.expected is not None:
            squares = self._squares(row)
            if len(self.past):
                limit = torch.where(self.usual > 0, 25 * self.usual, torch.inf)  # one outlier is not yet usual
                self.past = torch.cat([self.past, self._deviation(squares).reshape(1)])[-self.window :]
                rate = max(RATE, 1 / (len(self.past) + 1))
                self.usual = self.usual + rate * (torch.minimum(squares, limit) - self.usual)
            else:
                self.usual, self.past = squares, torch.ones(1, dtype=torch.float64)
        filled = torch.where(row.isnan(), row if self.expected is None else self.expected, row)
        self.expected = self._start().process(filled.nan_to_num()[None]).predictions[0, 0]
        return self
