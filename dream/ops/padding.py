"""What every implementation does with padded rows before it reads them."""

from __future__ import annotations

import torch
from torch import Tensor


def without_padding(
    x: Tensor, timespans: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x (N, T, I) and timespans (N, T) with 0 and 1 where a row has ended, and the mask (N, T) of its valid
    steps.

    NaN in the padding would else reach gradients as 0 times NaN. The mask is None where no row is padded.
    """
    if lengths is None:
        return x, timespans, None
    valid = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
    x = torch.where(valid.unsqueeze(-1), x, 0.0)
    return x, None if timespans is None else torch.where(valid, timespans, 1.0), valid
