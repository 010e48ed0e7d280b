"""Triton kernels from the parameters as they are learned to those of the equations, and their gradients
back; and the move of the prior, see `dream.functional.moved_prior`.

Here eta, tau and the surprise scale are exponentials and tonic is a sigmoid, as in `dream.cell.DREAMCell`,
and the sensory filter V = sqrt(R) Q comes from V_raw = Q T (Q^T Q = 1, T upper triangular with positive
diagonal). One program holds the whole of Q, (RP, IP), in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dream.ops.triton_parts import powers, sigmoid

TINY = tl.constexpr(1e-37)


@triton.jit
def row_of(M, r, ranks):
    """Row r of M (RP, IP)."""
    return tl.sum(tl.where((ranks == r)[:, None], M, 0.0), 0)


@triton.jit
def orthonormalised(M, ranks, R: tl.constexpr):
    """Rows of M (RP, IP) by the modified method of Gram and Schmidt."""
    for r in tl.range(0, R):
        v = row_of(M, r, ranks)
        q = v / tl.maximum(tl.sqrt(tl.sum(v * v, 0)), TINY)
        along = tl.sum(M * q[None, :], 1)
        M = tl.where(
            (ranks == r)[:, None],
            q[None, :],
            tl.where((ranks > r)[:, None], M - along[:, None] * q[None, :], M),
        )
    return M


@triton.jit
def effective(
    V_raw, log_eta, logit_tonic, log_tau, log_scale, V, eta, tonic, tau, scale, length,
    I: tl.constexpr, H: tl.constexpr, R: tl.constexpr, IP: tl.constexpr, RP: tl.constexpr, HP: tl.constexpr,
    PLASTIC: tl.constexpr, HASTENS: tl.constexpr,
):  # fmt: skip
    """The parameters of the equations; V of `length` sqrt(R), by a program of its own."""
    if tl.program_id(0) == 0:
        j = tl.arange(0, HP)
        inside = j < H
        value = tl.zeros((HP,), tl.float32)
        if PLASTIC:
            value = tl.exp(tl.load(log_eta + j, mask=inside, other=0.0))
        tl.store(eta + j, value, mask=inside)
        tl.store(tonic + j, sigmoid(tl.load(logit_tonic + j, mask=inside, other=0.0)), mask=inside)
        tl.store(tau + j, tl.exp(tl.load(log_tau + j, mask=inside, other=0.0)), mask=inside)
        hastening = 0.0
        if HASTENS:
            hastening = tl.exp(tl.load(log_scale))
        tl.store(scale, hastening)
    else:
        ranks, i = tl.arange(0, RP), tl.arange(0, IP)
        there = (ranks < R)[:, None] & (i < I)[None, :]
        at = i[None, :] * R + ranks[:, None]
        M = tl.load(V_raw + at, mask=there, other=0.0)
        inverse, _ = powers(tl.max(tl.abs(M), 1))
        # what the first pass leaves along earlier rows where V_raw is nearly singular goes with the second
        M = orthonormalised(orthonormalised(M * inverse[:, None], ranks, R), ranks, R)
        tl.store(V + at, M * length, mask=there)


@triton.jit
def effective_back(
    V_raw, V, eta, tonic, tau, scale, d_V, d_eta, d_tonic, d_tau, d_scale, raw_V, raw_eta, raw_tonic,
    raw_tau, raw_scale, length,
    I: tl.constexpr, H: tl.constexpr, R: tl.constexpr, IP: tl.constexpr, RP: tl.constexpr, HP: tl.constexpr,
):  # fmt: skip
    """Gradients of the learned parameters (`raw_`) from those of the equations' (`d_`, None for 0)."""
    if tl.program_id(0) == 0:
        j = tl.arange(0, HP)
        inside = j < H
        if d_eta is not None:
            tl.store(
                raw_eta + j, tl.load(d_eta + j, mask=inside) * tl.load(eta + j, mask=inside), mask=inside
            )
        if d_tonic is not None:
            share = tl.load(tonic + j, mask=inside)
            tl.store(raw_tonic + j, tl.load(d_tonic + j, mask=inside) * share * (1.0 - share), mask=inside)
        if d_tau is not None:
            tl.store(
                raw_tau + j, tl.load(d_tau + j, mask=inside) * tl.load(tau + j, mask=inside), mask=inside
            )
        if d_scale is not None:
            tl.store(raw_scale, tl.load(d_scale) * tl.load(scale))
    elif d_V is not None:
        # d_raw T^T = G, G = dQ + Q S, S symmetric with -Q^T dQ above and on its diagonal; by columns from
        # the last
        ranks, i = tl.arange(0, RP), tl.arange(0, IP)
        there = (ranks < R)[:, None] & (i < I)[None, :]
        at = i[None, :] * R + ranks[:, None]
        Q = tl.load(V + at, mask=there, other=0.0) / length
        dQ = tl.load(d_V + at, mask=there, other=0.0) * length
        G = tl.zeros((RP, IP), tl.float32)
        for r in tl.range(0, R):
            above = tl.sum(Q * row_of(dQ, r, ranks)[None, :], 1)
            below = tl.sum(dQ * row_of(Q, r, ranks)[None, :], 1)
            S = tl.where(ranks <= r, above, below)
            G = tl.where((ranks == r)[:, None], dQ - tl.sum(S[:, None] * Q, 0)[None, :], G)
        for back in tl.range(0, R):
            r = R - 1 - back
            raw = tl.load(V_raw + i * R + r, mask=i < I, other=0.0)
            T = tl.sum(Q * raw[None, :], 1)  # column r
            d_raw = row_of(G, r, ranks) / tl.sum(tl.where(ranks == r, T, 0.0), 0)
            tl.store(raw_V + i * R + r, d_raw, mask=i < I)
            G -= tl.where((ranks < r)[:, None], T[:, None] * d_raw[None, :], 0.0)


@triton.jit(do_not_specialize=["steps"])
def move_prior(PRIOR, MOVES, SQUARES, steps, smoothing, most, I: tl.constexpr, BLOCK: tl.constexpr):
    """Move PRIOR (I,) towards SQUARES / `steps` where that is at most `most`."""
    moves = tl.load(MOVES)
    weight = tl.maximum(1.0 / (moves + 1).to(tl.float32), smoothing)
    for i0 in tl.range(0, I, BLOCK):
        i = i0 + tl.arange(0, BLOCK)
        mean = tl.load(SQUARES + i, mask=i < I, other=0.0) / steps
        prior = tl.load(PRIOR + i, mask=i < I, other=0.0)
        moved = tl.where(
            weight < 0.5, prior + weight * (mean - prior), mean - (mean - prior) * (1.0 - weight)
        )
        tl.store(PRIOR + i, tl.where(mean <= most, moved, prior), mask=i < I)
    tl.debug_barrier()
    tl.store(MOVES, moves + 1)
