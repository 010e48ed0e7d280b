"""Adaptive methods without a core: recursive least squares, counted transitions, named classes.

Shapes: N samples, T steps, P regressors, C targets, V symbols.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

UNSURE = 1e-3


def recursive_least_squares(
    regressors: Tensor, targets: Tensor, ridge: float, forgetting: float = 1.0, fresh: Tensor | None = None
) -> Tensor:
    """Prediction of each target from its regressors and all pairs before, (N, T, C), in float64.

    The weights minimise ``sum_s forgetting^(t - s) |y_s - W^T z_s|^2 + ridge |W|^2``. With forgetting 1,
    noise of variance v and normal weights of variance p this is the Bayesian regression for
    ``ridge = v / p``, and the prediction its posterior mean. The ridge is not forgotten, so that a direction
    that is not excited for a while does not blow up.

    Args:
        regressors: z, (N, T, P).
        targets: y, (N, T, C).
        ridge: Weight of the prior.
        forgetting: Factor in (0, 1] by which a step's weight falls with each later one.
        fresh: (N, T), steps before which all is forgotten, if any.
    """
    z, y = regressors.double(), targets.double()
    pairs = z[..., None] * torch.cat([z, y], -1)[..., None, :]  # (N, T, P, P + C)
    total, before = torch.zeros_like(pairs[:, 0]), []
    for step in range(z.shape[1]):
        if fresh is not None:
            total = torch.where(fresh[:, step, None, None], 0.0, total)
        before.append(total)
        total = forgetting * total + pairs[:, step]
    square, cross = torch.stack(before, 1).split([z.shape[-1], y.shape[-1]], -1)
    weights = torch.linalg.solve(square + ridge * torch.eye(z.shape[-1], dtype=z.dtype), cross)
    return torch.einsum("ntp,ntpc->ntc", z, weights)


def transitions(symbols: Tensor, count: int) -> Tensor:
    """Counts of what followed the symbol of each step, earlier in its sequence, (N, T, V)."""
    hot = one_hot(symbols, count).double()
    pairs = torch.einsum("nti,ntj->ntij", hot[:, :-1], hot[:, 1:]).cumsum(1)
    known = torch.cat([pairs.new_zeros(len(symbols), 1, count, count), pairs], 1)
    return torch.einsum("nti,ntij->ntj", hot, known)


def dirichlet(symbols: Tensor, count: int, concentration: float) -> Tensor:
    """Log probabilities of the next symbol, (N, T, V).

    They are those of a chain whose rows come from a Dirichlet distribution of this concentration:
    ``(c(a b) + concentration) / (c(a .) + V concentration)``, with c counted up to each step.
    """
    counts = transitions(symbols, count) + concentration
    return (counts / counts.sum(-1, keepdim=True)).log()


def witten_bell(symbols: Tensor, count: int) -> Tensor:
    """Log probabilities of the next symbol, (N, T, V): an adaptive bigram that backs off to a unigram.

    ``P(b | a) = (c(a b) + t(a) P(b)) / (c(a .) + t(a))`` with t(a) the number of different symbols that
    followed a so far, and P(b) = (c(b) + 1) / (t + V). Source: Witten and Bell, The zero-frequency problem,
    1991.
    """
    unigram = one_hot(symbols, count).double().cumsum(1) + 1
    unigram = unigram / unigram.sum(-1, keepdim=True)
    pairs = transitions(symbols, count)
    kinds = (pairs > 0).sum(-1, keepdim=True)
    total = pairs.sum(-1, keepdim=True) + kinds
    return torch.where(kinds > 0, (pairs + kinds * unigram) / total.clamp(min=1), unigram).log()


def guessed(classes: Tensor, count: int) -> Tensor:
    """Log probabilities (N, T, V) of methods that only name a class (N, T): `UNSURE` goes to each other."""
    return torch.where(one_hot(classes, count) > 0, 1 - (count - 1) * UNSURE, UNSURE).log()
