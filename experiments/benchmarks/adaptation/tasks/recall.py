"""Associative recall: pairs of a key and a value, then every key once, whose value is asked for.

A sequence of P pairs reads ``k_1 v_1 k_2 v_2 ... k_P v_P q_1 ... q_P``: P different keys of 64, for each a
value of another 64, and the keys again in random order; after q_i the value that followed it is asked for.
Nothing tells afterwards whether an answer was right. Source: multi-query associative recall, Arora et al.,
Zoology, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dream import DREAMConfig
from experiments.benchmarks.adaptation.protocol import (
    NOT_COUNTED,
    Batch,
    Metric,
    Predictor,
    Scores,
    SequenceTask,
)

KEYS = 64  # and as many values
PAIRS = (8, 16, 32, 64)  # of the test
BARS = (0.99, 0.99, 0.98, 0.90)
TRAINED_ON = (4, 8, 16, 32, 64, 64)
BATCH = 64
SEQUENCES = {"validation": 64, "test": 256}


def sequences(pairs: int, count: int, random: torch.Generator) -> Batch:
    """`count` sequences of so many pairs, (N, 3 P) symbols."""
    keys = torch.rand(count, KEYS, generator=random).argsort(1)[:, :pairs]
    values = torch.randint(KEYS, 2 * KEYS, (count, pairs), generator=random)
    order = torch.rand(count, pairs, generator=random).argsort(1)
    shown = torch.stack([keys, values], -1).flatten(1)
    inputs = torch.cat([shown, keys.gather(1, order)], 1)
    targets = torch.cat([torch.full_like(shown, NOT_COUNTED), values.gather(1, order)], 1)
    return Batch(inputs, targets)


def looked_up(batch: Batch) -> Tensor:
    """Log probabilities (N, T, V) of a table of all pairs of neighbours: nearest neighbour on exact keys."""
    before, after = batch.inputs[:, :-1], batch.inputs[:, 1:]
    same = batch.inputs[:, :, None] == before[:, None]
    earlier = torch.ones(same.shape[1:], dtype=torch.bool).tril(-1)
    first = (same & earlier).to(torch.uint8).argmax(-1)
    found = torch.zeros(*batch.inputs.shape, 2 * KEYS) + 1e-6
    found.scatter_(2, after.gather(1, first)[..., None], 1.0)
    return (found / found.sum(-1, keepdim=True)).log()


class Recall(SequenceTask):
    name = "recall"
    group = "probes with a known optimum"
    title = "associative recall, accuracy"
    config = DREAMConfig(
        input_dim=64, hidden_dim=64, rank=8, base_plasticity=0.3, forgetting_rate=0.001, target_norm=5.0
    )
    symbols = classes = 2 * KEYS
    steps = 3000
    metrics = (
        Metric("mean", higher=True),
        *(Metric(f"{pairs} pairs", higher=True, bar=bar) for pairs, bar in zip(PAIRS, BARS, strict=True)),
    )
    axis, positions = "pairs", PAIRS

    def train_batch(self, random: torch.Generator) -> Batch:
        pairs = TRAINED_ON[int(torch.randint(len(TRAINED_ON), (), generator=random))]
        return sequences(pairs, BATCH, random)

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        random = self.random(part)
        return [sequences(pairs, SEQUENCES[part], random) for pairs in PAIRS]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        right = [
            float((predicted.argmax(-1) == batch.targets)[batch.targets != NOT_COUNTED].float().mean())
            for predicted, batch in zip(predictions, batches, strict=True)
        ]
        values = dict(zip([metric.name for metric in self.metrics[1:]], right, strict=True))
        return Scores({"mean": sum(right) / len(right), **values}, right)

    def baselines(self) -> dict[str, Predictor]:
        return {"table of pairs": looked_up}
