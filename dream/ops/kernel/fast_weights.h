// The passes over U, (ranks, H) with the long axis contiguous: line 1's part, lines 6, 7 and 11, and their adjoints.
#pragma once

#include "keys.h"

// to (columns, rows) = from (rows, columns), strides between rows `down` and `to_down`; L by L tiles in registers.
template <class T>
inline void transpose(const T* from, long rows, long columns, long down, T* to, long to_down) {
    constexpr long L = Simd<T>::lanes;
    for (long r = 0; r < rows; r += L)
        for (long c = 0; c < columns; c += L) {
            Vec<T> tile[L];
#pragma GCC unroll 16
            for (long k = 0; k < L; ++k) tile[k] = r + k < rows ? load(from + (r + k) * down + c, columns - c) : Vec<T>{};
#pragma GCC unroll 4
            for (long half = 1; half < L; half *= 2)  // exchange the off-diagonal squares of this size
#pragma GCC unroll 16
                for (long k = 0; k < L; ++k)
                    if (!(k & half)) exchange<T>(tile[k], tile[k + half], half);
#pragma GCC unroll 16
            for (long k = 0; k < L; ++k)
                if (c + k < columns) store(to + (c + k) * to_down + r, tile[k], rows - r);
        }
}

// U (H, R) <-> its working form (ranks, H), the long axis contiguous.
template <class T>
inline void to_lanes(const T* U, T* lanes, const Scan<T>& s, long H) {
    transpose(U, s.hidden, s.rank, s.rank, lanes, H);
}

template <class T>
inline void from_lanes(const T* lanes, T* U, const Scan<T>& s, long H) {
    transpose(lanes, s.rank, s.hidden, H, U, s.rank);
}

// found = scale key U.
template <class T>
void read_U(const T* U, const T* key, T scale, T* found, long ranks, long H) {
    constexpr long L = Simd<T>::lanes;
    for (long r = 0; r < ranks; r += UNROLL) {
        Vec<T> total[UNROLL] = {};
        for (long j = 0; j < H; j += L) {
            const Vec<T> kj = load(key + j);
#pragma GCC unroll 4
            for (long k = 0; k < UNROLL; ++k) total[k] += kj * load(U + (r + k) * H + j);
        }
        sums<T>(total[0], total[1], total[2], total[3], found + r);
        for (long k = r; k < r + UNROLL; ++k) found[k] *= scale;
    }
}

// y = U d.
template <class T>
void times_U(const T* U, const T* d, T* y, long ranks, long H) {
    constexpr long L = Simd<T>::lanes;
    for (long r = 0; r < ranks; r += UNROLL)
        for (long j = 0; j < H; j += L) {
            Vec<T> total = r ? load(y + j) : Vec<T>{};
#pragma GCC unroll 4
            for (long k = 0; k < UNROLL; ++k) total += d[r + k] * load(U + (r + k) * H + j);
            store(y + j, total);
        }
}

// One pass: what is left of the step before (line 7's factor; line 11, where SLEEPS), then U" of line 6, its norm and
// found = key U". Returns |U"|^2.
template <class T, bool SLEEPS>
T learn(T* U, T* U_target, const T* stored, const T* g, const T* key, T* found, T scale, T sleep, T forget, long ranks,
        long H) {
    constexpr long L = Simd<T>::lanes;
    const T kept = (T(1) - forget + forget * sleep) * scale, of_target = forget * (T(1) - sleep);
    Vec<T> squares[UNROLL] = {};
    for (long r = 0; r < ranks; r += UNROLL) {
        Vec<T> total[UNROLL] = {};
        for (long j = 0; j < H; j += L) {
            const Vec<T> sj = load(stored + j), kj = load(key + j);
#pragma GCC unroll 4
            for (long k = 0; k < UNROLL; ++k) {
                T* at = U + (r + k) * H + j;
                T* target_at = U_target + (r + k) * H + j;
                const Vec<T> old = load(at), target = load(target_at), u = kept * old + of_target * target + sj * g[r + k];
                if (SLEEPS) store(target_at, Vec<T>((T(1) - sleep) * target + (sleep * scale) * old));
                store(at, u);
                squares[k] += u * u;
                total[k] += kj * u;
            }
        }
        sums<T>(total[0], total[1], total[2], total[3], found + r);
    }
    return sum<T>((squares[0] + squares[1]) + (squares[2] + squares[3]));
}

// U before each step of a segment, and after its last, from U and U_target before the first; with `targets`, these too.
template <class T>
void replay(T* U, T* target, T* targets, const T* stored, const T* g, T scale, T sleep, T forget, long ranks, long H) {
    constexpr long L = Simd<T>::lanes;
    T* next = U + ranks * H;
    for (long r = 0; r < ranks; ++r)
        for (long j = 0; j < H; j += L) {
            const Vec<T> u = load(U + r * H + j), v = load(target + r * H + j);
            if (targets) store(targets + r * H + j, v);
            const Vec<T> after = scale * (u + forget * (v - u) + load(stored + j) * g[r]);
            store(next + r * H + j, after);
            store(target + r * H + j, Vec<T>(v + sleep * (after - v)));
        }
}

// What the pass over U for one step works with; U', U" and U are U after the step, before line 7, and before the step.
template <class T>
struct Pass {
    const T* after;           // U'
    const T *key, *d_read;    // of line 1: q, and the adjoint of q U
    const T *cue, *d_found;   // of line 8: the key of tanh(v), and sqrt(rho) times the adjoint of o
    T scale, shrink, forget;  // dU" = scale dU' - shrink U'; f
    const T *stored, *g;      // of line 6, for the step before
    const T *stored_now, *g_now;
    T sleep;
    T *from_U, *by_g, *by_g_U, *by_stored, *by_stored_U;
};

// What a step's adjoint of U asks for, together with what the step before it will ask for:
//   from_U = U d_read;  dU = (1 - forget) (scale (dU' + cue d_found^T) - shrink U') + key d_read^T;
//   then, with g and stored of the step before, by_g = dU g, by_stored = stored dU and, where a norm was shrunk, the same of U
//   and <dU, U>.
// BACK: U and target come as they are after the step and are first taken back to before it. Returns <dU, U>.
template <class T, bool SHRUNK, bool BACK>
T adjoint(T* U, T* target, T* dU, const Pass<T>& p, long ranks, long H) {
    constexpr long L = Simd<T>::lanes;
    const T stays = T(1) - p.forget, awake = T(1) / (T(1) - p.sleep), regain = T(1) / stays, grow = regain / p.scale;
    Vec<T> along[UNROLL] = {};
    for (long r = 0; r < ranks; r += UNROLL) {
        Vec<T> stored[UNROLL] = {}, stored_U[UNROLL] = {};
        for (long j = 0; j < H; j += L) {
            const Vec<T> key = load(p.key + j), cue = load(p.cue + j), sj = load(p.stored + j);
            const Vec<T> learned = BACK ? load(p.stored_now + j) * regain : Vec<T>{};
            Vec<T> read = r ? load(p.from_U + j) : Vec<T>{}, d_stored = r ? load(p.by_g + j) : Vec<T>{};
            Vec<T> d_stored_U = SHRUNK && r ? load(p.by_g_U + j) : Vec<T>{};
#pragma GCC unroll 4
            for (long k = 0; k < UNROLL; ++k) {
                const long at = (r + k) * H + j;
                Vec<T> u = load(U + at), d = load(dU + at) + cue * p.d_found[r + k];
                if (SHRUNK) d = p.scale * d - p.shrink * (BACK ? u : load(p.after + at));
                if (BACK) {
                    const Vec<T> v = (load(target + at) - p.sleep * u) * awake;  // 11
                    u = grow * u - (p.forget * regain) * v - learned * p.g_now[r + k];  // 7, 6
                    store(target + at, v);
                    store(U + at, u);
                }
                d = stays * d + key * p.d_read[r + k];
                store(dU + at, d);
                read += u * p.d_read[r + k];
                d_stored += d * p.g[r + k];
                stored[k] += d * sj;
                if (SHRUNK) {
                    along[k] += d * u;
                    d_stored_U += u * p.g[r + k];
                    stored_U[k] += u * sj;
                }
            }
            store(p.from_U + j, read);
            store(p.by_g + j, d_stored);
            if (SHRUNK) store(p.by_g_U + j, d_stored_U);
        }
        sums<T>(stored[0], stored[1], stored[2], stored[3], p.by_stored + r);
        if (SHRUNK) sums<T>(stored_U[0], stored_U[1], stored_U[2], stored_U[3], p.by_stored_U + r);
    }
    return sum<T>((along[0] + along[1]) + (along[2] + along[3]));
}
