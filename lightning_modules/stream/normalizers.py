"""Causal normalisation of a stream: each row relative to its own past, with a state that is carried.

Shapes: N streams, T rows, D columns. Missing values are NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_modules.checks import require

LARGEST_FALL = 450.0  # of the logarithm of a product, before it is begun anew
SMALLEST_KEPT = 1e-30
FLOOR = 0.01  # share of the usual mean square that the scale of a resting column keeps
Kind = Literal["differences", "running", "none"]


@dataclass(eq=False)
class CarriedState:
    """Base of the states that are carried from row to row."""

    def items(self) -> list[tuple[str, Tensor]]:
        """Pairs of field name and tensor."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


@dataclass(eq=False)
class NormalizerState(CarriedState):
    """State of a normaliser, (N, D) each."""

    count: Tensor
    """Rows in which the column had a value."""
    last: Tensor
    """Last value of the column, in its own unit; 0 before the first."""
    mean: Tensor
    """Running level."""
    var: Tensor
    """Running mean square of differences or deviations, in squared units."""
    usual: Tensor
    """Mean square over all rows so far, evenly."""


class Normalized(NamedTuple):
    """Normalised rows, (N, T, D) each."""

    read: Tensor
    """Relative value of each row, the input of a layer; where one is missing, of the last known value."""
    level: Tensor
    """Zero of a forecast made after the row, in the data's unit."""
    scale: Tensor
    """The data's units in one unit of such a forecast; NaN until a column has varied: what comes next has no
    size then, whatever the data's unit, and cannot be learnt from."""


class Normalizer:
    """Makes every row relative to its own past, one column at a time.

    With a_k = max(rate, 1 / k) for a column's k-th value x, so that the first values are averaged evenly:

    - `differences`: ``read = (x - last) / scale``, ``level = x``, and for the scale
      ``v' = v + a_k ((x - last)^2 - v)``. The first value has no difference and reads 0.
    - `running`: ``m' = m + a_k (x - m)``, ``v' = (1 - a_k)(v + a_k (x - m)^2)``, ``level = m'``,
      ``read = (x - m') / scale``.
    - `none`: ``read = x``, ``level = 0``, ``scale = 1``.

    A missing value moves nothing, and is read as the last known one; 0 before the first.

    ``scale^2 = v' + 0.01 w'`` where w averages over all rows so far what v averages over the last 1 / rate: a
    column that rests for a while keeps a tenth of its usual scale. The value of a row enters the scale that
    it is divided by, so |read| is at most ``1 / sqrt(a_k)``: no jump makes an arbitrarily large input.

    Args:
        kind: `differences`, `running` or `none`.
        rate: Smallest weight of a new value in the running statistics, in [0, 1); 0 averages over all rows so
            far.

    Raises:
        ConfigError: a kind or rate that is not allowed.
    """

    def __init__(self, kind: Kind, rate: float) -> None:
        require("normalization", kind, kind in get_args(Kind), "differences, running or none")
        require("rate", rate, 0 <= rate < 1, "a number from 0 to below 1")
        self.kind = kind
        self.rate = rate

    def init_state(self, streams: int, columns: int, device: torch.device | None = None) -> NormalizerState:
        """State of streams that have not begun."""
        return NormalizerState(
            *(torch.zeros(streams, columns, dtype=torch.float64, device=device) for _ in range(5))
        )

    def __call__(self, x: Tensor, state: NormalizerState) -> tuple[Normalized, NormalizerState]:
        """Normalise x (N, T, D), float64, which continues `state`; returns the state after it.

        `state` itself is not changed.
        """
        seen = ~x.isnan()
        values = _carry_forward(x, seen, state.last)
        if self.kind == "none":
            known = Normalized(values, torch.zeros_like(x), torch.ones_like(x))
            return known, replace(state, last=values[:, -1])
        count = state.count.unsqueeze(1) + seen.cumsum(1)
        first = int(self.kind == "differences")  # the first value has no difference
        number = count - first  # k of each value or difference
        share = torch.where(seen & (number > 0), running_weight(number, self.rate), 0.0)
        before = torch.cat([state.last.unsqueeze(1), values[:, :-1]], 1)
        if self.kind == "differences":
            step = torch.where(number > 0, values - before, 0.0)
            squares = step.square()
            level, mean = values, state.mean
        else:
            means = running_mean(values, share, state.mean, self.rate)
            earlier = torch.cat([state.mean.unsqueeze(1), means[:, :-1]], 1)
            squares = (1 - share) * (values - earlier).square()
            level, mean, step = means, means[:, -1], values - means
        var = running_mean(squares, share, state.var, self.rate)
        so_far = (state.count - first).clamp_min(0) * state.usual
        usual = (so_far.unsqueeze(1) + (squares * seen).cumsum(1)) / number.clamp_min(1)
        scale = var + FLOOR * usual
        still = scale <= 0  # not so where a state that is not finite made it NaN
        scale = torch.where(still, torch.nan, scale).sqrt()
        read = torch.where(still, 0.0, step / scale)
        return Normalized(read, level, scale), NormalizerState(
            count[:, -1], values[:, -1], mean, var[:, -1], usual[:, -1]
        )


def running_weight(number: Tensor, rate: float) -> Tensor:
    """Weight ``max(rate, 1 / k)`` of value number k = 1, 2, ... in a running mean: the first count evenly."""
    return number.clamp_min(1).reciprocal().clamp_min(rate)


def running_mean(values: Tensor, share: Tensor, start: Tensor, rate: float) -> Tensor:
    """Running means (N, T, D): ``m_t = m_(t-1) + share_t (values_t - m_(t-1))`` from `start` (N, D).

    All rows at once: with ``P_t`` the product of ``1 - share`` up to row t, and relative to any r,
    ``m_t = r + P_t (start - r + sum_(s <= t) share_s (values_s - r) / P_s)``. r is the first value where
    that is among the rows, so that the mean of a column that never moves is that value to the last bit.

    Args:
        values: (N, T, D) of which those count that have a share.
        share: (N, T, D) as of `running_weight`, 0 where there is no value.
        start: (N, D) the means before, 0 before the first value.
        rate: The smallest share.
    """
    if values.shape[1] == 1:  # in operators that an exported step may have
        return torch.lerp(start.unsqueeze(1), values, share)
    first = share == 1
    reference = torch.where(first.any(1), (values * first).sum(1), start)
    mean, means = start - reference, []
    apart = share * (values - reference.unsqueeze(1))
    kept = (1 - share).clamp_min(SMALLEST_KEPT)  # `start` is 0 before the first value, which keeps none of it
    rows = max(int(LARGEST_FALL / -math.log1p(-rate)), 1) if rate > 0 else values.shape[1]
    for step, keep in zip(apart.split(rows, 1), kept.split(rows, 1), strict=True):
        product = keep.cumprod(1)
        means.append(product * (mean.unsqueeze(1) + (step / product).cumsum(1)))
        mean = means[-1][:, -1]
    return reference.unsqueeze(1) + torch.cat(means, 1)


def _carry_forward(x: Tensor, seen: Tensor, last: Tensor) -> Tensor:
    """`x` with missing values replaced by the last one before, by `last` at the start."""
    if x.shape[1] == 1:  # which a step that is exported can be traced through
        return torch.where(seen, x, last.unsqueeze(1))
    if bool(seen.all()):
        return x
    rows = torch.arange(1, x.shape[1] + 1, device=x.device).view(1, -1, 1)
    place = torch.where(seen, rows, 0).cummax(1).values
    return torch.cat([last.unsqueeze(1), x.nan_to_num()], 1).gather(1, place)
