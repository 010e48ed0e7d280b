"""A rule that was trained on is replaced by another in the middle of a stream, and comes back.

A stream follows ``x_t = 0.9 Q x_(t-1) + e_t``, Q a random rotation (the rule) and e_t normal with variance 1
- 0.9^2 = 0.19 in each of six columns: x keeps variance 1 under every rule, and nobody can err by less than
0.19. Each seed trains on one rule; each test stream changes to one of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dream import DREAMConfig
from dream.errors import DREAMWarning
from experiments.benchmarks.adaptation.baselines import recursive_least_squares
from experiments.benchmarks.adaptation.protocol import Batch, Metric, Predictor, Scores, SequenceTask

COLUMNS = 6
MEMORY = 0.9
NOISE = 1 - MEMORY**2
BATCH = 32  # streams
TRAINED_ON = 128  # rows of a stream
CHANGES = (400, 1200, 1600)  # rows at which the other rule comes, the first comes back, the stream ends
STREAMS = {"validation": 16, "test": 32}
SPANS = {
    "before": (50, CHANGES[0]),  # fast weights need some rows, which no figure counts
    "change, first 20 rows": (CHANGES[0], CHANGES[0] + 20),
    "change, rows 200 to 800": (CHANGES[0] + 200, CHANGES[1]),
    "return, first 20 rows": (CHANGES[1], CHANGES[1] + 20),
    "return, rows 200 to 400": (CHANGES[1] + 200, CHANGES[2]),
}
BIN = 10  # rows of a point of the curve
FORGETTING = (0.9, 0.95, 0.98, 0.99, 0.995, 1.0)


def rotations(count: int, random: torch.Generator) -> Tensor:
    """Rules: random rotations and reflections of the columns, (N, D, D)."""
    q, r = torch.linalg.qr(torch.randn(count, COLUMNS, COLUMNS, generator=random))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]


def streams(rules: Sequence[Tensor], ends: Sequence[int], count: int, random: torch.Generator) -> Tensor:
    """`count` streams (N, T, D) that follow each of `rules` up to the row in `ends`.

    Args:
        rules: (N, D, D) each, or (1, D, D) for a rule that all streams share.
        ends: Rows before which each rule ends.
        count: N.
        random: Source of the noise.
    """
    x = torch.randn(count, COLUMNS, 1, generator=random).numpy()
    noise = NOISE**0.5 * torch.randn(ends[-1], *x.shape, generator=random).numpy()
    seen = []
    for rule, (first, last) in zip(rules, pairwise((0, *ends)), strict=True):
        step = MEMORY * rule.numpy()
        for e in noise[first:last]:
            x = step @ x + e
            seen.append(x[..., 0])
    return torch.from_numpy(np.stack(seen, 1))


def batch_of(x: Tensor) -> Batch:
    """The streams with the next row asked for at each; the first is asked for by nobody."""
    return Batch(x[:, :-1], x[:, 1:])


def least_squares(forgetting: float, batch: Batch) -> Tensor:
    """Recursive least squares on the last row."""
    return recursive_least_squares(batch.inputs, batch.targets, NOISE, forgetting)


def _config() -> DREAMConfig:
    with warnings.catch_warnings():  # a plasticity of 1 is outside of what is recommended, on purpose
        warnings.simplefilter("ignore", DREAMWarning)
        return DREAMConfig.preset(
            "fast_adaptation",
            input_dim=COLUMNS,
            hidden_dim=64,
            rank=COLUMNS,
            base_plasticity=1.0,
            forgetting_rate=0.006,
            target_norm=4.0,
            base_threshold=0.7,
            surprise_temperature=0.2,
            ltc_enabled=False,
        )


class RuleChange(SequenceTask):
    name = "rule_change"
    group = "probes with a known optimum"
    title = "change of a rule, MSE (0.19 is noise)"
    config = _config()
    rates = (3e-4, 1e-3, 3e-3)
    trial = 1.0  # what helps on the known rule early may harm after the change later
    readout = False
    steps = 200
    metrics = (
        Metric("change, rows 200 to 800", bar=0.35),
        Metric("change, first 20 rows", bar=1.0),
        *(Metric(name) for name in ("before", "return, first 20 rows", "return, rows 200 to 400")),
    )
    axis, positions = "row", tuple(range(BIN // 2, CHANGES[-1], BIN))

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.usual = rotations(1, self.random("rule"))

    def train_batch(self, random: torch.Generator) -> Batch:
        return batch_of(streams([self.usual], [TRAINED_ON], BATCH, random))

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        random, count = self.random(part), STREAMS[part]
        rules = [self.usual, rotations(count, random), self.usual]
        return [batch_of(streams(rules, CHANGES, count, random))]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        errors = (predictions[0] - batches[0].targets).double().square().mean((0, 2))
        errors = torch.cat([errors[:1], errors])  # row 0 is predicted by nobody; now a place is a row
        values = {name: float(errors[first:last].mean()) for name, (first, last) in SPANS.items()}
        return Scores(values, errors.unflatten(0, (-1, BIN)).mean(1).tolist())

    def baselines(self) -> dict[str, Predictor]:
        return {
            f"recursive least squares, forgetting {rate:g}": partial(least_squares, rate)
            for rate in FORGETTING
        }
