"""Cross-entropy over a large vocabulary, without ever holding the scores of all tokens.

Shapes: M tokens, I features, V symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES = 1 << 23
"""Number of scores that are computed at once: 32 MiB in float32, and as much for their logarithms."""


def tied_scores(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Scores ``y E^T + b``, (M, V), in the precision of the weights; arguments as in `tied_nats`."""
    with torch.autocast(features.device.type, enabled=False):
        return torch.addmm(bias, features.to(weight.dtype), weight.t())


def tied_nats(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Loss ``-ln softmax(y E^T + b)[target]`` of each token, (M,) in nats, without a gradient.

    It is 0 where the target is negative.

    Args:
        features: y, (M, I).
        weight: E, (V, I).
        bias: b, (V,).
        targets: (M,) int64.
    """
    with torch.no_grad():
        parts = [
            _nats(*_scored(features[part], weight, bias, targets[part])) for part in _parts(features, weight)
        ]
        return torch.cat(parts) if parts else features.new_zeros(0)


def tied_loss(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum () of `tied_nats`, with its gradient.

    The gradient is computed along with the value, part by part, from ``softmax - one hot``; neither scores
    nor probabilities are kept or computed twice. (PyTorch's own `linear_cross_entropy` does the same from
    version 2.13 on.)"""
    total: Tensor = _TiedLoss.apply(features, weight, bias, targets)
    return total


def _parts(features: Tensor, weight: Tensor) -> Iterator[slice]:
    tokens = max(SCORES // len(weight), 1)
    return (slice(start, start + tokens) for start in range(0, len(features), tokens))


def _scored(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (M, V), targets (M, 1) to gather, and whether each counts (M, 1)."""
    targets = targets.unsqueeze(1)
    return tied_scores(features, weight, bias).log_softmax(1), targets.clamp(min=0), targets >= 0


def _nats(logs: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    return (-logs.gather(1, targets) * counted).squeeze(1)


class _TiedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        d_features = torch.empty_like(features)
        d_weight = torch.zeros_like(weight)
        d_bias = torch.zeros_like(bias)
        total = weight.new_zeros(())
        for part in _parts(features, weight):
            logs, target, counted = _scored(features[part], weight, bias, targets[part])
            total += _nats(logs, target, counted).sum()
            d_scores = logs.exp_()
            d_scores.scatter_add_(1, target, torch.full_like(target, -1, dtype=logs.dtype)).mul_(counted)
            with torch.autocast(features.device.type, enabled=False):
                d_features[part] = (d_scores @ weight).to(features.dtype)
                d_weight.addmm_(d_scores.t(), features[part].to(weight.dtype))
            d_bias += d_scores.sum(0)
        ctx.save_for_backward(d_features, d_weight, d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_weight, d_bias = ctx.saved_tensors
        return d_features * gradient.to(d_features.dtype), d_weight * gradient, d_bias * gradient, None
