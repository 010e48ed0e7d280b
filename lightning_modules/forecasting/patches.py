"""How a forecaster reads the past: in patches, each relative to the level of the rows that lead to it.

Shapes: N rows of the batch, L look-back, D inputs, R relative inputs (the first ones), Z centred ones (after
them), P rows in a patch, n patches, K origins, C targets."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Normalization = Literal["last", "mean", "instance", "none"]
SCALE_FLOOR = 1e-3  # of a training deviation: below it a window counts as constant


class PatchedPast(NamedTuple):
    """The past of a batch."""

    patches: Tensor
    """(N, n, P, D)"""
    level: Tensor
    """(N, K, R + Z) what the inputs are relative to at each origin, in standardised units"""
    scale: Tensor
    """(N, K, R + Z) and in units of what; 1 for the Z centred inputs"""
    every: int
    """patches from one origin to the next; the last patch before the first origin is number ``every - 1``"""


def read(
    past: Tensor,
    look_back: int,
    patch: int,
    origins: int | None,
    relative: int,
    centred: int,
    normalization: Normalization,
) -> PatchedPast:
    """Cut `past` into patches; make its first `relative` inputs relative, and the `centred` ones after them
    in level only.

    Without `origins`, `past` (N, L, D) is a window: all its patches are relative to the level and scale of
    the window, and its end is the origin. With it, `past` (N, L + new, D) is a stream: its first L rows were
    read before, its new ones hold `origins` equal steps, and each patch is relative to the L rows that end
    with it. So both give the same level and scale at an origin, and neither sees a row after the patch or
    window."""
    rows, _, inputs = past.shape
    moving = relative + centred
    if origins is None:
        windows, new, every = past.unsqueeze(1), past, look_back // patch
    else:
        windows = past[:, patch:].unfold(1, look_back, patch).transpose(2, 3)
        new, every = past[:, look_back:], (past.shape[1] - look_back) // (patch * origins)
    patches = new.reshape(rows, -1, patch, inputs)
    level, scale = _level_and_scale(windows[..., :moving], relative, normalization)
    moved = (patches[..., :moving] - level.unsqueeze(2)) / scale.unsqueeze(2)
    at = slice(None) if origins is None else slice(every - 1, None, every)
    return PatchedPast(torch.cat([moved, patches[..., moving:]], -1), level[:, at], scale[:, at], every)


def _level_and_scale(windows: Tensor, scaled: int, normalization: Normalization) -> tuple[Tensor, Tensor]:
    """Level and scale (..., inputs) of `windows` (..., L, inputs); the scale of all but the first `scaled` is
    1."""
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
    """One row for each target: its own column, then all that is not a target, (N C, n, P times columns of a
    row).

    Args:
        patches: (N, n, P, D), the first `inputs` columns being the data and the others, if any, their ages.
        channels: C.
        inputs: Columns of the data.
    """
    windows, count, _, _ = patches.shape
    ages = patches[..., inputs:]
    own = [
        part[..., :channels].permute(0, 3, 1, 2).unsqueeze(-1) for part in (patches, ages) if part.shape[-1]
    ]
    shared = torch.cat([patches[..., channels:inputs], ages[..., channels:]], -1)
    shared = shared.unsqueeze(1).expand(-1, channels, -1, -1, -1)
    return torch.cat([own[0], shared, *own[1:]], -1).reshape(windows * channels, count, -1)
