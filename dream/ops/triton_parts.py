"""Parts of both Triton kernels: products with a matrix, the key of the fast weights, tiles of U.

A program owns `BN` samples. A vector over units is a tile (BN, HP), one over ranks (RP, BN), U is (RB, BN,
HP) for RB ranks at a time: then sums over ranks stay within a thread. HP and RP are H and R rounded up to
powers of two. A program's threads exchange vectors through global memory (its own rows, so through the
cache) and a barrier: a tile in registers cannot be cut along the axis of a product.
"""

from __future__ import annotations

import triton
import triton.language as tl

EPS = tl.constexpr(1e-6)
FARTHEST = tl.constexpr(1e15)
HALF_PLASTICITY = tl.constexpr(0.1)
OUTLIER = tl.constexpr(5.0)
HALF_LARGEST = tl.constexpr(9.2e18)  # half of the largest number whose square is finite
UNIT = tl.constexpr(2.0**-32)  # squares of U are taken in a larger unit, see `dream.numerics.norm`
HALF_ENTROPY = tl.constexpr(1.4189385332046727)  # 0.5 ln(2 pi e)


@triton.jit
def tanh(x):
    """tanh(x), by its series where 1 - exp would cancel."""
    s = x * x
    near = x * (1.0 + s * (-0.33333333 + s * (0.13333334 + s * (-0.05396825 + s * 0.021869488))))
    return tl.where(s < 0.04, near, 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x)))


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)); exp overflows to inf, which gives 0."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def log1p(x):
    """ln(1 + x) for x >= 0."""
    return tl.where(x < 1e-4, x * (1.0 - 0.5 * x), tl.log(1.0 + x))


@triton.jit
def powers(size):
    """For sizes (BN,): a power of two by which numbers of that size come to [1, 2), and its inverse."""
    bits = tl.minimum(size.to(tl.int32, bitcast=True) & 0x7F800000, 253 << 23)
    unit = bits.to(tl.float32, bitcast=True)
    return (0x7F000000 - bits).to(tl.float32, bitcast=True), unit


@triton.jit
def dot(v, w, total, PREC: tl.constexpr):
    """total + v w; in float32 if w is, else in half precision with sums in float32."""
    if w.dtype == tl.float32:
        total = tl.dot(v, w, total, input_precision=PREC)
    else:
        total = tl.dot(v.to(w.dtype), w, total)
    return total


@triton.jit
def matrix(M, rows, columns, down, right, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Tile of a matrix (ROWS, COLUMNS) with strides `down` and `right`, 0 outside of it."""
    there = (rows[:, None] < ROWS) & (columns[None, :] < COLUMNS)
    return tl.load(M + rows[:, None] * down + columns[None, :] * right, mask=there, other=0.0)


@triton.jit
def product(
    v, M, scale, rows, down, right, ROWS: tl.constexpr, COLUMNS: tl.constexpr, columns, PREC: tl.constexpr
):
    """v (scale M)[rows], v (BN, rows) of any size in registers; v is brought into the range of M's dtype."""
    w = matrix(M, rows, columns, down, right, ROWS, COLUMNS)
    if w.dtype == tl.float32:
        total = tl.dot(v, w, input_precision=PREC)
    else:
        inverse, unit = powers(tl.max(tl.abs(v), 1))
        total = tl.dot((v * inverse[:, None]).to(w.dtype), w) * (unit * scale)[:, None]
    return total


@triton.jit
def mixing(K, H: tl.constexpr, HP: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr, BACK: tl.constexpr):
    """K as (KP, 1, HP): what the i-th unit of a block gives to unit j's key or, BACK, gets from its
    adjoint."""
    i = tl.arange(0, KP)[:, None]
    j = tl.arange(0, HP)[None, :]
    block, within = j // KB, j % KB
    if BACK:
        at = (block * KB + within) * KB + i
    else:
        at = (block * KB + i) * KB + within
    there = (i < KB) & (j < H) & (block * KB + i < H)
    return tl.load(K + at, mask=there, other=0.0)[:, None, :]


@triton.jit
def blocks(V, at, here, H: tl.constexpr, HP: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr):
    """(KP, BN, HP): the i-th unit of the block of unit j, of vectors in memory at `at` (BN,)."""
    i = tl.arange(0, KP)[:, None, None]
    unit = (tl.arange(0, HP) // KB * KB)[None, None, :] + i
    there = here[None, :, None] & (i < KB) & (unit < H)
    return tl.load(V + at[None, :, None] + unit, mask=there, other=0.0)


@triton.jit
def scales_of(SCALES, HALF: tl.constexpr):
    """The units of A, G_h, C, W, B and G_x; 1 where they are not in half precision."""
    v, g, c, w, b, x = 1.0, 1.0, 1.0, 1.0, 1.0, 1.0
    if HALF:
        v, g, c = tl.load(SCALES), tl.load(SCALES + 1), tl.load(SCALES + 2)
        w, b, x = tl.load(SCALES + 3), tl.load(SCALES + 4), tl.load(SCALES + 5)
    return v, g, c, w, b, x


@triton.jit
def of_units(V, j, H: tl.constexpr, USED: tl.constexpr):
    """A vector of H numbers as (1, HP); 0 where it is not used."""
    row = tl.zeros((1, j.shape[0]), tl.float32)
    if USED:
        row = tl.load(V + j, mask=j < H, other=0.0)[None, :]
    return row


@triton.jit
def vectors(V, at, k, here, H: tl.constexpr):
    """Numbers k of vectors (BN, H) in memory at `at` (BN,)."""
    return tl.load(V + at[:, None] + k[None, :], mask=here[:, None] & (k < H)[None, :], other=0.0)


@triton.jit
def places(n, r, j, sample, unit, rank):
    """Where ranks r of U lie, (RB, BN, HP), for U with these strides."""
    return n[None, :, None] * sample + j[None, None, :] * unit + r[:, None, None] * rank


@triton.jit
def filter_of(V, i, r, I: tl.constexpr, R: tl.constexpr):
    """Rows i of V (I, R), as (RP, 1, IB)."""
    there = (i < I)[None, :] & (r < R)[:, None]
    return tl.load(V + i[None, :] * R + r[:, None], mask=there, other=0.0)[:, None, :]


@triton.jit
def learned(U, target, shrink, sleep, forget, stored, g):
    """U" and U_target of line 6 from those that the step before left, with its factors of lines 7 and 11."""
    U = shrink[None, :, None] * U
    target = target + sleep[None, :, None] * (U - target)
    kept = U - forget[None, :, None] * (U - target)
    return U, target, kept + stored[None, :, :] * g[:, :, None]
