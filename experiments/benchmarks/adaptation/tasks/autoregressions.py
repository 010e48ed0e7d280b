"""Autoregressions of order 2 in one column, whose poles are redrawn every 200 rows.

``x_t = 2 r cos(theta) x_(t-1) - r^2 x_(t-2) + e_t``: a pair of conjugate poles of modulus r, uniform in 0.75
to 0.97, and angle theta, uniform in 0.1 pi to 0.9 pi; e_t is normal with standard deviation 0.4, so that x
has a variance near 1. Sequences begin anywhere within a segment. Errors are in variances of e: nobody can
come below 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dream import DREAMConfig
from experiments.benchmarks.adaptation.baselines import recursive_least_squares
from experiments.benchmarks.adaptation.protocol import OFF, Batch, Metric, Predictor, Scores, SequenceTask

MODULUS = (0.75, 0.97)
ANGLE = (0.1 * math.pi, 0.9 * math.pi)
INNOVATION = 0.4  # standard deviation
SEGMENT = 200  # rows between redraws
ROWS = {"train": 400, "validation": 800, "test": 800}
BATCH = 32
SEQUENCES = {"validation": 32, "test": 128}
BIN = 10  # rows of a point of the curve
LATE = 100  # rows after a redraw from which an error is late
FORGETTING = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99)


def coefficients(count: int, random: torch.Generator) -> Tensor:
    """Weights of the last value and the one before, (N, 2)."""
    share = torch.rand(2, count, generator=random)
    modulus = MODULUS[0] + (MODULUS[1] - MODULUS[0]) * share[0]
    angle = ANGLE[0] + (ANGLE[1] - ANGLE[0]) * share[1]
    return torch.stack([2 * modulus * angle.cos(), -modulus.square()], -1)


def series(count: int, rows: int, random: torch.Generator) -> Batch:
    """`count` sequences of one column, (N, T, 1)."""
    phase = torch.randint(SEGMENT, (count, 1), generator=random)
    index = (phase + torch.arange(rows + 1 + SEGMENT)) // SEGMENT  # a segment is read before the first row
    drawn = [coefficients(count, random) for _ in range(int(index.max()) + 1)]
    weights = torch.stack(drawn, 1).gather(1, index[..., None].expand(-1, -1, 2))
    noise = INNOVATION * torch.randn(rows + 1 + SEGMENT, count, generator=random).numpy()
    first, second = weights.permute(2, 1, 0).numpy()  # short vectors: faster here than as tensors
    last = before = np.zeros(count, np.float32)
    seen = []
    for a, b, e in zip(first, second, noise, strict=True):
        last, before = a * last + b * before + e, last
        seen.append(last)
    values = torch.from_numpy(np.stack(seen, 1))[:, SEGMENT:, None]
    age = ((phase + torch.arange(rows + 1 + SEGMENT)) % SEGMENT)[:, SEGMENT + 1 :]
    return Batch(values[:, :-1], values[:, 1:], {"age": age})


def least_squares(forgetting: float, batch: Batch) -> Tensor:
    """Recursive least squares on the last two values."""
    x = batch.inputs
    lagged = torch.cat([x, torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)], -1)
    return recursive_least_squares(lagged, batch.targets, INNOVATION**2, forgetting)


class Autoregressions(SequenceTask):
    name = "autoregressions"
    group = "probes with a known optimum"
    title = "autoregressions of one column, MSE over innovations"
    config = DREAMConfig(input_dim=1, hidden_dim=64, rank=1)
    steps = 1000
    metrics = (
        Metric("MSE", "variances of the innovations", bar=1.32, beats=(OFF,)),
        Metric("late in a segment", "variances of the innovations"),
    )
    axis, positions = "rows since the redraw", tuple(range(BIN // 2, SEGMENT, BIN))

    def train_batch(self, random: torch.Generator) -> Batch:
        return series(BATCH, ROWS["train"], random)

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        return [series(SEQUENCES[part], ROWS[part], self.random(part))]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        errors = (predictions[0] - batches[0].targets).double().square()[..., 0] / INNOVATION**2
        age = batches[0].facts["age"]
        values = {"MSE": float(errors.mean()), "late in a segment": float(errors[age >= LATE].mean())}
        return Scores(values, [float(errors[age // BIN == k].mean()) for k in range(SEGMENT // BIN)])

    def baselines(self) -> dict[str, Predictor]:
        return {
            f"recursive least squares, forgetting {rate:g}": partial(least_squares, rate)
            for rate in FORGETTING
        }
