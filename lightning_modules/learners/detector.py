"""`DREAMAnomalyDetector`: how unusual each row of a stream is."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream import DREAMConfig
from lightning_modules.anomaly.scores import AnomalyScore, RunningScale, carried_tensors, load_carried
from lightning_modules.calls import alone, whole
from lightning_modules.checks import require_int
from lightning_modules.learners.base import OnlineObject, Row
from lightning_modules.stream import LAYER, Moves, Reading, Shape, Updates
from lightning_modules.stream.checks import require_like


class DREAMAnomalyDetector(OnlineObject):
    """Scores each row by how improbable its deviation from the forecast is, given the recent past.

    The score is that of the anomaly task, `AnomalyScore`, with the measures of the forecast and of the data:
    0.1 for each decade of tail probability, so that 0.3 is a row such as one in a thousand. Rows are scored
    before they are learnt, so that an anomaly is compared with the past alone. What was not observed
    has no score, and a row in which nothing was scores 0.

    Args:
        config, reading, updates, moves, seed, lags: See `OnlineObject`.
        window: Rows after which the past of scales and tails fades.

    Example:
        >>> model = DREAMAnomalyDetector(window=100)
        >>> for k in range(300):
        ...     model = model.learn_one({"a": (k * 37 % 100) / 100})
        >>> model.score_one({"a": 9.0}) > 0.5 > 0.2 > model.score_one({"a": 0.5})
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
        lags: int = 1,
    ) -> None:
        super().__init__(config, reading, updates, moves, seed, lags)
        require_int("window", window)
        self.window = window
        self.expected: Tensor | None = None
        """(D,) forecast of the next row."""

    def _shape(self) -> Shape:
        return Shape("forecasting", len(self.columns), len(self.columns), lags=self.lags)

    def _extra(self) -> dict[str, Any]:
        return {"arguments": {"window": self.window}}

    def _make_scoring(self) -> None:
        self.scale = RunningScale(1, len(self.columns), self.window)
        self.score = AnomalyScore(1, len(self.columns), self.window, np.ones(1, dtype=int))

    def _tensors(self) -> dict[str, Tensor]:
        assert self.expected is not None
        return carried_tensors(self.scale, self.score) | {"expected": self.expected}

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._make_scoring()
        like = torch.zeros(len(self.columns), dtype=torch.float64)
        scoring = {name: value for name, value in tensors.items() if name != "expected"}
        require_like({name: tensors[name] for name in tensors.keys() - scoring.keys()}, {"expected": like})
        load_carried(self.scale, self.score, scoring)
        self.expected = tensors["expected"]

    def _scoring(self) -> tuple[RunningScale, AnomalyScore]:
        """Copies of scale and score, which are left as they are by what the copies learn."""
        score = copy(self.score)
        score.tail, score.recent = copy(score.tail), score.recent.copy()
        return copy(self.scale), score

    def _judge(self, row: Tensor, expected: Tensor, scale: RunningScale, score: AnomalyScore) -> float:
        """Score of `row` (D,), forecast as `expected` (D,); `scale` and `score` learn from it."""
        learning, no_gate = np.ones(1, dtype=bool), np.zeros((1, 2))
        prediction = copy(scale).step(expected[None].numpy(), ~learning)
        x = scale.step(row[None].numpy(), learning)
        return float(score.step(x, prediction, no_gate, learning)[0][0])

    @alone
    def score_one(self, x: Row) -> float:
        """Score of row `x` if it came next, from 0 to 1; 0 while too few rows are known.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        row = self._row(x)
        if self.expected is None:
            return 0.0
        return self._judge(row, self.expected, *self._scoring())

    @whole
    def learn_one(self, x: Row) -> DREAMAnomalyDetector:
        """Read row `x` and learn from it what is usual.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        row = self._row(x, fix=True)
        if self.expected is None:
            self._make_scoring()
            self.expected = row.nan_to_num()
        scale, score = self._scoring()
        self._judge(row, self.expected, scale, score)
        self.scale = scale
        self.score = score
        self.expected = self._start().advance(row[None]).predictions[0, 0]
        return self
