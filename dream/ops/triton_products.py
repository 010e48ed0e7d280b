"""Triton kernels around the scan: weights in half precision before it, products for K afterwards."""

from __future__ import annotations

import triton
import triton.language as tl

from dream.ops.triton_parts import powers


@triton.jit
def halved(M, OUT, SCALE, count, BLOCK: tl.constexpr):
    """One matrix of `count` numbers in half precision, in units of its SCALE: a power of two, so that the
    largest comes to [1, 2) and nothing overflows."""
    largest = tl.zeros((1,), tl.float32)
    for first in tl.range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(M + at, mask=at < count, other=0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(value), 0))
    inverse, unit = powers(largest)
    tl.store(SCALE + tl.arange(0, 1), unit)
    for first in tl.range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(M + at, mask=at < count, other=0.0)
        tl.store(OUT + at, (value * inverse).to(tl.float16), mask=at < count)


@triton.jit
def pack(
    A, G_h, C, W, B, G_x, OUT, SCALES,
    I: tl.constexpr, H: tl.constexpr, LIQUID: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All matrices in half precision, one after another, each by a program of its own."""
    which = tl.program_id(0)
    HH: tl.constexpr = H * H
    HI: tl.constexpr = H * I
    if which == 0:
        halved(A, OUT, SCALES, HH, BLOCK)
    if which == 1:
        halved(C, OUT + 2 * HH, SCALES + 2, HI, BLOCK)
    if which == 2:
        halved(W, OUT + 2 * HH + HI, SCALES + 3, HI, BLOCK)
    if which == 3:
        halved(B, OUT + 2 * HH + 2 * HI, SCALES + 4, HI, BLOCK)
    if LIQUID:
        if which == 4:
            halved(G_h, OUT + HH, SCALES + 1, HH, BLOCK)
        if which == 5:
            halved(G_x, OUT + 2 * HH + 3 * HI, SCALES + 5, HI, BLOCK)


@triton.jit
def summed(total, LEFT, RIGHT, first, last, at, inside, i, H, BLOCK: tl.constexpr, PREC: tl.constexpr):
    """total + LEFT^T RIGHT of one block of units, over the rows from `first` to `last`."""
    for r0 in tl.range(first, last, BLOCK):
        rows = (r0 + tl.arange(0, BLOCK)).to(tl.int64)
        there = rows < last
        left = tl.load(LEFT + rows[None, :] * H + at[:, None], mask=there[None, :] & inside[:, None], other=0.0)
        right = tl.load(RIGHT + rows[:, None] * H + at[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision=PREC)
    return total


@triton.jit(do_not_specialize=["rows", "cue_rows", "share"])
def key_gradient(
    Y, D_KEY, CUE, D_CUE_KEY, OUT, rows, cue_rows, share,
    H: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """The gradient of one block of K by a share of all rows (steps times samples): OUT (shares, G, KB, KB)."""
    block, part = tl.program_id(0), tl.program_id(1)
    i = tl.arange(0, KP)
    at = block * KB + i
    inside = (i < KB) & (at < H)
    total = tl.zeros((KP, KP), tl.float32)
    first = part * share
    total = summed(total, Y, D_KEY, first, tl.minimum(first + share, rows), at, inside, i, H, BLOCK, PREC)
    total = summed(total, CUE, D_CUE_KEY, first, tl.minimum(first + share, cue_rows), at, inside, i, H, BLOCK, PREC)
    place = (part * tl.num_programs(0) + block) * KB * KB + i[:, None] * KB + i[None, :]
    tl.store(OUT + place, total, mask=(i < KB)[:, None] & (i < KB)[None, :])
