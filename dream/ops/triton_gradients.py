"""Gradients of a scan's parameters and inputs: products of its tape with what the backward kernel wrote.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dream.ops.triton_call import call
from dream.ops.triton_cut import Flags, Sizes, exactness, index_of, machine, power
from dream.types import key_shape

ROWS = 256  # at least so many, steps times samples, to a program
APART = 16384  # from so many on, torch's products of matrices are faster


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
        "D": (r, h),
        "V": (i, r),
        "K": key_shape(h),
        **units,
        "c": (i,),
        "surprise_scale": (),
    }


def of_parameters(
    given: Mapping[str, Any], room: Mapping[str, Tensor], sizes: Sizes, flags: Flags
) -> dict[str, Tensor]:
    """The gradients of all parameters; those of one that is not used are undefined."""
    from dream.ops import triton_products

    n, t, i, h, r = sizes
    gpu = machine(index_of(room["adjoints"]))
    groups, block, _ = key_shape(h)
    last = (t + 1 if given["d_expected"] is not None else t) * n
    tile, width, ranks = min(64, power(h, 16)), min(64, power(i, 16)), power(r, 16)
    down, across = -(-h // tile), -(-i // width)
    gates = 2 if flags.liquid else 1
    apart = last >= APART
    tiles = 1 if apart else gates * (down * down + down * across) + 2 * down * across + 1
    if flags.plastic:
        tiles += down + across + groups
    parts = max(1, min(-(-last // ROWS), -(-4 * gpu.processors // tiles)))
    found = shapes(sizes)
    counts = [math.prod(shape) for shape in found.values()]
    total = room["adjoints"].new_empty(sum(counts))
    skipped = sum(counts[: list(found).index("D")]) if apart else 0
    size = total.numel() - skipped
    shares = total.new_empty(parts, size)
    ranks_tape, scalars, units = given["ranks"], given["scalars"], given["units"]
    gradients = call(
        triton_products.gradients,
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
        APART=apart,
        num_warps=4,
    )
    arrays = (
        given["y"],
        given["read"] if flags.missing else given["x"],
        given["error"],
        units,
        ranks_tape,
        ranks_tape[2],
        scalars if flags.learns else None,
        *(room[name] for name in ("adjoints", "d_key", "d_expected", "d_filtered", "d_units", "d_scale")),
        shares,
    )
    gradients((tiles, parts), arrays, (t * n, last, -(-last // parts), n, -(-n // parts)))
    at_tau = sum(counts[: list(found).index("tau")]) - skipped
    totals = call(triton_products.totals, SIZE=size, AT_TAU=at_tau, H=h, BLOCK=1024, num_warps=4)
    totals((-(-size // 1024),), (shares, total[skipped:], given["tau"] if flags.liquid else None), (parts,))
    split = torch.split(total, counts)
    gradient = {
        name: part if len(shape) == 1 else part.view(shape)
        for (name, shape), part in zip(found.items(), split, strict=True)
    }
    if apart:
        _of_matrices(given, room, sizes, flags, gradient)
    return gradient


def _of_matrices(
    given: Mapping[str, Any],
    room: Mapping[str, Tensor],
    sizes: Sizes,
    flags: Flags,
    found: Mapping[str, Tensor],
) -> None:
    """Write the gradients of weight matrices, and of what goes with them, into `found`, by torch."""
    _, t, i, h, _ = sizes
    dw, dv, dg, _ = room["adjoints"].view(4, -1, h)
    x = (given["read"] if flags.missing else given["x"]).view(-1, i)
    d_expected = room["d_expected"][: t + 1 if given["d_expected"] is not None else t].view(-1, i)
    y = given["y"].view(-1, h)
    before = y[: len(x)]
    products = {
        "A": (before, dv),
        "C": (y[: len(d_expected)], d_expected),
        "W": (given["error"].view(-1, i), dw),
        "B": (x, dv),
    }
    if flags.liquid:
        products |= {"G_h": (before, dg), "G_x": (x, dg)}
    with products_in(flags.half, x.device):
        for name, (left, right) in products.items():
            torch.mm(left.mT, right, out=found[name])
    torch.sum(dv, 0, out=found["b"])
    torch.sum(d_expected, 0, out=found["c"])
    if flags.liquid:
        torch.div(dg.sum(0), -given["tau"], out=found["tau"])


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
