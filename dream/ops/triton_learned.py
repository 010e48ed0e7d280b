"""The parameters of the equations from those that are learned, and the prior, on a GPU: a launch each.

Shapes: I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dream.numerics import largest
from dream.ops.triton_call import call
from dream.ops.triton_cut import device_of, power

LARGEST_FILTER = 1 << 14  # numbers of V, rounded up, that one program holds


class Effective(torch.autograd.Function):
    """(V, eta, tonic, tau, surprise scale) from V_raw, log_eta, logit_tonic, log_tau and the scale's
    logarithm.

    Where `V_raw` is None, V is not learned and None. `plastic` and `hastens` False make eta and the scale 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        V_raw: Tensor | None,
        eta: Tensor,
        tonic: Tensor,
        tau: Tensor,
        scale: Tensor,
        plastic: bool,
        hastens: bool,
    ) -> tuple[Tensor | None, ...]:
        from dream.ops import triton_parameters

        learned = (V_raw, eta, tonic, tau, scale)
        made = [
            None if part is None else torch.empty_like(part, memory_format=torch.contiguous_format)
            for part in learned
        ]
        with device_of(eta):
            length, constants = _filter(V_raw, eta)
            launch = call(triton_parameters.effective, **constants, PLASTIC=plastic, HASTENS=hastens)
            arrays = (*(None if part is None else part.contiguous() for part in learned), *made)
            launch((1 if V_raw is None else 2,), arrays, (length,))
        ctx.save_for_backward(V_raw, *made)
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        from dream.ops import triton_parameters

        V_raw, *made = ctx.saved_tensors
        eta = made[1]
        found = [
            None if given is None or not needed else torch.empty_like(part)
            for part, given, needed in zip(made, gradients, ctx.needs_input_grad, strict=False)
        ]
        used = [part if room is not None else None for part, room in zip(gradients, found, strict=True)]
        with device_of(eta):
            length, constants = _filter(V_raw, eta)
            arrays = (
                None if V_raw is None else V_raw.contiguous(),
                *made,
                *(None if part is None else part.contiguous() for part in used),
                *found,
            )
            launch = call(triton_parameters.effective_back, **constants)
            launch((1 if V_raw is None else 2,), arrays, (length,))
        return *found, None, None


effective: Callable[..., tuple[Any, ...]] = Effective.apply


def _filter(V_raw: Tensor | None, eta: Tensor) -> tuple[float, dict[str, Any]]:
    """The number and the constants that both kernels take."""
    i, r = (1, 1) if V_raw is None else V_raw.shape
    columns, rows = power(i), power(r)
    warps = max(1, min(16, columns * rows // 1024))
    h = eta.shape[0]
    return math.sqrt(r), dict(I=i, H=h, R=r, IP=columns, RP=rows, HP=power(h), num_warps=warps)


def move_prior(prior: Tensor, moves: Tensor, squares: Tensor, steps: int, smoothing: float) -> None:
    """Move `prior` (I,) towards squares / steps, and count the move; see `dream.functional.moved_prior`."""
    from dream.ops import triton_parameters

    most = (largest(prior.dtype) / 2) ** 2
    i = prior.shape[0]
    with device_of(prior):
        launch = call(triton_parameters.move_prior, I=i, BLOCK=min(power(i), 1024), num_warps=1)
        launch((1,), (prior, moves, squares), (steps, smoothing, most))
    torch.autograd.graph.increment_version((prior, moves))
