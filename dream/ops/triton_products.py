"""Triton kernels around the scan: weights in half precision before it, parameters' gradients after it."""

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
def summed(
    total, sums, LEFT, RIGHT, first, last, i, j,
    M: tl.constexpr, N: tl.constexpr, inside_i, inside_j, BLOCK: tl.constexpr, PREC: tl.constexpr,
    WEIGHT=None,
):  # fmt: skip
    """total + LEFT[rows, i]^T RIGHT[rows, j] and sums + those of RIGHT's rows, from row `first` to `last`."""
    for r0 in tl.range(first, last, BLOCK):
        rows = (r0 + tl.arange(0, BLOCK)).to(tl.int64)
        there = rows < last
        left = tl.load(
            LEFT + rows[None, :] * M + i[:, None], mask=there[None, :] & inside_i[:, None], other=0.0
        )
        right = tl.load(
            RIGHT + rows[:, None] * N + j[None, :], mask=there[:, None] & inside_j[None, :], other=0.0
        )
        if WEIGHT is not None:
            left = left * tl.load(WEIGHT + rows, mask=there, other=0.0)[None, :]
        total = tl.dot(left, right, total, input_precision=PREC)
        sums += tl.sum(right, 0)
    return total, sums


@triton.jit
def one_product(
    OUT, SUMS, LEFT, RIGHT, first, last, tile,
    M: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BLOCK: tl.constexpr,
    PREC: tl.constexpr, WEIGHT=None,
):  # fmt: skip
    """A tile of LEFT^T RIGHT (M, N); the first tiles of rows write RIGHT's sums, where SUMS is given."""
    columns: tl.constexpr = (N + BN - 1) // BN
    i = tile // columns * BM + tl.arange(0, BM)
    j = tile % columns * BN + tl.arange(0, BN)
    total, sums = tl.zeros((BM, BN), tl.float32), tl.zeros((BN,), tl.float32)
    total, sums = summed(total, sums, LEFT, RIGHT, first, last, i, j, M, N, i < M, j < N, BLOCK, PREC, WEIGHT)
    tl.store(OUT + i[:, None] * N + j[None, :], total, mask=(i < M)[:, None] & (j < N)[None, :])
    if SUMS is not None:
        if tile < columns:
            tl.store(SUMS + j, sums, mask=j < N)


@triton.jit
def of_units(
    OUT, SCALE, D_UNITS, D_SCALE, first, last, N, H: tl.constexpr, HP: tl.constexpr, LEARNS: tl.constexpr
):
    """Gradients of eta, tonic (2, H) and the surprise scale from samples `first` to `last`."""
    j = tl.arange(0, HP)
    d_eta, d_tonic, d_scale = tl.zeros((HP,), tl.float32), tl.zeros((HP,), tl.float32), 0.0
    for n in tl.range(first, last):
        if LEARNS:
            at = D_UNITS + (N + n).to(tl.int64) * H + j
            d_eta += tl.load(at, mask=j < H, other=0.0)
            d_tonic += tl.load(at + N.to(tl.int64) * H, mask=j < H, other=0.0)
        d_scale += tl.load(D_SCALE + n)
    tl.store(OUT + j, d_eta, mask=j < H)
    tl.store(OUT + H + j, d_tonic, mask=j < H)
    tl.store(SCALE, d_scale)


@triton.jit
def of_filter(
    OUT, D_EXPECTED, READ, ERROR, D_FILTERED, first, last, last_too, tile,
    I: tl.constexpr, R: tl.constexpr, BI: tl.constexpr, BR: tl.constexpr, BLOCK: tl.constexpr,
    PREC: tl.constexpr, LEARNS: tl.constexpr,
):  # fmt: skip
    """A tile of rows of V: what it gave to the prediction, and what of the error it passed on."""
    i, r = tile * BI + tl.arange(0, BI), tl.arange(0, BR)
    total, sums = tl.zeros((BI, BR), tl.float32), tl.zeros((BR,), tl.float32)
    total, sums = summed(
        total, sums, D_EXPECTED, READ, first, last_too, i, r, I, R, i < I, r < R, BLOCK, PREC
    )
    if LEARNS:
        total, sums = summed(
            total, sums, ERROR, D_FILTERED, first, last, i, r, I, R, i < I, r < R, BLOCK, PREC
        )
    tl.store(OUT + i[:, None] * R + r[None, :], total, mask=(i < I)[:, None] & (r < R)[None, :])


@triton.jit
def of_keys(
    OUT, SUMS, Y, D_KEY, CUE, D_CUE_KEY, first, last, last_too, block,
    H: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One block of K, and its part of k: from the keys of h and those of tanh v."""
    i = tl.arange(0, KP)
    at = block * KB + i
    inside = (i < KB) & (at < H)
    total, sums = tl.zeros((KP, KP), tl.float32), tl.zeros((KP,), tl.float32)
    total, sums = summed(total, sums, Y, D_KEY, first, last_too, at, at, H, H, inside, inside, BLOCK, PREC)
    total, sums = summed(total, sums, CUE, D_CUE_KEY, first, last, at, at, H, H, inside, inside, BLOCK, PREC)
    place = OUT + (block * KB + i[:, None]) * KB + i[None, :]
    tl.store(place, total, mask=(i < KB)[:, None] & (i < KB)[None, :])
    tl.store(SUMS + at, sums, mask=inside)


@triton.jit(do_not_specialize=["rows", "last_rows", "share", "N", "samples"])
def gradients(
    Y, X, ERROR, CUE, READ, RECALLED, SHRINK, ADJOINTS, D_KEY, D_EXPECTED, D_FILTERED, D_UNITS, D_SCALE,
    PARTS, rows, last_rows, share, N, samples,
    I: tl.constexpr, H: tl.constexpr, R: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr, BH: tl.constexpr,
    BI: tl.constexpr, BR: tl.constexpr, HP: tl.constexpr, BLOCK: tl.constexpr, PREC: tl.constexpr,
    LIQUID: tl.constexpr, PLASTIC: tl.constexpr, LEARNS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """A share of all rows (steps times samples) of one tile of one parameter's gradient; PARTS (shares, all),
    or with APART without the weight matrices, which stand first, and with nothing in b, tau and c.

    The order within PARTS is that of `dream.ops.triton_gradients.shapes`; of `samples` a share adds up what
    the backward pass summed over steps. READ (rows, R) is q U, RECALLED is o without SHRINK.
    """
    pid, part = tl.program_id(0), tl.program_id(1)
    TH: tl.constexpr = (H + BH - 1) // BH
    TI: tl.constexpr = (I + BI - 1) // BI
    G: tl.constexpr = (H + KB - 1) // KB
    # places in PARTS
    AT_C: tl.constexpr = 2 * H * H  # after A, G_h
    AT_W: tl.constexpr = AT_C + H * I
    AT_D: tl.constexpr = AT_W + 3 * H * I  # after W, B, G_x
    AT_V: tl.constexpr = AT_D + R * H
    AT_K: tl.constexpr = AT_V + I * R
    AT_b: tl.constexpr = AT_K + G * KB * KB
    AT_c: tl.constexpr = AT_b + 5 * H  # after b, tau, k, eta, tonic
    SIZE: tl.constexpr = AT_c + I + 1
    SKIPPED: tl.constexpr = AT_D if APART else 0
    OUT = PARTS + part.to(tl.int64) * (SIZE - SKIPPED) - SKIPPED
    first = part * share
    last = tl.minimum(first + share, rows)
    last_too = tl.minimum(first + share, last_rows)
    plane = rows.to(tl.int64) * H
    # the tiles of each, one parameter after another
    GATES: tl.constexpr = 1 if LIQUID else 0
    A: tl.constexpr = TH * TH
    C: tl.constexpr = (1 + GATES) * A
    W: tl.constexpr = C + TH * TI
    B: tl.constexpr = TH * TI
    UNITS: tl.constexpr = W + (2 + GATES) * B
    D: tl.constexpr = UNITS + 1
    V: tl.constexpr = D + TH
    K: tl.constexpr = V + TI
    if APART:
        pid += UNITS
    if pid < C:
        gate = pid // A
        one_product(
            OUT + gate * H * H, OUT + AT_b + gate * H, Y, ADJOINTS + (1 + gate) * plane, first, last,
            pid % A, H, H, BH, BH, BLOCK, PREC,
        )  # fmt: skip
    elif pid < W:
        one_product(
            OUT + AT_C, OUT + AT_c, Y, D_EXPECTED, first, last_too, pid - C, H, I, BH, BI, BLOCK, PREC
        )
    elif pid < UNITS:
        which = (pid - W) // B
        left = tl.where(which == 0, ERROR, X)
        one_product(
            OUT + AT_W + which * H * I, None, left, ADJOINTS + which * plane, first, last, (pid - W) % B, I,
            H, BI, BH, BLOCK, PREC,
        )  # fmt: skip
    elif pid < D:
        of_units(
            OUT + AT_b + 3 * H, OUT + SIZE - 1, D_UNITS, D_SCALE, part * samples,
            tl.minimum((part + 1) * samples, N), N, H, HP, LEARNS,
        )  # fmt: skip
    elif PLASTIC:
        if pid < V:
            one_product(
                OUT + AT_D, None, RECALLED, ADJOINTS, first, last, pid - D, R, H, BR, BH, BLOCK, PREC, SHRINK
            )
        elif pid < K:
            of_filter(
                OUT + AT_V, D_EXPECTED, READ, ERROR, D_FILTERED, first, last, last_too, pid - V, I, R, BI,
                BR, BLOCK, PREC, LEARNS,
            )  # fmt: skip
        else:
            of_keys(
                OUT + AT_K, OUT + AT_b + 2 * H, Y, D_KEY, CUE, ADJOINTS + 3 * plane, first, last, last_too,
                pid - K, H, KB, KP, BLOCK, PREC,
            )  # fmt: skip


@triton.jit(do_not_specialize=["parts"])
def totals(
    PARTS, OUT, tau, parts, SIZE: tl.constexpr, AT_TAU: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr
):
    """The sum over the shares of PARTS, and what the pace of line 9 gives to tau."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.range(0, parts):
        total += tl.load(PARTS + part * SIZE + at, mask=at < SIZE, other=0.0)
    if tau is not None:
        unit = at - AT_TAU
        inside = (unit >= 0) & (unit < H)
        total = tl.where(inside, total / -tl.load(tau + unit, mask=inside, other=1.0), total)
    tl.store(OUT + at, total, mask=at < SIZE)
