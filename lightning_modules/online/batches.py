"""Batches of the online task: crops of streams to train on, and chunks of one stream after another.

Shapes: N crops, T rows, D input columns, C targets, H rows ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

STRIDE = 8  # rows between the starts of training crops


class OnlineBatch(NamedTuple):
    """Consecutive rows: crops to train on, or a chunk of a stream."""

    rows: Tensor
    """(N, T, D) float64 inputs, standardised for forecasting and regression; NaN where one is missing."""
    targets: Tensor
    """(N, T + H, C) for forecasting: the target columns of these rows and the next H, NaN after the last;
    (N, T, C) for regression, (N, T) class numbers for classification. NaN where one is missing."""
    start: Tensor
    """(N,) number of the first row in its stream."""
    number: Tensor
    """(N,) number of the stream among the `members` of the data."""
    spare: bool = False
    """True if nothing in this batch counts: it keeps a process whose part of the batch is empty in step."""


class Crops(Dataset[OnlineBatch]):
    """Pieces of `length` rows, each within a stream; those of a stream begin at its `starts`.

    Args:
        cuts: give the piece of each stream that begins at a row and has so many.
        starts: first rows of the pieces of each.
        length: of a piece.
    """

    def __init__(
        self, cuts: Sequence[Callable[[int, int], OnlineBatch]], starts: Sequence[range], length: int
    ) -> None:
        self.cuts = cuts
        self.starts = starts
        self.length = length
        self.ends = np.cumsum([len(each) for each in starts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, indices: list[int]) -> OnlineBatch:
        """Batch of these pieces; without any, a spare one."""
        pieces = [self._piece(index) for index in indices or [0]]
        rows, targets, start, number, _ = zip(*pieces, strict=True)
        return OnlineBatch(
            torch.cat(rows), torch.cat(targets), torch.cat(start), torch.cat(number), spare=not indices
        )

    def _piece(self, index: int) -> OnlineBatch:
        place = int(np.searchsorted(self.ends, index, "right"))
        start = self.starts[place][index - int(self.ends[place])]  # counted from the last one
        return self.cuts[place](start, self.length)
