"""Accuracy by how often a class has come up in its sequence.

Shapes: N sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import one_hot

INSTANCES = (1, 2, 5, 10)
"""Instances that the table of results shows."""


def instances(labels: Tensor, classes: int) -> Tensor:
    """(N, T) how often the class of each step has come up in its sequence, itself included; 0 where a label
    is below 0."""
    member = one_hot(labels.clamp_min(0), classes) * (labels >= 0).unsqueeze(-1)
    return (member.cumsum(1) * member).sum(-1)


def by_instance(right: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Mean of `right` (M,) at instance 1, 2, ..., NaN at one that never occurs; `instance` (M,) counts from
    1."""
    count = np.bincount(instance)[1:]
    total = np.bincount(instance, weights=right.astype(np.float64))[1:]
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def chosen(shares: np.ndarray, at: Sequence[int] = INSTANCES) -> dict[str, float]:
    """Accuracy at the instances `at` that occur, by name, from `by_instance`."""
    return {
        f"accuracy_{k}": float(shares[k - 1])
        for k in at
        if k <= len(shares) and shares[k - 1] == shares[k - 1]
    }
