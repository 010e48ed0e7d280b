"""Forecasts and labels that need no training, as baselines for the models.

Shapes: N windows, L look-back, C targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dream.errors import ConfigError


def repeat_last(past: Tensor, horizon: int) -> Tensor:
    """Repeat the last row of `past` (N, L, C) for every row ahead, (N, horizon, C)."""
    return past[:, -1:].expand(-1, horizon, -1)


def seasonal_naive(past: Tensor, horizon: int, season: int) -> Tensor:
    """Repeat the last season of `past` (N, L, C) up to the horizon, (N, horizon, C).

    Raises:
        ConfigError: `past` is shorter than one season.
    """
    length = past.shape[1]
    if length < season:
        raise ConfigError(
            f"`season` must not be longer than the look-back of {length} rows; got {season}. Raise "
            "`look_back`.",
            key="season",
        )
    rows = length - season + torch.arange(horizon, device=past.device) % season
    return past[:, rows]


def error_quantiles(
    forecast: Callable[[Tensor], Tensor], past: Tensor, future: Tensor, levels: Sequence[float]
) -> Tensor:
    """Quantiles (H, C, Q) of ``future - forecast(past)`` at each row ahead, over training windows.

    Added to a point forecast they make it a quantile forecast. NaN in `future` (N, H, C) is left out; where
    no value of a row ahead is known the quantiles are 0."""
    errors = future - forecast(past)
    found = torch.nanquantile(errors, errors.new_tensor(levels), dim=0)
    return found.nan_to_num(0.0).movedim(0, -1)


def previous_label(labels: Tensor, delay: int = 0) -> Tensor:
    """The newest label that is known before each of `labels` (T,), (T,); class 0 before the first."""
    return torch.cat([labels.new_zeros(delay + 1), labels])[: len(labels)]


def majority_class(labels: Tensor, classes: int, delay: int = 0) -> Tensor:
    """The most frequent label known before each of `labels` (T,), (T,); of equals the lowest."""
    counts = torch.nn.functional.one_hot(labels, classes).cumsum(0)
    known = torch.cat([counts.new_zeros(delay + 1, classes), counts])[: len(labels)]
    return known.argmax(1)


def nearest_mean(known: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """The class whose mean is nearest to each sample, in units of the deviation within classes, (N,).

    A class without an example is never the nearest.

    Args:
        known: (M, D) examples.
        labels: (M,) their classes, numbers from 0.
        asked: (N, D) samples to classify.
    """
    member = torch.nn.functional.one_hot(labels).to(known)
    count = member.sum(0)
    means = member.T @ known / count.clamp_min(1).unsqueeze(1)
    deviation = (known - means[labels]).std(0, correction=0).clamp_min(1e-12)
    return torch.cdist(asked / deviation, means / deviation).masked_fill(count == 0, torch.inf).argmin(1)
