"""`Table`: rows of a chunk that a head follows by least squares, predicted many at a time.

Shapes: M rows, L lanes, F features of a lane, O outputs of a lane; H rows ahead, C targets.
"""

from __future__ import annotations

import numpy as np

from dream.ops import native
from lightning_modules.stream.head_rules import LeastSquares
from lightning_modules.stream.memory import Memory
from lightning_modules.stream.rules import HeadArrays, Rule

LEAST = 8  # rows of a chunk for which it pays


class Table:
    """The next rows of a forecaster's stream, and what is learnt before each of them is predicted.

    Args:
        rule: What learns from them; it is moved on.
        memory: Holds features of all these rows.
        learnt: Rows that were learnt from.
        stop: Number of the row after the last one that is predicted.
        lag: Row t is learnt before row t + lag is predicted.
    """

    @classmethod
    def of(cls, rule: Rule, memory: Memory, learnt: int, row: int, rows: int, lag: int) -> Table | None:
        """The `rows` rows from `row` on; None where they are few, or a rule learns them one by one."""
        if not isinstance(rule, LeastSquares) or rows < LEAST or learnt < memory.first:
            return None
        return cls(rule, memory, learnt, row + rows, lag)

    def __init__(self, rule: LeastSquares, memory: Memory, learnt: int, stop: int, lag: int) -> None:
        self.rule = rule
        self.lag = lag
        self.first = learnt
        self.stop = max(stop - lag, self.first)
        self.z, self.y = rule.pairs(memory, self.first, self.stop)
        ahead = memory("values", self.stop, stop).swapaxes(0, 1)
        last = np.ones((*ahead.shape[:2], self.z.shape[-1]))
        last[..., :-1] = ahead
        self.z = np.concatenate([self.z, last], 1)
        unknown = np.isnan(self.y)
        self.learns = ~unknown.all(-1)
        self.y = np.where(unknown, 0.0, self.y)
        self.partly = np.flatnonzero((unknown.any(-1) & self.learns).any(0))
        """Rows some of whose targets are missing: what fills them takes the weights of their time."""

    def outputs(self, row: int, learnt: int, head: HeadArrays) -> np.ndarray | None:
        """The head's outputs (M, H, C) for the next rows, each with the weights of its time; the head learns.

        None where the next row has to be taken by itself.

        Args:
            row: Its number.
            learnt: Rows that were learnt from.
            head: The head's weights, those after the rows that are taken.
        """
        kernel = native.kernel()
        if learnt != row - self.lag or isinstance(kernel, str):
            return None
        start = learnt - self.first
        later = self.partly[np.searchsorted(self.partly, start) :]
        stop = int(later[0]) if len(later) else self.stop - self.first
        if stop == start:  # no other condition: nothing may depend on later rows
            return None
        rule, some = self.rule, slice(start, stop)
        gram, moment = rule.gram.copy(), rule.moment.copy()
        found = kernel.foretell(
            self.z[:, start : stop + self.lag],
            self.learns[:, some],
            self.y[:, some],
            gram,
            moment,
            rule.prior,
            self.lag,
            rule.forgetting,
            rule.ridge,
        )
        if found is None:
            return None
        rule.gram, rule.moment = gram, moment
        rule.solve(learnt, learnt + stop - start, head)
        return rule.network.to_targets(found.swapaxes(0, 1).astype(head.weight.dtype))
