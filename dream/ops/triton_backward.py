"""The Triton kernel of the backward pass: the adjoints of h and U, of `BN` samples, from the last step to the
first, by the tape of `dream.ops.triton_forward`.

Surprise and the statistics carry no gradient, so nothing else is carried from step to step. What each step
leaves for the parameters is written out, for one large product with all steps afterwards: ADJOINTS (4, T,
N, H) holds those of u, v, the pace of line 9 and the key of tanh v; D_KEY (T + 1, N, H) that of q,
D_EXPECTED (T + 1, N, I) that of the prediction and D_FILTERED (T, N, R) that of e V.

U before a step is read from BEFORE: that is the tape or, where this holds every `every`-th only, room for the
steps of a segment (every + 1, N, R, H), for which U is computed again; U itself where it does not learn. The
adjoint of U stays in registers where all ranks fit, as in the forward pass.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dream.ops.triton_parts import (
    HALF_PLASTICITY,
    blocks,
    dot,
    filter_of,
    matrix,
    mixing,
    of_units,
    places,
    powers,
    product,
    scales_of,
    vectors,
)


@triton.jit
def replay(
    U_KEPT, TARGET_KEPT, BEFORE, TARGET_BEFORE, UNITS, RANKS, SCALARS, plane, rank_plane, steps_plane,
    first, last, every, N, n, j, here, units,
    R: tl.constexpr, H: tl.constexpr, RB: tl.constexpr, BN: tl.constexpr, HP: tl.constexpr,
    KEEP_TARGET: tl.constexpr,
):  # fmt: skip
    """U before each step from `first` to `last` of a segment, and after; U_target too with KEEP_TARGET."""
    for r0 in tl.range(0, R, RB):
        rr = r0 + tl.arange(0, RB)
        tile = (rr < R)[:, None, None] & units[None, :, :]
        slot = (first // every) * N.to(tl.int64) + n
        at = places(slot, rr, j, R * H, 1, H)
        U = tl.load(U_KEPT + at, mask=tile, other=0.0)
        target = tl.load(TARGET_KEPT + at, mask=tile, other=0.0)
        for t in tl.range(first, last + 1):
            row = t * N.to(tl.int64) + n
            at = places(row - first * N.to(tl.int64), rr, j, R * H, 1, H)
            tl.store(BEFORE + at, U, mask=tile)
            if KEEP_TARGET:
                tl.store(TARGET_BEFORE + at, target, mask=tile)
            stored = tl.load(UNITS + 3 * plane + (row * H)[:, None] + j[None, :], mask=units, other=0.0)
            at_r = row[None, :] * R + rr[:, None]
            g = tl.load(RANKS + rank_plane + at_r, mask=here[None, :] & (rr < R)[:, None], other=0.0)
            shrink = tl.load(SCALARS + row, mask=here, other=1.0)
            forget = tl.load(SCALARS + 2 * steps_plane + row, mask=here, other=0.0)
            sleep = tl.load(SCALARS + 3 * steps_plane + row, mask=here, other=0.0)
            U = U - forget[None, :, None] * (U - target) + stored[None, :, :] * g[:, :, None]
            U = shrink[None, :, None] * U
            target += sleep[None, :, None] * (U - target)
        after = (last + 1 - first) * N.to(tl.int64) + n
        at = places(after, rr, j, R * H, 1, H)
        tl.store(BEFORE + at, U, mask=tile)


@triton.jit(do_not_specialize=["T", "N", "every"])
def backward(
    D_Y, D_PREDICTION, D_ERROR, D_FINAL, X, SPANS, LENGTHS, A, G_h, C, W, B, G_x, SCALES, V, D, K, k, eta,
    tonic, surprise_scale, Y, UNITS, RANKS, SCALARS, SURPRISE, U, U_KEPT, TARGET_KEPT, BEFORE,
    TARGET_BEFORE, ADJOINTS, D_KEY, D_EXPECTED, D_FILTERED, D_UNITS, D_SCALE, D_SPANS, D_U, ROOM, T, N,
    every, span_sample, span_step, root_rho, forgetting, norm_allowed, kappa,
    I: tl.constexpr, H: tl.constexpr, R: tl.constexpr, IB: tl.constexpr, HP: tl.constexpr, RP: tl.constexpr,
    RB: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr, PREC: tl.constexpr, PLASTIC: tl.constexpr, LEARNS: tl.constexpr,
    LIQUID: tl.constexpr, MISSING: tl.constexpr, PADDED: tl.constexpr, SPANNED: tl.constexpr,
    REPLAYS: tl.constexpr, PREDICTION: tl.constexpr, WITH_ERROR: tl.constexpr,
):  # fmt: skip
    HELD: tl.constexpr = RB == RP
    ONE: tl.constexpr = IB >= I
    HALF: tl.constexpr = A.dtype.element_ty == tl.float16
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    here = n < N
    n = n.to(tl.int64)
    j = tl.arange(0, HP)
    ranks = tl.arange(0, RP)
    all_ranks = here[None, :] & (ranks < R)[:, None]
    units = here[:, None] & (j < H)[None, :]
    plane = T.to(tl.int64) * N * H
    rank_plane = (T + 1).to(tl.int64) * N * R
    steps_plane = T.to(tl.int64) * N
    room = N.to(tl.int64) * R

    v_scale, g_scale, c_scale, w_scale, b_scale, x_scale = scales_of(SCALES, HALF)
    key_bias = of_units(k, j, H, PLASTIC)
    quick, calm = of_units(eta, j, H, LEARNS), of_units(tonic, j, H, LEARNS)
    mix = tl.zeros((KP, 1, HP), tl.float32)
    unmix = tl.zeros((KP, 1, HP), tl.float32)
    if PLASTIC:
        mix = mixing(K, H, HP, KB, KP, False)
        unmix = mixing(K, H, HP, KB, KP, True)
    s_scale = 0.0
    if LIQUID:
        s_scale = tl.load(surprise_scale)
    length = T
    if PADDED:
        length = tl.load(LENGTHS + n, mask=here, other=0).to(tl.int32)

    dh = tl.zeros((BN, HP), tl.float32)
    dU = tl.zeros((RB, BN, HP), tl.float32)
    after = tl.zeros((RB, BN, HP), tl.float32)
    d_eta, d_tonic = tl.zeros((BN, HP), tl.float32), tl.zeros((BN, HP), tl.float32)
    d_scale = tl.zeros((BN,), tl.float32)
    if PLASTIC:
        for r0 in tl.range(0, R, RB):
            rr = r0 + tl.arange(0, RB)
            tile = (rr < R)[:, None, None] & units[None, :, :]
            at = places(n, rr, j, R * H, 1, H)
            if D_FINAL is not None:
                dU = tl.load(D_FINAL + at, mask=tile, other=0.0)
            if HELD:
                after = tl.load(U + at, mask=tile, other=0.0)
            else:
                tl.store(D_U + at, dU, mask=tile)

    for back in tl.range(0, T):
        t = T - 1 - back
        row = t * N.to(tl.int64) + n
        at_h = row * H
        valid = here
        if PADDED:
            valid = here & (t < length)
        at_units = at_h[:, None] + j[None, :]
        # where U before this step is: on the tape, computed again, or as it always was
        slot = n
        later = n
        if LEARNS:
            if REPLAYS:
                first = t // every * every
                if (t == T - 1) | (t == first + every - 1):
                    tl.debug_barrier()
                    replay(
                        U_KEPT, TARGET_KEPT, BEFORE, TARGET_BEFORE, UNITS, RANKS, SCALARS, plane,
                        rank_plane, steps_plane, first, t, every, N, n, j, here, units, R, H, RB, BN, HP,
                        SPANNED,
                    )  # fmt: skip
                    tl.debug_barrier()
                slot = (t - first) * N.to(tl.int64) + n
            else:
                slot = row
            later = slot + N
        # 9 and tanh(u)
        h = tl.load(Y + at_units, mask=units, other=0.0)
        u = tl.load(UNITS + plane + at_units, mask=units, other=0.0)
        dh += tl.load(D_Y + at_units + N * H, mask=units, other=0.0)
        a = tl.full((BN, HP), 1.0, tl.float32)
        if LIQUID:
            a = tl.load(UNITS + 2 * plane + at_units, mask=units, other=0.0)
        if PADDED:
            a = tl.where(valid[:, None], a, 0.0)
        S = tl.load(SURPRISE + row, mask=here, other=0.0)
        du = dh * a * (1.0 - u * u)
        dg = tl.zeros((BN, HP), tl.float32)
        d_span = tl.zeros((BN,), tl.float32)
        if LIQUID:
            dg = dh * (u - h) * a * (1.0 - a)
            total = tl.sum(dg, 1)
            d_scale += total * S / (1.0 + s_scale * S)
            if SPANNED:
                d_span = total / tl.load(SPANS + n * span_sample + t * span_step, mask=here, other=1.0)
            tl.store(ADJOINTS + 2 * plane + at_units, dg, mask=units)
        dh = dh * (1.0 - a)
        tl.store(ADJOINTS + at_units, du, mask=units)
        inverse, unit = powers(tl.max(tl.abs(du), 1))
        tl.debug_barrier()
        # what of it comes back from e and from what was recalled
        i = tl.arange(0, IB)
        de = tl.zeros((BN, IB), tl.float32)
        if ONE:
            for k0 in tl.range(0, H, BK, num_stages=STAGES):
                kk = k0 + tl.arange(0, BK)
                dk = vectors(ADJOINTS, at_h, kk, here, H)
                if HALF:
                    dk = dk * inverse[:, None]
                de = dot(dk, matrix(W, kk, i, 1, H, H, I), de, PREC)
            if HALF:
                de = de * (unit * w_scale)[:, None]
        dv = du
        cue = tl.zeros((BN, HP), tl.float32)
        stored = tl.zeros((BN, HP), tl.float32)
        by_g, by_g_U = tl.zeros((BN, HP), tl.float32), tl.zeros((BN, HP), tl.float32)
        d_filtered = tl.zeros((RP, BN), tl.float32)
        d_found = tl.zeros((RB, BN), tl.float32)
        g = tl.zeros((RB, BN), tl.float32)
        shrink = tl.full((BN,), 1.0, tl.float32)
        shrinks = tl.zeros((BN,), tl.float32)
        if PLASTIC:
            cue_h = tl.load(UNITS + at_units, mask=units, other=0.0)
            cue = tl.sum(blocks(UNITS, at_h, here, H, HP, KB, KP) * mix, 0) + key_bias
            if LEARNS:
                stored = tl.load(UNITS + 3 * plane + at_units, mask=units, other=0.0)
            d_cue = tl.zeros((BN, HP), tl.float32)
            along = tl.zeros((BN,), tl.float32)
            g_found = tl.zeros((BN,), tl.float32)
            by_stored, by_stored_U = tl.zeros((RB, BN), tl.float32), tl.zeros((RB, BN), tl.float32)
            for r0 in tl.range(0, R, RB):
                rr = r0 + tl.arange(0, RB)
                some = here[None, :] & (rr < R)[:, None]
                tile = (rr < R)[:, None, None] & units[None, :, :]
                at = places(n, rr, j, R * H, 1, H)
                d = tl.load(
                    D + rr[:, None] * H + j[None, :], mask=(rr < R)[:, None] & (j < H)[None, :], other=0.0
                )
                d_found = root_rho * tl.sum(du[None, :, :] * d[:, None, :], 2)
                if not HELD:
                    tl.store(ROOM + n[None, :] * R + rr[:, None], d_found, mask=some)
                    dU = tl.load(D_U + at, mask=tile, other=0.0)
                    later_at = places(later, rr, j, R * H, 1, H)
                    after = tl.load(BEFORE + later_at, mask=tile, other=0.0)
                d_cue += tl.sum(after * d_found[:, :, None], 0)
                if LEARNS:
                    g = tl.load(RANKS + rank_plane + row[None, :] * R + rr[:, None], mask=some, other=0.0)
                    along += tl.sum(tl.sum(dU * after, 0), 1)
                    by_g += tl.sum(dU * g[:, :, None], 0)
                    by_g_U += tl.sum(after * g[:, :, None], 0)
                    g_found += tl.sum(g * d_found, 0)
                    by_stored = tl.sum(dU * stored[None, :, :], 2)
                    by_stored_U = tl.sum(after * stored[None, :, :], 2)
                    if not HELD:
                        tl.store(ROOM + room + n[None, :] * R + rr[:, None], by_stored, mask=some)
                        tl.store(ROOM + 2 * room + n[None, :] * R + rr[:, None], by_stored_U, mask=some)
            tl.store(ADJOINTS + 3 * plane + at_units, d_cue, mask=units)
            tl.debug_barrier()
            dv = du + tl.sum(blocks(ADJOINTS + 3 * plane, at_h, here, H, HP, KB, KP) * unmix, 0) * (
                1.0 - cue_h * cue_h
            )
            if LEARNS:  # 7, 6
                shrink = tl.load(SCALARS + row, mask=here, other=1.0)
                norm = tl.load(SCALARS + steps_plane + row, mask=here, other=0.0)
                along += tl.sum(cue * d_cue, 1)
                size = norm * shrink
                shrinks = tl.where(shrink < 1.0, kappa * (norm_allowed / norm) * (along / size / size), 0.0)
                by_g = shrink[:, None] * (by_g + cue * g_found[:, None]) - shrinks[:, None] * by_g_U
                found_stored = tl.sum(cue * stored, 1)
                if HELD:
                    d_filtered = (
                        shrink[None, :] * (by_stored + found_stored[None, :] * d_found)
                        - shrinks[None, :] * by_stored_U
                    )
                else:
                    at_room = n[None, :] * R + ranks[:, None]
                    part = tl.load(ROOM + room + at_room, mask=all_ranks, other=0.0)
                    part += found_stored[None, :] * tl.load(ROOM + at_room, mask=all_ranks, other=0.0)
                    part_U = tl.load(ROOM + 2 * room + at_room, mask=all_ranks, other=0.0)
                    d_filtered = shrink[None, :] * part - shrinks[None, :] * part_U
                tl.store(D_FILTERED + row[None, :] * R + ranks[:, None], d_filtered, mask=all_ranks)
        tl.store(ADJOINTS + plane + at_units, dv, mask=units)
        inverse_v, unit_v = powers(tl.max(tl.abs(dv), 1))
        inverse_g, unit_g = powers(tl.max(tl.abs(dg), 1))
        if MISSING:
            tl.debug_barrier()
        # 2, 1
        d_read = tl.zeros((RP, BN), tl.float32)
        for i0 in tl.range(0, I, IB):
            i = i0 + tl.arange(0, IB)
            at_i = row[:, None] * I + i[None, :]
            inputs = here[:, None] & (i < I)[None, :]
            if not ONE:
                de = tl.zeros((BN, IB), tl.float32)
                for k0 in tl.range(0, H, BK, num_stages=STAGES):
                    kk = k0 + tl.arange(0, BK)
                    dk = vectors(ADJOINTS, at_h, kk, here, H)
                    if HALF:
                        dk = dk * inverse[:, None]
                    de = dot(dk, matrix(W, kk, i, 1, H, H, I), de, PREC)
                if HALF:
                    de = de * (unit * w_scale)[:, None]
            if WITH_ERROR:
                de += tl.load(D_ERROR + at_i, mask=inputs, other=0.0)
            if PLASTIC:
                filters = filter_of(V, i, ranks, I, R)
                if LEARNS:
                    de += tl.sum(d_filtered[:, :, None] * filters, 0)
            seen = inputs & valid[:, None]
            d_expected = tl.zeros((BN, IB), tl.float32)
            if MISSING:
                x = tl.load(X + at_i, mask=inputs, other=0.0)
                from_v = tl.zeros((BN, IB), tl.float32)
                from_g = tl.zeros((BN, IB), tl.float32)
                for k0 in tl.range(0, H, BK, num_stages=STAGES):
                    kk = k0 + tl.arange(0, BK)
                    dk = vectors(ADJOINTS + plane, at_h, kk, here, H)
                    if HALF:
                        dk = dk * inverse_v[:, None]
                    from_v = dot(dk, matrix(B, kk, i, 1, H, H, I), from_v, PREC)
                    if LIQUID:
                        dk = vectors(ADJOINTS + 2 * plane, at_h, kk, here, H)
                        if HALF:
                            dk = dk * inverse_g[:, None]
                        from_g = dot(dk, matrix(G_x, kk, i, 1, H, H, I), from_g, PREC)
                if HALF:
                    from_v = from_v * (unit_v * b_scale)[:, None]
                    from_g = from_g * (unit_g * x_scale)[:, None]
                d_expected = tl.where(seen & (x != x), from_v + from_g, 0.0)
                seen = seen & (x == x)
            d_expected -= tl.where(seen, de, 0.0)
            if PREDICTION:
                d_expected += tl.load(D_PREDICTION + at_i, mask=inputs, other=0.0)
            tl.store(D_EXPECTED + at_i, d_expected, mask=inputs)
            dh += product(d_expected, C, c_scale, i, 1, I, I, H, j, PREC)
            if PLASTIC:
                d_read += tl.sum(d_expected[None, :, :] * filters, 2)
        if PLASTIC:
            q = tl.sum(blocks(Y, at_h, here, H, HP, KB, KP) * mix, 0) + key_bias
            dq = tl.zeros((BN, HP), tl.float32)
            forget = tl.zeros((BN,), tl.float32)
            if LEARNS:
                per_key = tl.load(SCALARS + 4 * steps_plane + row, mask=here, other=0.0)
                forget = tl.load(SCALARS + 2 * steps_plane + row, mask=here, other=0.0)
                m = (calm + (1.0 - calm) * S[:, None]) * quick
                p = m / (m + HALF_PLASTICITY)
                dp = by_g * q * per_key[:, None]
                dm = dp / ((m + HALF_PLASTICITY) * (m + HALF_PLASTICITY)) * HALF_PLASTICITY
                d_eta += dm * (calm + (1.0 - calm) * S[:, None])
                d_tonic += dm * quick * (1.0 - S[:, None])
                wide = root_rho * root_rho * per_key * tl.sum(by_g * stored, 1)
                dq = by_g * p * per_key[:, None] - 2.0 * wide[:, None] * q
            if not HELD:
                tl.store(ROOM + 3 * room + n[None, :] * R + ranks[:, None], d_read, mask=all_ranks)
                tl.debug_barrier()
            d_forget = tl.zeros((BN,), tl.float32)
            for r0 in tl.range(0, R, RB):
                rr = r0 + tl.arange(0, RB)
                some = here[None, :] & (rr < R)[:, None]
                tile = (rr < R)[:, None, None] & units[None, :, :]
                at = places(n, rr, j, R * H, 1, H)
                slot_at = places(slot, rr, j, R * H, 1, H)
                if HELD:
                    d_part = d_read
                else:
                    d_part = tl.load(ROOM + 3 * room + n[None, :] * R + rr[:, None], mask=some, other=0.0)
                    d_found = tl.load(ROOM + n[None, :] * R + rr[:, None], mask=some, other=0.0)
                    dU = tl.load(D_U + at, mask=tile, other=0.0)
                dU += cue[None, :, :] * d_found[:, :, None]
                if LEARNS:
                    if not HELD:
                        later_at = places(later, rr, j, R * H, 1, H)
                        after = tl.load(BEFORE + later_at, mask=tile, other=0.0)
                    dU = shrink[None, :, None] * dU - shrinks[None, :, None] * after
                    after = tl.load(BEFORE + slot_at, mask=tile, other=0.0)
                    if SPANNED:
                        target = tl.load(TARGET_BEFORE + slot_at, mask=tile, other=0.0)
                        d_forget += tl.sum(tl.sum(dU * (target - after), 0), 1)
                    dU = (1.0 - forget)[None, :, None] * dU
                elif not HELD:
                    after = tl.load(BEFORE + at, mask=tile, other=0.0)
                dq += tl.sum(after * d_part[:, :, None], 0)
                dU += q[None, :, :] * d_part[:, :, None]
                if not HELD:
                    tl.store(D_U + at, dU, mask=tile)
            tl.store(D_KEY + at_units, dq, mask=units)
            if SPANNED:
                d_span += d_forget * forgetting * (1.0 - forget) * (1.0 - forget)
        if SPANNED:
            tl.store(D_SPANS + row, tl.where(valid, d_span, 0.0), mask=here)
        tl.debug_barrier()
        # the state before the step
        from_v = tl.zeros((BN, HP), tl.float32)
        from_g = tl.zeros((BN, HP), tl.float32)
        for k0 in tl.range(0, H, BK, num_stages=STAGES):
            kk = k0 + tl.arange(0, BK)
            dk = vectors(ADJOINTS + plane, at_h, kk, here, H)
            if HALF:
                dk = dk * inverse_v[:, None]
            from_v = dot(dk, matrix(A, kk, j, 1, H, H, H), from_v, PREC)
            if LIQUID:
                dk = vectors(ADJOINTS + 2 * plane, at_h, kk, here, H)
                if HALF:
                    dk = dk * inverse_g[:, None]
                from_g = dot(dk, matrix(G_h, kk, j, 1, H, H, H), from_g, PREC)
        if HALF:
            from_v = from_v * (unit_v * v_scale)[:, None]
            from_g = from_g * (unit_g * g_scale)[:, None]
        dh += from_v + from_g
        if PLASTIC:
            dh += tl.sum(blocks(D_KEY, at_h, here, H, HP, KB, KP) * unmix, 0)

    tl.store(D_UNITS + n[:, None] * H + j[None, :], dh, mask=units)
    tl.store(D_SCALE + n, d_scale, mask=here)
    if LEARNS:
        tl.store(D_UNITS + (N.to(tl.int64) + n)[:, None] * H + j[None, :], d_eta, mask=units)
        tl.store(D_UNITS + (2 * N.to(tl.int64) + n)[:, None] * H + j[None, :], d_tonic, mask=units)
    if PLASTIC and HELD:
        rr = tl.arange(0, RB)
        tile = (rr < R)[:, None, None] & units[None, :, :]
        at = places(n, rr, j, R * H, 1, H)
        tl.store(D_U + at, dU, mask=tile)
