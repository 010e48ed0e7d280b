"""`DREAMAnomalyDetector`: how unusual each row of a stream is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dream import DREAMConfig
from dream.errors import DataError
from lightning_modules.anomaly.scores import AnomalyScore, RunningScale, carried_tensors, load_carried
from lightning_modules.calls import alone, whole
from lightning_modules.checks import require_int
from lightning_modules.learners.base import AT_ONCE, OnlineObject
from lightning_modules.learners.values import Row, Table
from lightning_modules.stream import LAYER, Moves, Reading, Shape, Updates
from lightning_modules.stream.checks import require_like


class Judgement(NamedTuple):
    """Judgement of a row, before it is learnt."""

    score: float
    """From 0 to 1."""
    alarm: float
    """Strength of the alarm, 0 for none."""
    measure: str | None
    """Measure that was most improbable, of `lightning_modules.anomaly.scores.MEASURES`; None if none was."""
    column: str | None
    """Its column."""


NOT_YET = Judgement(0.0, 0.0, None, None)


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
        self.expected: np.ndarray | None = None
        """(D,) forecast of the next row."""
        self._judged: tuple[bytes, RunningScale, tuple[Judgement, RunningScale, AnomalyScore]] | None = None
        """The row that was judged last, the scale before it, and what came out."""

    def _shape(self) -> Shape:
        return Shape("forecasting", len(self.columns), len(self.columns), lags=self.lags)

    def _extra(self) -> dict[str, Any]:
        return {"arguments": {"window": self.window}}

    def _make_scoring(self) -> None:
        self.scale = RunningScale(1, len(self.columns), self.window)
        self.score = AnomalyScore(1, len(self.columns), self.window, np.ones(1, dtype=int))

    def _tensors(self) -> dict[str, Tensor]:
        assert self.expected is not None
        return carried_tensors(self.scale, self.score) | {"expected": torch.from_numpy(self.expected)}

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._make_scoring()
        like = torch.zeros(len(self.columns), dtype=torch.float64)
        scoring = {name: value for name, value in tensors.items() if name != "expected"}
        require_like({name: tensors[name] for name in tensors.keys() - scoring.keys()}, {"expected": like})
        load_carried(self.scale, self.score, scoring)
        self.expected = tensors["expected"].numpy()

    def _judge(self, row: np.ndarray, expected: np.ndarray) -> tuple[Judgement, RunningScale, AnomalyScore]:
        """Judgement of `row` (D,), forecast as `expected` (D,), and what scale and score learn from it.

        It is kept, for the case that the same row is learnt next.
        """
        if self._judged is not None:
            given, before, judged = self._judged
            if before is self.scale and given == row.tobytes():
                return judged
        learning, no_gate = np.ones(1, dtype=bool), np.zeros((1, 2))
        scale, score = self.scale.copy(), self.score.copy()
        prediction = scale.relative(expected[None])
        x = scale.step(row[None], learning)
        (value,), (alarm,) = score.step(x, prediction, no_gate, learning)
        measure, column = score.cause_of(0)
        cause = (measure, self.columns[column or 0]) if value > 0 else (None, None)
        judged = Judgement(float(value), float(alarm), *cause), scale, score
        self._judged = row.tobytes(), self.scale, judged
        return judged

    @alone
    def score_one(self, x: Row) -> float:
        """Score of row `x` if it came next, from 0 to 1; 0 while too few rows are known.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        return self.judge_one(x).score

    @alone
    def judge_one(self, x: Row) -> Judgement:
        """Score of row `x` if it came next, its alarm, and the measure and column that made it so high.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        row = self._row(x)
        return NOT_YET if self.expected is None else self._judge(row, self.expected)[0]

    @whole
    def learn_one(self, x: Row) -> DREAMAnomalyDetector:
        """Read row `x` and learn from it what is usual.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        self._learn(self._row(x, fix=True)[None])
        return self

    @whole
    def learn_many(self, x: Table) -> DREAMAnomalyDetector:
        """Read a table of rows, oldest first, and learn from it: as `learn_one` of each row, but faster.

        Args:
            x: A DataFrame, or a list of rows.

        Raises:
            DataError: the columns are others, a value is not allowed, or there is no row.
        """
        rows = self._table(x)
        if not len(rows):
            raise DataError("`x` must hold at least one row; got none.")
        for start in range(0, len(rows), AT_ONCE):
            self._learn(rows[start : start + AT_ONCE])
        return self

    def _learn(self, rows: np.ndarray) -> None:
        if self.expected is None:
            self._make_scoring()
            self.expected = np.where(np.isnan(rows[0]), 0.0, rows[0])
        forecasts = self._start().advance(rows)[0][:, 0]
        for row, expected in zip(rows, [self.expected, *forecasts[:-1]], strict=True):
            _, self.scale, self.score = self._judge(row, expected)
        self.expected = forecasts[-1]
