"""The gradients of a scan's parameters and inputs, as products of its tape with what the backward kernel wrote; and
the parameters of the equations from those that are learned.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dream.numerics import largest
from dream.ops.triton_cut import Flags, Sizes, device_of, exactness, index_of, machine, power
from dream.types import key_shape

ROWS = 256  # at least so many, steps times samples, to a program


@contextmanager
def products_in(half: bool, device: torch.device) -> Iterator[None]:
    """Products of torch in tf32, where those of the scan have no more bits than that."""
    change = device.type == "cuda" and half and not torch._C._get_cublas_allow_tf32()
    if change:
        torch._C._set_cublas_allow_tf32(True)
    try:
        yield
    finally:
        if change:
            torch._C._set_cublas_allow_tf32(False)


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shapes of the gradients of parameters, in the order in which the kernel writes them."""
    _, _, i, h, r = sizes
    units = dict.fromkeys(("b", "tau", "k", "eta", "tonic"), (h,))
    matrices = {"A": (h, h), "G_h": (h, h), "C": (h, i), "W": (i, h), "B": (i, h), "G_x": (i, h)}
    return {
        **matrices,
        **{"D": (r, h), "V": (i, r), "K": key_shape(h)},
        **units,
        **{"c": (i,), "surprise_scale": ()},
    }


def of_parameters(given: Mapping[str, Any], room: Mapping[str, Tensor], sizes: Sizes, flags: Flags) -> dict[str, Tensor]:
    """The gradients of all parameters; those of one that is not used are undefined."""
    from dream.ops import triton_products

    n, t, i, h, r = sizes
    gpu = machine(index_of(room["adjoints"]))
    groups, block, _ = key_shape(h)
    last = (t + 1 if given["d_expected"] is not None else t) * n
    tile, width, ranks = min(64, power(h, 16)), min(64, power(i, 16)), power(r, 16)
    down, across = -(-h // tile), -(-i // width)
    gates = 2 if flags.liquid else 1
    tiles = gates * (down * down + down * across) + 2 * down * across + 1
    if flags.plastic:
        tiles += down + across + groups
    parts = max(1, min(-(-last // ROWS), -(-4 * gpu.processors // tiles)))
    found = shapes(sizes)
    counts = [math.prod(shape) for shape in found.values()]
    size = sum(counts)
    shares = room["adjoints"].new_empty(parts, size)
    ranks_tape, scalars, units = given["ranks"], given["scalars"], given["units"]
    triton_products.gradients[(tiles, parts)](
        given["y"],
        given["read"] if flags.missing else given["x"],
        given["error"],
        units,
        ranks_tape,
        ranks_tape[2],
        scalars if flags.learns else None,
        room["adjoints"],
        room["d_key"],
        room["d_expected"],
        room["d_filtered"],
        room["d_units"],
        room["d_scale"],
        shares,
        t * n,
        last,
        -(-last // parts),
        n,
        -(-n // parts),
        I=i,
        H=h,
        R=r,
        KB=block,
        KP=power(block, 16),
        BH=tile,
        BI=width,
        BR=ranks,
        HP=power(h),
        BLOCK=32,
        PREC=exactness(flags.half, gpu),
        LIQUID=flags.liquid,
        PLASTIC=flags.plastic,
        LEARNS=flags.learns,
        num_warps=4,
    )
    total = shares.new_empty(size)
    triton_products.totals[(-(-size // 1024),)](
        shares,
        total,
        given["tau"] if flags.liquid else None,
        parts,
        SIZE=size,
        AT_TAU=sum(counts[: list(found).index("tau")]),
        H=h,
        BLOCK=1024,
        num_warps=4,
    )
    split = total.split(counts)
    return {name: part.view(shape) for (name, shape), part in zip(found.items(), split, strict=True)}


def of_inputs(given: Mapping[str, Any], room: Mapping[str, Tensor], sizes: Sizes, flags: Flags) -> Tensor:
    """The gradient of x, (N, T, I)."""
    t, h = sizes.steps, sizes.hidden
    _, dv, dg, _ = room["adjoints"]
    d_x = -room["d_expected"][:t]
    if given["d_expected"] is not None:
        d_x = d_x + given["d_expected"][:t]
    with products_in(flags.half, dv.device):
        d_x = d_x + (dv.view(-1, h) @ given["B"].mT).view_as(d_x)
        if flags.liquid:
            d_x += (dg.view(-1, h) @ given["G_x"].mT).view_as(d_x)
    if flags.missing:
        d_x = torch.where(given["x"].isnan(), 0.0, d_x)
    return d_x.transpose(0, 1)


LARGEST_FILTER = 1 << 14  # numbers of V, rounded up, that one program holds


class Effective(torch.autograd.Function):
    """(V, eta, tonic, tau, surprise scale) from V_raw, log_eta, logit_tonic, log_tau and the scale's logarithm.

    Where `V_raw` is None, V is not learned and None. `plastic` and `hastens` False make eta and the scale 0.
    """

    @staticmethod
    def forward(
        ctx: Any, V_raw: Tensor | None, eta: Tensor, tonic: Tensor, tau: Tensor, scale: Tensor, plastic: bool, hastens: bool
    ) -> tuple[Tensor | None, ...]:
        from dream.ops import triton_parameters

        learned = (V_raw, eta, tonic, tau, scale)
        made = [None if part is None else torch.empty_like(part, memory_format=torch.contiguous_format) for part in learned]
        with device_of(eta):
            triton_parameters.effective[(1 if V_raw is None else 2,)](
                *(None if part is None else part.contiguous() for part in learned),
                *made,
                **_filter(V_raw, eta),
                PLASTIC=plastic,
                HASTENS=hastens,
            )
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
        with device_of(eta):
            triton_parameters.effective_back[(1 if V_raw is None else 2,)](
                None if V_raw is None else V_raw.contiguous(),
                *made,
                *(None if room is None else part.contiguous() for part, room in zip(gradients, found, strict=True)),
                *found,
                **_filter(V_raw, eta),
            )
        return *found, None, None


def _filter(V_raw: Tensor | None, eta: Tensor) -> dict[str, Any]:
    """Arguments that both kernels share."""
    i, r = (1, 1) if V_raw is None else V_raw.shape
    columns, rows = power(i), power(r)
    warps = max(1, min(16, columns * rows // 1024))
    h = eta.shape[0]
    return dict(length=math.sqrt(r), I=i, H=h, R=r, IP=columns, RP=rows, HP=power(h), num_warps=warps)


def move_prior(prior: Tensor, moves: Tensor, squares: Tensor, steps: int, smoothing: float) -> None:
    """Move `prior` (I,) towards squares / steps, and count the move; see `dream.functional.moved_prior`."""
    from dream.ops import triton_parameters

    most = (largest(prior.dtype) / 2) ** 2
    i = prior.shape[0]
    with device_of(prior):
        triton_parameters.move_prior[(1,)](
            prior, moves, squares, steps, smoothing, most, I=i, BLOCK=min(power(i), 1024), num_warps=1
        )
    torch.autograd.graph.increment_version((prior, moves))
