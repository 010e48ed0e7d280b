"""Forecasts and labels that need no training, as baselines for the models.

Shapes: N windows or sequences, T steps, L look-back, C targets, D features, V classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dream.errors import ConfigError

_BLOCK = 256  # steps whose distances are in memory together
_LEAST = 1e-3  # deviation within classes, as a share of that over all


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

    A class without an example is never the nearest, and what is the same in all examples does not count.

    Args:
        known: (M, D) examples.
        labels: (M,) their classes, numbers from 0.
        asked: (N, D) samples to classify; in another precision where a model computes in one.
    """
    asked = asked.to(known)
    member = torch.nn.functional.one_hot(labels).to(known)
    count = member.sum(0)
    means = member.T @ known / count.clamp_min(1).unsqueeze(1)
    within, overall = (part.std(0, correction=0) for part in (known - means[labels], known))
    deviation = torch.where(overall > 0, torch.maximum(within, _LEAST * overall), torch.inf)
    return torch.cdist(asked / deviation, means / deviation).masked_fill(count == 0, torch.inf).argmin(1)


def nearest_labelled(features: Tensor, labels: Tensor, delay: int = 1) -> Tensor:
    """Label of the nearest step, among those whose label is known by then, for each step, (N, T).

    Class 0 where no label is known yet. Distances are Euclidean.

    Args:
        features: (N, T, D)
        labels: (N, T) classes, numbers from 0; a step with a label below 0 is never known.
        delay: Steps after which a label is known, 1 or more.
    """
    steps = torch.arange(labels.shape[1], device=labels.device)
    found = torch.zeros_like(labels)
    for place in steps.split(_BLOCK):
        before = features[:, : int(place[-1])]
        known = (labels[:, None, : before.shape[1]] >= 0) & (
            steps[: before.shape[1]] <= place[:, None] - delay
        )
        if known.any():
            apart = torch.cdist(features[:, place], before).masked_fill(~known, torch.inf)
            nearest = labels.gather(1, apart.argmin(-1))
            found[:, place] = torch.where(known.any(-1), nearest, 0)
    return found


def nearest_mean_so_far(features: Tensor, labels: Tensor, classes: int, delay: int = 1) -> Tensor:
    """Class with the nearest mean over the steps whose label is known, for each step of a sequence, (N, T).

    As `nearest_labelled`, of which it has the arguments; a class without a known step is never the nearest.
    """
    member = torch.nn.functional.one_hot(labels.clamp_min(0), classes) * (labels >= 0).unsqueeze(-1)
    count = late(member.cumsum(1), delay).unsqueeze(-1)
    total = late((member.unsqueeze(-1) * features.unsqueeze(2)).cumsum(1), delay)  # (N, T, V, D)
    apart = (features.unsqueeze(2) - total / count.clamp_min(1)).square().sum(-1)
    nearest = apart.masked_fill(count.squeeze(-1) == 0, torch.inf).argmin(-1)
    return torch.where(count.sum((2, 3)) > 0, nearest, 0)


def late(values: Tensor, delay: int) -> Tensor:
    """`values` (N, T, ...) of `delay` steps before, 0 at the first steps."""
    before = torch.zeros_like(values[:, :delay])
    return torch.cat([before, values], 1)[:, : values.shape[1]]


def recursive_least_squares(
    regressors: Tensor, targets: Tensor, delay: int = 1, forgetting: float = 1.0, ridge: float = 1e-3
) -> Tensor:
    """Forecasts (N, T) of `targets` (N, T) by a linear model that learns within each sequence.

    The forecast of step t is w x_t, with the w that is best over the steps whose target is known by then:

        w = argmin sum_(s <= t - delay) f^(t - delay - s) (y_s - w x_s)^2 + f^(t - delay + 1) ridge |w|^2

    f is `forgetting`. It is updated by rank one a step, in float64. Source: Haykin, Adaptive filter theory.

    Args:
        regressors: (N, T, D) x
        targets: (N, T) y
        delay: Steps after which a target is known, 1 or more.
        forgetting: Weight of a step relative to the one after it; 1 forgets nothing.
        ridge: Weight of the size of w before the first step.
    """
    x, y = regressors.double(), targets.double()
    samples, steps, width = x.shape
    inverse = torch.eye(width, dtype=x.dtype, device=x.device).expand(samples, -1, -1) / ridge
    weights = x.new_zeros(samples, width)
    found = torch.empty_like(y)
    for step in range(steps):
        if (known := step - delay) >= 0:
            seen = x[:, known]
            moved = torch.einsum("nij,nj->ni", inverse, seen)
            gain = moved / (forgetting + (seen * moved).sum(-1, keepdim=True))
            error = y[:, known] - (weights * seen).sum(-1)
            weights = weights + gain * error.unsqueeze(-1)
            inverse = (inverse - gain.unsqueeze(-1) * moved.unsqueeze(1)) / forgetting
            inverse = (
                inverse + inverse.mT
            ) / 2  # rounding would make it lose its symmetry, and then its sign
        found[:, step] = (weights * x[:, step]).sum(-1)
    return found.to(targets)
