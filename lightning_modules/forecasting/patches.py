"""The past as a forecaster reads it: in patches, each relative to the level of the rows that lead to it.

Shapes: N samples of the batch, L look-back, D inputs, R relative inputs (the first ones), Z centred ones
(after them), P rows in a patch, n patches, K origins, C targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dream.numerics import root

Normalization = Literal["last", "mean", "instance", "none"]
SCALE_FLOOR = 1e-3  # in training deviations; a window that varies less counts as constant


class PatchedPast(NamedTuple):
    """The past of a batch."""

    patches: Tensor
    """(N, n, P, D), NaN where an input was not observed."""
    level: Tensor
    """(N, K, R + Z) level of the inputs at each origin, in standardised units."""
    scale: Tensor
    """(N, K, R + Z) scale of the inputs at each origin; 1 for the Z centred ones."""
    every: int
    """Patches from one origin to the next; the last patch before the first origin is number ``every - 1``."""


def read(
    past: Tensor,
    look_back: int,
    patch: int,
    origins: int | None,
    relative: int,
    centred: int,
    normalization: Normalization,
    observed: Tensor | None = None,
    absolute: Sequence[int] = (),
) -> PatchedPast:
    """Cut `past` into patches with relative inputs.

    The first `relative` inputs become relative in level and scale, the `centred` ones after them in level
    only; those with the numbers `absolute` stay as they are.

    Without `origins`, `past` (N, L, D) is a window: all its patches are relative to the level and scale of
    the window, and its end is the origin. With `origins`, `past` (N, L + new, D) is a stream: its first L
    rows were read before, the new ones hold `origins` equal steps, and each patch is relative to the L rows
    that end with it. Level and scale at an origin are the same either way, and never depend on later rows.

    Where `observed`, like `past`, is False, `past` holds the last known value. Such values become NaN, and
    count in no mean or deviation, except that the level of a window without any other is the last of them.
    """
    moving = relative + centred
    windows, new, every = _cut(past, look_back, patch, origins)
    seen = None if observed is None else _cut(observed, look_back, patch, origins)
    known = None if seen is None else seen[0][..., :moving]
    level, scale = _level_and_scale(windows[..., :moving], relative, normalization, known)
    if absolute:
        index = torch.tensor(absolute, device=level.device)
        level, scale = level.index_fill(-1, index, 0.0), scale.index_fill(-1, index, 1.0)
    moved = (new[..., :moving] - level.unsqueeze(2)) / scale.unsqueeze(2)
    patches = torch.cat([moved, new[..., moving:]], -1)
    if seen is not None:
        patches = torch.where(seen[1], patches, torch.nan)
    at = slice(None) if origins is None else slice(every - 1, None, every)
    return PatchedPast(patches, level[:, at], scale[:, at], every)


def _cut(past: Tensor, look_back: int, patch: int, origins: int | None) -> tuple[Tensor, Tensor, int]:
    """Windows (N, windows, L, D) that patches are relative to, patches (N, n, P, D), and their `every`."""
    if origins is None:
        windows, new, every = past.unsqueeze(1), past, look_back // patch
    else:
        windows = past[:, patch:].unfold(1, look_back, patch).transpose(2, 3)
        new, every = past[:, look_back:], (past.shape[1] - look_back) // (patch * origins)
    return windows, new.reshape(past.shape[0], -1, patch, past.shape[2]), every


def _level_and_scale(
    windows: Tensor, scaled: int, normalization: Normalization, observed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Level and scale (..., inputs) of `windows` (..., L, inputs); scale 1 after the first `scaled`.

    Of what was `observed`, like `windows`; the level of a window in which nothing was is its last row.
    """
    last = windows[..., -1, :]
    if normalization == "none":
        return torch.zeros_like(last), torch.ones_like(last)
    if normalization == "last":
        return last, torch.ones_like(last)
    level, deviation = _mean_and_deviation(windows, observed)
    scale = torch.ones_like(last)
    if normalization == "instance":
        scale[..., :scaled] = deviation[..., :scaled].clamp_min(SCALE_FLOOR)
    return level, scale


def _mean_and_deviation(windows: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation (..., inputs) of `windows` (..., L, inputs), see `_level_and_scale`."""
    if observed is None:
        return windows.mean(-2), windows.std(-2, correction=0)
    count = observed.sum(-2)
    some = count.clamp_min(1)
    mean = torch.where(observed, windows, 0.0).sum(-2) / some
    mean = torch.where(count > 0, mean, windows[..., -1, :])
    away = torch.where(observed, windows - mean.unsqueeze(-2), 0.0)
    return mean, root(away.square().sum(-2) / some)


def by_channel(patches: Tensor, channels: int, inputs: int) -> Tensor:
    """Samples (N C, n, P columns), one for each target: its own column, then all columns that are no targets.

    Args:
        patches: (N, n, P, D): `inputs` columns of data, then their ages, if any.
        channels: C.
        inputs: Number of columns of data.
    """
    windows, count, _, _ = patches.shape
    ages = patches[..., inputs:]
    own = [
        part[..., :channels].permute(0, 3, 1, 2).unsqueeze(-1) for part in (patches, ages) if part.shape[-1]
    ]
    shared = torch.cat([patches[..., channels:inputs], ages[..., channels:]], -1)
    shared = shared.unsqueeze(1).expand(-1, channels, -1, -1, -1)
    return torch.cat([own[0], shared, *own[1:]], -1).reshape(windows * channels, count, -1)
