"""The move of a cell's prior, the error variance that fresh samples expect, after each sequence in training.

Shapes: N samples, T steps, I `input_dim`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dream import functional as F
from dream.config import DREAMConfig


@torch.no_grad()
def move_prior(
    prior: Tensor,
    moves: Tensor,
    error: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    config: DREAMConfig,
    kernel: Callable[[Tensor, Tensor, Tensor, int, float], None] | None,
) -> None:
    """Move `prior` (I,) towards the mean of error^2 over all valid steps, and count that in `moves` ().

    Args:
        prior: changed.
        moves: changed.
        error: (N, T, I), 0 where nothing was measured.
        observed: (N, T, I), what of the input was not NaN; None for all of it.
        lengths: (N,), valid steps of each sample; T if None.
        config: the cell's.
        kernel: does this in one launch where every step counts, see `dream.ops.registry.Backend.move_prior`.
    """
    squares = error.square().sum((0, 1))
    if observed is None:
        steps = error.shape[0] * error.shape[1] if lengths is None else lengths.sum()
        if kernel is not None and isinstance(steps, int) and steps and not torch.compiler.is_compiling():
            kernel(prior, moves, squares, steps, config.error_smoothing)
            return
        counts = steps if isinstance(steps, Tensor) else squares.new_full((), steps)
    else:
        if lengths is not None:
            valid = torch.arange(error.shape[1], device=error.device) < lengths.unsqueeze(1)
            observed = observed & valid.unsqueeze(-1)
        counts = observed.sum((0, 1))
    moved = F.moved_prior(prior, moves, squares / counts, config)
    prior.copy_(torch.where(counts > 0, moved, prior))
    moves.add_((counts > 0).any())
