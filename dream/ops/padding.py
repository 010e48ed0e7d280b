"""Padded samples made harmless, before any implementation reads them."""

from __future__ import annotations

import torch
from torch import Tensor


def without_padding(
    x: Tensor, timespans: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return x (N, T, I), timespans (N, T) and the mask (N, T) of valid steps; padding holds 0, timespans 1.

    NaN in the padding would else reach gradients as 0 times NaN. The mask is None where no sample is padded.
    """
    if lengths is None:
        return x, timespans, None
    valid = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
    x = torch.where(valid.unsqueeze(-1), x, 0.0)
    return x, None if timespans is None else torch.where(valid, timespans, 1.0), valid
