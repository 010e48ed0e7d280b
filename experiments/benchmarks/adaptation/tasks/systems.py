"""Wiener-Hammerstein systems that are new in each sequence, one and ten steps ahead; and a real circuit.

A linear block, a static nonlinearity and a linear block, drawn at random, are driven by a known input; after
training on generated systems alone the same weights read a real circuit. Data and treatment are those of
``dream fit -c systems``: every core corrects linear models that learn within the sequence by recursive least
squares, in units of their newest errors, and reads both beside outputs and inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from dream import DREAMConfig
from experiments.benchmarks.adaptation.protocol import (
    BASELINE,
    GRU,
    LSTM,
    Batch,
    Metric,
    Predictor,
    Scores,
    SequenceTask,
)
from lightning_modules.forecasting.systems import SystemsData, SystemsShape
from lightning_modules.forecasting.systems.data import Part
from lightning_modules.forecasting.systems.reference import OUTLIER, linear_forecast, reference

SHAPE = SystemsShape(lags=8, ahead=(1, 10))
INPUTS = SHAPE.inputs + 3 * len(SHAPE.ahead)
STEPS = 400
SKIP = 100  # first steps of a sequence, which no figure counts
POOL = 2048  # systems of the training: they take a while to draw
BATCH = 32
BIN = 20  # steps of a point of the curve
FORGETTING = (0.99, 0.998, 1.0)
RIVALS = (LSTM, GRU, BASELINE)


def batch_of(data: SystemsData, part: Part, count: int) -> Batch:
    """Batch of the first `count` sequences of a part, in units of the reference."""
    drawn = data.batch(part, list(range(count)))
    known = reference(drawn.inputs, linear_forecast(drawn.inputs, SHAPE), SHAPE)
    return Batch(
        known.beside(drawn.inputs),
        (drawn.targets - known.future) / known.scale,
        {"reference": known.future, "scale": known.scale},
    )


def least_squares(forgetting: float, batch: Batch) -> Tensor:
    """Recursive least squares, one linear model for each distance, in units of the reference."""
    forecast = linear_forecast(batch.inputs[..., : SHAPE.inputs], SHAPE, forgetting)
    return (forecast - batch.facts["reference"]) / batch.facts["scale"]


class Systems(SequenceTask):
    name = "systems"
    group = "a class of systems"
    title = "Wiener-Hammerstein systems, RMSE"
    config = DREAMConfig.preset("fast_adaptation", input_dim=INPUTS, hidden_dim=64, rank=16)
    outputs = len(SHAPE.ahead)
    steps = 600
    metrics = tuple(
        Metric(f"{kind}, {ahead} steps ahead" if ahead > 1 else f"{kind}, one step ahead", beats=RIVALS)
        for kind in ("generated", "circuit")
        for ahead in SHAPE.ahead
    )
    axis, positions = "steps of a new system", tuple(range(BIN // 2, STEPS, BIN))

    def data(self, tested: Literal["generated", "circuit"] = "generated") -> SystemsData:
        """Systems of this seed."""
        return SystemsData(
            steps=STEPS, ahead=list(SHAPE.ahead), lags=SHAPE.lags, tested=tested, seed=self.seed
        )

    @cached_property
    def pool(self) -> Batch:
        """Sequences of the training."""
        return batch_of(self.data(), "train", POOL)

    @cached_property
    def parts(self) -> dict[str, list[Batch]]:
        """Batches of validation and test; those of the test are generated systems and the circuit."""
        generated, circuit = self.data(), self.data("circuit")
        return {
            "validation": [batch_of(generated, "val", generated.count("val"))],
            "test": [batch_of(data, "test", data.count("test")) for data in (generated, circuit)],
        }

    def setup(self) -> None:
        _ = self.pool, self.parts

    def train_batch(self, random: torch.Generator) -> Batch:
        drawn = torch.randint(POOL, (BATCH,), generator=random)
        return Batch(self.pool.inputs[drawn], self.pool.targets[drawn])

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        return self.parts[part]

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Mean squared error in units of the reference's newest errors, of which `OUTLIER` is the most."""
        return (predicted - batch.targets).clamp(-OUTLIER, OUTLIER).square().mean()

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        squares = [
            ((predicted - batch.targets) * batch.facts["scale"]).double().square()
            for predicted, batch in zip(predictions, batches, strict=True)
        ]
        values = [value for part in squares for value in part[:, SKIP:].mean((0, 1)).sqrt().tolist()]
        curve = squares[0][..., 0].mean(0).unflatten(0, (-1, BIN)).mean(1).sqrt().tolist()
        return Scores(dict(zip([metric.name for metric in self.metrics], values, strict=True)), curve)

    def baselines(self) -> dict[str, Predictor]:
        return {
            f"recursive least squares, forgetting {rate:g}": partial(least_squares, rate)
            for rate in FORGETTING
        }
