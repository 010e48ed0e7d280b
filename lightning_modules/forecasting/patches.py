"""The past as a forecaster reads it: in patches, each relative to the level of the rows that lead to it.

Shapes: N samples of the batch, L look-back, D inputs, R relative inputs (the first ones), Z centred ones
(after them), P rows in a patch, n patches, K origins, C targets."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Normalization = Literal["last", "mean", "instance", "none"]
SCALE_FLOOR = 1e-3  # in training deviations; a window that varies less counts as constant


class PatchedPast(NamedTuple):
    """The past of a batch."""

    patches: Tensor
    """(N, n, P, D)"""
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
) -> PatchedPast:
    """Cut `past` into patches with relative inputs.

    The first `relative` inputs become relative in level and scale, the `centred` ones after them in level
    only.

    Without `origins`, `past` (N, L, D) is a window: all its patches are relative to the level and scale of
    the window, and its end is the origin. With `origins`, `past` (N, L + new, D) is a stream: its first L
    rows were read before, the new ones hold `origins` equal steps, and each patch is relative to the L rows
    that end with it. Level and scale at an origin are the same either way, and never depend on later rows."""
    samples, _, inputs = past.shape
    moving = relative + centred
    if origins is None:
        windows, new, every = past.unsqueeze(1), past, look_back // patch
    else:
        windows = past[:, patch:].unfold(1, look_back, patch).transpose(2, 3)
        new, every = past[:, look_back:], (past.shape[1] - look_back) // (patch * origins)
    patches = new.reshape(samples, -1, patch, inputs)
    level, scale = _level_and_scale(windows[..., :moving], relative, normalization)
    moved = (patches[..., :moving] - level.unsqueeze(2)) / scale.unsqueeze(2)
    at = slice(None) if origins is None else slice(every - 1, None, every)
    return PatchedPast(torch.cat([moved, patches[..., moving:]], -1), level[:, at], scale[:, at], every)


def _level_and_scale(windows: Tensor, scaled: int, normalization: Normalization) -> tuple[Tensor, Tensor]:
    """Level and scale (..., inputs) of `windows` (..., L, inputs); scale 1 after the first `scaled`."""
    last = windows[..., -1, :]
    if normalization == "none":
        return torch.zeros_like(last), torch.ones_like(last)
    if normalization == "last":
        return last, torch.ones_like(last)
    level, scale = windows.mean(-2), torch.ones_like(last)
    if normalization == "instance":
        scale[..., :scaled] = windows[..., :scaled].std(-2, correction=0).clamp_min(SCALE_FLOOR)
    return level, scale


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
