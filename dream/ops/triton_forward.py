"""The Triton kernel of the forward pass: all steps of `BN` samples in one program, by the equations of
`dream.functional.advance`.

U stays in registers where all its ranks fit (`RB` = `RP`), else it is read from and written to memory at
every step, `RB` ranks at a time. Lines 7 and 11 are not applied to it before the next pass over it: until
then U is shrink * U", U_target + sleep * (U - U_target) is still to come.

H0 None is a fresh state: everything 0, the variance `prior`, the threshold `tau_0`.

Tape, for the backward pass: UNITS (4, T, N, H) holds tanh v, tanh u, a and the stored key of line 6; RANKS
(3, T + 1, N, R) holds q U, e V and o; SCALARS (5, T, N) the factors of lines 7 and 11, |U"|, f and
1 / (rho (1 + |q|^2)); U_KEPT and TARGET_KEPT (slots, N, R, H) U and U_target before every `every`-th step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dream.ops.triton_parts import (
    EPS,
    FARTHEST,
    HALF_ENTROPY,
    HALF_LARGEST,
    HALF_PLASTICITY,
    OUTLIER,
    UNIT,
    blocks,
    dot,
    filter_of,
    learned,
    log1p,
    matrix,
    mixing,
    of_units,
    places,
    product,
    scales_of,
    sigmoid,
    tanh,
    vectors,
)


@triton.jit(do_not_specialize=["T", "N", "every"])
def forward(
    X, DRIVE, GATE, SPANS, LENGTHS, H0, U0, TARGET0, MEAN0, VAR0, THRESHOLD0, AVG0, A, G_h, C, W, B, G_x,
    SCALES, V, D, K, k, c, b, eta, tonic, tau, surprise_scale, prior, Y, EXPECTED, ERROR, READ, TRACE,
    UNITS, RANKS, SCALARS, U, TARGET, MEAN, VAR, THRESHOLD, AVG, U_KEPT, TARGET_KEPT, T, N, every,
    span_sample, span_step, u_sample, u_unit, u_rank, t_sample, t_unit, t_rank, out_sample, out_unit,
    out_rank, root_rho, log_step, forgetting, alpha, warmth, beta, beta_s, tau_0, norm_allowed, kappa, zeta,
    least,
    I: tl.constexpr, H: tl.constexpr, R: tl.constexpr, IB: tl.constexpr, HP: tl.constexpr, RP: tl.constexpr,
    RB: tl.constexpr, KB: tl.constexpr, KP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr, PREC: tl.constexpr, PLASTIC: tl.constexpr, LEARNS: tl.constexpr,
    LIQUID: tl.constexpr, SLEEPS: tl.constexpr, MISSING: tl.constexpr, PADDED: tl.constexpr,
    SPANNED: tl.constexpr, KEEP: tl.constexpr, KEEP_TARGET: tl.constexpr, FUSED: tl.constexpr,
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

    v_scale, g_scale, c_scale, w_scale, b_scale, x_scale = scales_of(SCALES, HALF)

    # what stays the same from step to step
    base = of_units(b, j, H, True)
    pace = tl.zeros((1, HP), tl.float32)
    s_scale = 0.0
    if LIQUID:
        constant = tl.load(tau + j, mask=j < H, other=1.0)[None, :]
        if FUSED:
            pace = log_step - constant  # learned as logarithms
            s_scale = tl.exp(tl.load(surprise_scale))
        else:
            pace = log_step - tl.log(constant)
            s_scale = tl.load(surprise_scale)
    key_bias = of_units(k, j, H, PLASTIC)
    quick, calm = of_units(eta, j, H, LEARNS), of_units(tonic, j, H, LEARNS)
    mix = tl.zeros((KP, 1, HP), tl.float32)
    if PLASTIC:
        mix = mixing(K, H, HP, KB, KP, False)
        if LEARNS and FUSED:
            quick, calm = tl.where((j < H)[None, :], tl.exp(quick), 0.0), sigmoid(calm)
    rho = root_rho * root_rho
    prior_logs = 0.0
    for i0 in tl.range(0, I, IB):
        i = i0 + tl.arange(0, IB)
        usual = tl.load(prior + i, mask=i < I, other=1.0) + EPS
        prior_logs += tl.sum(tl.where(i < I, tl.log(usual), 0.0), 0)
    expected_entropy = prior_logs * (-0.5 / I) + HALF_ENTROPY

    # the state; statistics, and what U does not fit in registers, are worked on in memory
    h = tl.zeros((BN, HP), tl.float32)
    threshold = tl.full((BN,), 1.0, tl.float32) * tau_0
    avg = tl.zeros((BN,), tl.float32)
    if H0 is not None:
        h = tl.load(H0 + n[:, None] * H + j[None, :], mask=units, other=0.0)
        threshold = tl.load(THRESHOLD0 + n, mask=here, other=1.0)
        avg = tl.load(AVG0 + n, mask=here, other=0.0)
    tl.store(Y + n[:, None] * H + j[None, :], h, mask=units)
    for i0 in tl.range(0, I, IB):
        i = i0 + tl.arange(0, IB)
        at = n[:, None] * I + i[None, :]
        inputs = here[:, None] & (i < I)[None, :]
        mean = tl.zeros((BN, IB), tl.float32)
        var = mean + tl.load(prior + i, mask=i < I, other=1.0)[None, :]
        if H0 is not None:
            mean = tl.load(MEAN0 + at, mask=inputs, other=0.0)
            var = tl.load(VAR0 + at, mask=inputs, other=1.0)
        tl.store(MEAN + at, mean, mask=inputs)
        tl.store(VAR + at, var, mask=inputs)
    fast = tl.zeros((RB, BN, HP), tl.float32)
    shrink, sleep = tl.full((BN,), 1.0, tl.float32), tl.zeros((BN,), tl.float32)
    still = tl.zeros((BN,), tl.float32)  # |U| where it doesn't learn
    if PLASTIC:
        squares = tl.zeros((BN,), tl.float32)
        for r0 in tl.range(0, R, RB):
            rr = r0 + tl.arange(0, RB)
            tile = (rr < R)[:, None, None] & units[None, :, :]
            if U0 is not None:
                fast = tl.load(U0 + places(n, rr, j, u_sample, u_unit, u_rank), mask=tile, other=0.0)
            at = places(n, rr, j, out_sample, out_unit, out_rank)
            if not HELD:
                tl.store(U + at, fast, mask=tile)
            if LEARNS:
                old = tl.zeros((RB, BN, HP), tl.float32)
                if TARGET0 is not None:
                    old = tl.load(TARGET0 + places(n, rr, j, t_sample, t_unit, t_rank), mask=tile, other=0.0)
                tl.store(TARGET + at, old, mask=tile)
            else:
                part = fast * UNIT
                squares += tl.sum(tl.sum(part * part, 0), 1)
        still = tl.sqrt(squares) * (1.0 / UNIT)
    length = T
    if PADDED:
        length = tl.load(LENGTHS + n, mask=here, other=0).to(tl.int32)

    for t in tl.range(0, T):
        row = t * N.to(tl.int64) + n
        at_h = row * H
        valid = here
        if PADDED:
            valid = here & (t < length)
        tl.debug_barrier()
        # all that h is multiplied with
        i = tl.arange(0, IB)
        v, gate = tl.zeros((BN, HP), tl.float32), tl.zeros((BN, HP), tl.float32)
        slow = tl.zeros((BN, IB), tl.float32)
        for k0 in tl.range(0, H, BK, num_stages=STAGES):
            kk = k0 + tl.arange(0, BK)
            hk = vectors(Y, at_h, kk, here, H)
            v = dot(hk, matrix(A, kk, j, H, 1, H, H), v, PREC)
            if LIQUID:
                gate = dot(hk, matrix(G_h, kk, j, H, 1, H, H), gate, PREC)
            if ONE:
                slow = dot(hk, matrix(C, kk, i, I, 1, H, I), slow, PREC)
        v = v * v_scale + base
        gate = gate * g_scale + pace
        if not FUSED:
            v += tl.load(DRIVE + at_h[:, None] + j[None, :], mask=units, other=0.0)
            if LIQUID:
                gate += tl.load(GATE + at_h[:, None] + j[None, :], mask=units, other=0.0)
        q = tl.zeros((BN, HP), tl.float32)
        if PLASTIC:
            q = tl.sum(blocks(Y, at_h, here, H, HP, KB, KP) * mix, 0) + key_bias
            if HELD:
                read = shrink[None, :] * tl.sum(q[None, :, :] * fast, 2)
                tl.store(RANKS + row[None, :] * R + ranks[:, None], read, mask=all_ranks)
            else:
                for r0 in tl.range(0, R, RB):
                    rr = r0 + tl.arange(0, RB)
                    tile = (rr < R)[:, None, None] & units[None, :, :]
                    at = places(n, rr, j, out_sample, out_unit, out_rank)
                    part = shrink[None, :] * tl.sum(q[None, :, :] * tl.load(U + at, mask=tile, other=0.0), 2)
                    tl.store(
                        RANKS + row[None, :] * R + rr[:, None], part, mask=here[None, :] & (rr < R)[:, None]
                    )
                tl.debug_barrier()
                read = tl.load(RANKS + row[None, :] * R + ranks[:, None], mask=all_ranks, other=0.0)
        from_error = tl.zeros((BN, HP), tl.float32)
        squares, logs = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
        count = tl.zeros((BN,), tl.float32)
        g = tl.zeros((RP, BN), tl.float32)
        for i0 in tl.range(0, I, IB):
            i = i0 + tl.arange(0, IB)
            at = row[:, None] * I + i[None, :]
            own = n[:, None] * I + i[None, :]
            inputs = here[:, None] & (i < I)[None, :]
            x = tl.load(X + at, mask=inputs, other=0.0)
            mean = tl.load(MEAN + own, mask=inputs, other=0.0)
            var = tl.load(VAR + own, mask=inputs, other=1.0)
            if not ONE:
                slow = tl.zeros((BN, IB), tl.float32)
                for k0 in tl.range(0, H, BK, num_stages=STAGES):
                    kk = k0 + tl.arange(0, BK)
                    hk = vectors(Y, at_h, kk, here, H)
                    slow = dot(hk, matrix(C, kk, i, I, 1, H, I), slow, PREC)
            expected = slow * c_scale + tl.load(c + i, mask=i < I, other=0.0)[None, :]  # 1
            if PLASTIC:
                filters = filter_of(V, i, ranks, I, R)
                expected += tl.sum(read[:, :, None] * filters, 0)
            seen = inputs & valid[:, None]  # 2
            if MISSING:
                seen = seen & (x == x)
            e = tl.where(seen, x - expected, 0.0)
            tl.store(EXPECTED + at, expected, mask=inputs)
            tl.store(ERROR + at, e, mask=inputs)
            from_error += product(e, W, w_scale, i, H, 1, I, H, j, PREC)
            if MISSING or FUSED:
                filled = x
                if MISSING:
                    filled = tl.where(seen, x, tl.where(inputs & valid[:, None], expected, 0.0))
                    if not FUSED:
                        tl.store(READ + at, filled, mask=inputs)
                        filled = tl.where(seen, 0.0, filled)
                v += product(filled, B, b_scale, i, H, 1, I, H, j, PREC)
                if LIQUID:
                    gate += product(filled, G_x, x_scale, i, H, 1, I, H, j, PREC)
            usual = var + EPS  # 3, 4, 10
            deviation = tl.sqrt(usual)
            apart = e - mean
            far = tl.minimum(tl.maximum(apart / deviation, -FARTHEST), FARTHEST)
            squares += tl.sum(tl.where(seen, far * far, 0.0), 1)
            logs += tl.sum(tl.where(inputs, tl.log(usual), 0.0), 1)
            if MISSING:
                count += tl.sum(tl.where(seen, 1.0, 0.0), 1)
            most = tl.minimum(deviation * OUTLIER, HALF_LARGEST)
            apart = tl.minimum(tl.maximum(apart, -most), most)
            tl.store(MEAN + own, mean + beta * apart, mask=seen)
            tl.store(VAR + own, (1.0 - beta) * (var + beta * apart * apart), mask=seen)
            if LEARNS:
                g += tl.sum(e[None, :, :] * filters, 2)
        measured = valid
        size = tl.sqrt(squares * (1.0 / I))
        if MISSING:
            measured = valid & (count > 0.0)
            size = tl.sqrt(squares / tl.maximum(count, 1.0))
        entropy = tl.minimum(tl.maximum(expected_entropy + logs * (0.5 / I), 0.0), 2.0)
        S = sigmoid((size - threshold * (1.0 + alpha * entropy)) * warmth)  # 5
        S = tl.where(measured, S, 0.0)
        size = tl.where(measured, size, 0.0)
        used = threshold + beta_s * ((1.0 + tau_0) * tl.minimum(size, 2.0) - threshold)  # 10
        threshold = tl.where(measured, tl.maximum(used, tau_0), threshold)
        avg = tl.where(measured, avg + beta_s * (S - avg), avg)

        span = tl.full((BN,), 1.0, tl.float32)
        if SPANNED:
            span = tl.load(SPANS + n * span_sample + t * span_step, mask=here, other=1.0)
        u = v + from_error
        u_norm = still
        if PLASTIC:
            cue = tanh(v)
            at_cue = n * H
            if KEEP:
                at_cue = at_h
            tl.store(UNITS + at_cue[:, None] + j[None, :], cue, mask=units)
            stored = tl.zeros((BN, HP), tl.float32)
            forget = tl.where(valid, forgetting * span / (1.0 + forgetting * span), 0.0)
            if LEARNS:  # 6
                m = (calm + (1.0 - calm) * S[:, None]) * quick
                per_key = tl.where(valid, 1.0 / (rho * (1.0 + tl.sum(q * q, 1))), 0.0)
                stored = m / (m + HALF_PLASTICITY) * q * per_key[:, None]
                if not HELD:
                    tl.store(RANKS + rank_plane + row[None, :] * R + ranks[:, None], g, mask=all_ranks)
                if KEEP:
                    tl.store(UNITS + 3 * plane + at_h[:, None] + j[None, :], stored, mask=units)
                    tl.store(SCALARS + 4 * steps_plane + row, per_key, mask=here)
            tl.debug_barrier()
            cue = tl.sum(blocks(UNITS, at_cue, here, H, HP, KB, KP) * mix, 0) + key_bias
            found = tl.zeros((BN, HP), tl.float32)
            squares = tl.zeros((BN,), tl.float32)
            for r0 in tl.range(0, R, RB):
                rr = r0 + tl.arange(0, RB)
                some = here[None, :] & (rr < R)[:, None]
                tile = (rr < R)[:, None, None] & units[None, :, :]
                at = places(n, rr, j, out_sample, out_unit, out_rank)
                at_r = row[None, :] * R + rr[:, None]
                if not HELD:
                    fast = tl.load(U + at, mask=tile, other=0.0)
                if LEARNS:
                    if HELD:
                        filtered = g
                        if KEEP:
                            tl.store(RANKS + rank_plane + at_r, g, mask=some)
                    else:
                        filtered = tl.load(RANKS + rank_plane + at_r, mask=some, other=0.0)
                    old = tl.load(TARGET + at, mask=tile, other=0.0)
                    before, target, fast = learned(fast, old, shrink, sleep, forget, stored, filtered)
                    if KEEP:
                        if t % every == 0:
                            slot = (t // every) * N.to(tl.int64) + n
                            kept_at = places(slot, rr, j, R * H, 1, H)
                            tl.store(U_KEPT + kept_at, before, mask=tile)
                            if KEEP_TARGET:
                                tl.store(TARGET_KEPT + kept_at, target, mask=tile)
                    if SLEEPS:
                        if tl.max(sleep, 0) > 0.0:
                            tl.store(TARGET + at, target, mask=tile)
                    scaled = fast * UNIT
                    squares += tl.sum(tl.sum(scaled * scaled, 0), 1)
                    if not HELD:
                        tl.store(U + at, fast, mask=tile)
                o = root_rho * tl.sum(cue[None, :, :] * fast, 2)  # 8, but for line 7
                if KEEP:
                    tl.store(RANKS + 2 * rank_plane + at_r, o, mask=some)
                d = tl.load(
                    D + rr[:, None] * H + j[None, :], mask=(rr < R)[:, None] & (j < H)[None, :], other=0.0
                )
                found += tl.sum(o[:, :, None] * d[:, None, :], 0)
            if LEARNS:
                norm = tl.sqrt(squares) * (1.0 / UNIT)
                ratio = norm_allowed / tl.maximum(norm, norm_allowed)  # 7
                shrink = tl.where(valid & (ratio < 1.0), (1.0 - kappa) + kappa * ratio, 1.0)
                u_norm = norm * shrink
                if SLEEPS:
                    sleep = tl.where(valid & (avg > least), zeta * avg, 0.0)
                if KEEP:
                    tl.store(SCALARS + row, shrink, mask=here)
                    tl.store(SCALARS + steps_plane + row, norm, mask=here)
                    tl.store(SCALARS + 2 * steps_plane + row, forget, mask=here)
                    tl.store(SCALARS + 3 * steps_plane + row, sleep, mask=here)
            u += shrink[:, None] * found
        else:
            tl.debug_barrier()
        u = tanh(u)
        a = tl.full((BN, HP), 1.0, tl.float32)
        if LIQUID:  # 9
            a = sigmoid(gate + (tl.log(span) + log1p(s_scale * S))[:, None])
        if PADDED:
            a = tl.where(valid[:, None], a, 0.0)
            u_norm = tl.where(valid, u_norm, 0.0)
        nearer = u - h
        h = tl.where(a < 0.5, h + a * nearer, u - nearer * (1.0 - a))
        tl.store(Y + at_h[:, None] + (N * H + j)[None, :], h, mask=units)
        if KEEP:
            tl.store(UNITS + plane + at_h[:, None] + j[None, :], u, mask=units)
            if LIQUID:
                tl.store(UNITS + 2 * plane + at_h[:, None] + j[None, :], a, mask=units)
        tl.store(TRACE + row, S, mask=here)
        tl.store(TRACE + steps_plane + row, size, mask=here)
        tl.store(TRACE + 2 * steps_plane + row, u_norm, mask=here)

    tl.store(THRESHOLD + n, threshold, mask=here)
    tl.store(AVG + n, avg, mask=here)
    if PLASTIC:
        for r0 in tl.range(0, R, RB):
            rr = r0 + tl.arange(0, RB)
            tile = (rr < R)[:, None, None] & units[None, :, :]
            at = places(n, rr, j, out_sample, out_unit, out_rank)
            if not HELD:
                fast = tl.load(U + at, mask=tile, other=0.0)
            fast = shrink[None, :, None] * fast
            tl.store(U + at, fast, mask=tile)
            if KEEP and LEARNS:
                if every == 1:  # the backward pass reads U after a step where that before the next one is
                    kept_at = ((T * N.to(tl.int64) + n)[None, :, None] * R + rr[:, None, None]) * H
                    tl.store(U_KEPT + kept_at + j[None, None, :], fast, mask=tile)
            if LEARNS and SLEEPS:
                old = tl.load(TARGET + at, mask=tile, other=0.0)
                tl.store(TARGET + at, old + sleep[None, :, None] * (fast - old), mask=tile)
    if not FUSED:  # 1, after the last step
        tl.debug_barrier()
        row = T * N.to(tl.int64) + n
        at_h = row * H
        read = tl.zeros((RP, BN), tl.float32)
        if PLASTIC:
            q = tl.sum(blocks(Y, at_h, here, H, HP, KB, KP) * mix, 0) + key_bias
            for r0 in tl.range(0, R, RB):
                rr = r0 + tl.arange(0, RB)
                if not HELD:
                    tile = (rr < R)[:, None, None] & units[None, :, :]
                    at = places(n, rr, j, out_sample, out_unit, out_rank)
                    fast = tl.load(U + at, mask=tile, other=0.0)
                part = tl.sum(q[None, :, :] * fast, 2)
                tl.store(RANKS + row[None, :] * R + rr[:, None], part, mask=here[None, :] & (rr < R)[:, None])
            tl.debug_barrier()
            read = tl.load(RANKS + row[None, :] * R + ranks[:, None], mask=all_ranks, other=0.0)
        for i0 in tl.range(0, I, IB):
            i = i0 + tl.arange(0, IB)
            inputs = here[:, None] & (i < I)[None, :]
            slow = tl.zeros((BN, IB), tl.float32)
            for k0 in tl.range(0, H, BK, num_stages=STAGES):
                kk = k0 + tl.arange(0, BK)
                hk = vectors(Y, at_h, kk, here, H)
                slow = dot(hk, matrix(C, kk, i, I, 1, H, I), slow, PREC)
            expected = slow * c_scale + tl.load(c + i, mask=i < I, other=0.0)[None, :]
            if PLASTIC:
                filters = filter_of(V, i, ranks, I, R)
                expected += tl.sum(read[:, :, None] * filters, 0)
            tl.store(EXPECTED + row[:, None] * I + i[None, :], expected, mask=inputs)
