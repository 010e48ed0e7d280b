"""Linear systems that are redrawn within the sequence, every 40 to 80 steps: autoregressions and oscillators.

A sequence follows ``x_t = A x_(t-1) + e_t`` in 8 columns, e_t normal with variance 0.1. In one half of the
sequences A is a vector autoregression: entries normal with variance 0.9^2 / 8, drawn again where the
spectral radius is 0.97 or more. In the other half A is four damped oscillators of two columns each, blocks
``rho [[cos theta, sin theta], [-sin theta, cos theta]]``, rho uniform in 0.85 to 0.97, theta in 0.1 to 1.5.

The optimum is the Bayesian regression with the true prior, which also knows when a system is redrawn and of
which kind it is: conjugate for the autoregressions, whose bound on the radius it does not use, and over a
grid of rho and theta for the oscillators.

Shapes: N samples, T steps, D columns, O = D / 2 oscillators.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dream import DREAMConfig
from experiments.benchmarks.adaptation.baselines import recursive_least_squares
from experiments.benchmarks.adaptation.protocol import Batch, Metric, Predictor, Scores, SequenceTask

COLUMNS = 8
NOISE = 0.1  # variance
GAIN, LARGEST = 0.9, 0.97  # of a vector autoregression
RHO, THETA = (0.85, 0.97), (0.1, 1.5)
GRID = 16, 64  # points of rho and theta
SHORTEST, LONGEST = 40, 80  # steps of a system
LENGTH = 180
WARM_UP = 50  # steps before the first that is seen
BATCH = 32
SEQUENCES = {"validation": 64, "test": 256}
CURVE = 40  # steps after a redraw
FORGETTING = (0.85, 0.9, 0.93, 0.95, 0.98)


def uniform(low: float, high: float, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=random)


def autoregressions(count: int, random: torch.Generator) -> Tensor:
    """Matrices (N, D, D) of stable vector autoregressions."""
    found = torch.empty(0, COLUMNS, COLUMNS)
    while len(found) < count:
        drawn = torch.randn(2 * count, COLUMNS, COLUMNS, generator=random) * GAIN / COLUMNS**0.5
        found = torch.cat([found, drawn[torch.linalg.eigvals(drawn).abs().amax(-1) < LARGEST]])
    return found[:count]


def oscillators(count: int, random: torch.Generator) -> Tensor:
    """Matrices (N, D, D) of four damped oscillators each."""
    shape = (count, COLUMNS // 2)
    rho, theta = uniform(*RHO, shape, random), uniform(*THETA, shape, random)
    a, b = rho * theta.cos(), rho * theta.sin()
    blocks = torch.stack([a, b, -b, a], -1).unflatten(-1, (2, 2))
    found = torch.zeros(count, COLUMNS // 2, 2, COLUMNS // 2, 2)
    for place in range(COLUMNS // 2):
        found[:, place, :, place] = blocks[:, place]
    return found.view(count, COLUMNS, COLUMNS)


def redraws(count: int, length: int, random: torch.Generator) -> Tensor:
    """Index of the system at each step, (N, T), of at most ``length // SHORTEST + 1`` systems."""
    most = length // SHORTEST + 1
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count, most), generator=random)
    begins = lengths.cumsum(1)[:, :-1]
    return (torch.arange(length) >= begins[..., None]).sum(1)


def systems(count: int, random: torch.Generator) -> Batch:
    """`count` sequences, the first half vector autoregressions, the second oscillators."""
    half = count // 2
    index = redraws(count, LENGTH, random)
    index = torch.cat([index[:, :1].expand(-1, WARM_UP), index], 1)
    most = LENGTH // SHORTEST + 1
    matrices = torch.cat([autoregressions(half * most, random), oscillators((count - half) * most, random)])
    matrix = matrices.view(count, most, COLUMNS, COLUMNS).numpy()
    noise = NOISE**0.5 * torch.randn(index.shape[1], count, COLUMNS, 1, generator=random).numpy()
    x, seen, samples = np.zeros_like(noise[0]), [], np.arange(count)
    for system, e in zip(index.T.numpy(), noise, strict=True):  # small arrays: faster here than as tensors
        x = matrix[samples, system] @ x + e
        seen.append(x[..., 0])
    values, index = torch.from_numpy(np.stack(seen, 1))[:, WARM_UP - 1 :], index[:, WARM_UP - 1 :]
    fresh = index.diff(dim=1) > 0
    fresh[:, 0] = True
    oscillating = torch.arange(count) >= half
    return Batch(values[:, :-1], values[:, 1:], {"fresh": fresh, "oscillating": oscillating})


def since(fresh: Tensor) -> Tensor:
    """Steps since the newest redraw, (N, T)."""
    steps = torch.arange(fresh.shape[1]).expand_as(fresh)
    return steps - torch.where(fresh, steps, 0).cummax(1).values


def sums_since(values: Tensor, fresh: Tensor) -> Tensor:
    """Sums over the steps since the newest redraw and before each step, of `values` (N, T, ...)."""
    before = torch.cat([torch.zeros_like(values[:, :1]), values.cumsum(1)[:, :-1]], 1)
    begun = torch.arange(fresh.shape[1]) - since(fresh)
    samples = torch.arange(len(values))[:, None]
    return before - before[samples, begun]


def on_grid(x: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    """Posterior mean of y (N, T, D) after x (N, T, D) for oscillators, by their likelihood on a grid.

    With J a quarter turn of each pair of columns, ``y = a x + b J x + e`` with (a, b) = rho (cos theta, sin
    theta), whose log likelihood is ``(a sum x.y + b sum Jx.y - (a^2 + b^2) sum |x|^2 / 2) / NOISE``.
    """
    x, y = (part.double().unflatten(-1, (COLUMNS // 2, 2)) for part in (x, y))
    turned = torch.stack([x[..., 1], -x[..., 0]], -1)
    rho, theta = (
        low + (high - low) * (torch.arange(points) + 0.5) / points
        for (low, high), points in zip((RHO, THETA), GRID, strict=True)
    )
    a = (rho[:, None] * theta.cos()).flatten().double()
    b = (rho[:, None] * theta.sin()).flatten().double()
    straight, across, square = (
        sums_since(product.sum(-1), fresh)[..., None] for product in (x * y, turned * y, x * x)
    )
    weights = ((straight * a + across * b - square * (a * a + b * b) / 2) / NOISE).softmax(-1)
    mean_a, mean_b = (weights @ a)[..., None], (weights @ b)[..., None]
    return (mean_a * x + mean_b * turned).flatten(2)


def bayesian(batch: Batch) -> Tensor:
    """Posterior mean of the targets; see the module."""
    x, y, fresh, swings = batch.inputs, batch.targets, batch.facts["fresh"], batch.facts["oscillating"]
    found = torch.empty_like(y, dtype=torch.float64)
    ridge = NOISE / (GAIN**2 / COLUMNS)
    found[~swings] = recursive_least_squares(x[~swings], y[~swings], ridge, fresh=fresh[~swings])
    parts = [part.split(16) for part in (x[swings], y[swings], fresh[swings])]  # the grid takes memory
    found[swings] = torch.cat([on_grid(*some) for some in zip(*parts, strict=True)])
    return found


def least_squares(forgetting: float, batch: Batch) -> Tensor:
    """Recursive least squares that knows neither kind nor redraws."""
    return recursive_least_squares(batch.inputs, batch.targets, 1.0, forgetting)


class LinearSystems(SequenceTask):
    name = "linear_systems"
    group = "probes with a known optimum"
    title = "linear systems redrawn within the sequence, MSE"
    config = DREAMConfig(input_dim=COLUMNS, hidden_dim=64, rank=8)
    steps = 800
    metrics = (
        Metric("MSE"),
        Metric("autoregressions"),
        Metric("oscillators"),
        Metric("share of the gap closed", higher=True, bar=0.6, share_of="MSE"),
    )
    axis, positions = "steps since the redraw", tuple(range(CURVE))

    def train_batch(self, random: torch.Generator) -> Batch:
        return systems(BATCH, random)

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        return [systems(SEQUENCES[part], self.random(part))]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        batch, swings = batches[0], batches[0].facts["oscillating"]
        errors = (predictions[0] - batch.targets).double().square().mean(-1)
        values = {
            "MSE": float(errors.mean()),
            "autoregressions": float(errors[~swings].mean()),
            "oscillators": float(errors[swings].mean()),
        }
        age = since(batch.facts["fresh"])
        return Scores(values, [float(errors[age == step].mean()) for step in self.positions])

    def baselines(self) -> dict[str, Predictor]:
        return {
            f"recursive least squares, forgetting {rate:g}": partial(least_squares, rate)
            for rate in FORGETTING
        }

    def optimum(self) -> Predictor:
        return bayesian
