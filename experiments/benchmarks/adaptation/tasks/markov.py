"""Markov chains that are new in every sequence: 8 symbols, rows of the transition matrix from a Dirichlet.

The Bayesian predictor, which knows the distribution of the chains, is the optimum: `baselines.dirichlet` with
the concentration that they are drawn with.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dream import DREAMConfig
from experiments.benchmarks.adaptation.baselines import dirichlet, witten_bell
from experiments.benchmarks.adaptation.protocol import Batch, Metric, Predictor, Scores, SequenceTask

SYMBOLS = 8
CONCENTRATION = 0.3
LENGTH = 200
BIN = 10  # steps of a point of the curve
BATCH = 32
SEQUENCES = {"validation": 64, "test": 256}


def chains(count: int, length: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` sequences (N, T + 1) of symbols, and the transition matrices (N, V, V) that made them."""
    numpy = np.random.default_rng(int(torch.randint(2**62, (), generator=random)))
    rows = numpy.dirichlet([CONCENTRATION] * SYMBOLS, (count, SYMBOLS))
    below = rows.cumsum(-1)[..., :-1]  # chance of a symbol up to each but the last
    samples, symbol = np.arange(count), numpy.integers(SYMBOLS, size=count)
    seen = [symbol]
    for share in numpy.random((length, count, 1)):
        symbol = (below[samples, symbol] <= share).sum(-1)
        seen.append(symbol)
    return torch.from_numpy(np.stack(seen, 1)), torch.from_numpy(rows)


def batch_of(symbols: Tensor) -> Batch:
    """The sequences with the next symbol asked for at each step."""
    return Batch(symbols[:, :-1], symbols[:, 1:])


class Markov(SequenceTask):
    name = "markov"
    group = "probes with a known optimum"
    title = "Markov chains redrawn per sequence, nats"
    config = DREAMConfig(input_dim=16, hidden_dim=64, rank=8)
    symbols = classes = SYMBOLS
    steps = 800
    metrics = (
        Metric("loss", "nats"),
        Metric("share of the gap closed", higher=True, bar=0.75, share_of="loss"),
    )
    axis, positions = "step", tuple(range(BIN // 2, LENGTH, BIN))

    def train_batch(self, random: torch.Generator) -> Batch:
        return batch_of(chains(BATCH, LENGTH, random)[0])

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        return [batch_of(chains(SEQUENCES[part], LENGTH, self.random(part))[0])]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        nats = -predictions[0].gather(2, batches[0].targets[..., None])[..., 0].double().mean(0)
        return Scores({"loss": float(nats.mean())}, nats.unflatten(0, (-1, BIN)).mean(1).tolist())

    def baselines(self) -> dict[str, Predictor]:
        counted: dict[str, Predictor] = {
            f"bigram counts from {start:g}": partial(self._counted, start) for start in (0.1, 0.5, 1.0)
        }
        return {**counted, "Witten-Bell": lambda batch: witten_bell(batch.inputs, SYMBOLS)}

    def optimum(self) -> Predictor:
        return partial(self._counted, CONCENTRATION)

    @staticmethod
    def _counted(start: float, batch: Batch) -> Tensor:
        return dirichlet(batch.inputs, SYMBOLS, start)
