// The backward pass by the adjoints of h (N, H) and U (N, H, R), for a block of rows, from the last step to the first.
//
// U is kept before every K-th step only; a segment's others are recomputed from the kept factors e V, S, h and |U"|, without
// a matrix product. Parameter gradients are products over all steps, which the caller does with what is left in d_sums.
#pragma once

#include "scan.h"

template <class T>
struct BackwardWeights {
    explicit BackwardWeights(const Scan<T>& s)
        : z(s), error(z.R + s.hidden, z.I), read(s.inputs, z.R), state((s.liquid ? 2 : 1) * z.H + s.inputs, z.H), plasticity(s, z.H), s_scale(hastening(s)) {
        const long I = s.inputs, H = s.hidden, R = s.rank, gate = s.liquid ? z.H : 0;
        error.place(s.V, R, I, 1, R, 0, 0);
        error.place(s.W, H, I, 1, H, z.R, 0);
        read.place(s.V, I, R, R, 1, 0, 0);
        state.place(s.A, H, H, 1, H, 0, 0);
        if (s.liquid) state.place(s.G_h, H, H, 1, H, z.H, 0);
        state.place(s.C, I, H, 1, I, z.H + gate, 0);
    }
    Sizes<T> z;
    Packed<T> error, read, state;  // [V^T; W^T], V, [A^T; G_h^T; C^T]
    Plasticity<T> plasticity;
    T s_scale;
};

template <class T>
struct BackwardRoom {
    BackwardRoom(const Scan<T>& s, const BackwardWeights<T>& w, long rows)
        : width(w.z.R + (s.liquid ? 2 : 1) * w.z.H + w.z.I), dh(rows * w.z.H), sums(rows * width), de(rows * w.z.I), dq(rows * w.z.R),
          via_h(rows * w.z.H), key(rows * w.z.H), g(rows * w.z.R), m(2 * w.z.H), dU(s.plastic ? rows * w.z.U() : 0),
          states(s.plastic ? rows * (s.learns ? s.every + 1 : 1) * w.z.U() : 0),
          targets(s.d_forget && s.learns ? rows * s.every * w.z.U() : 0), target(s.learns ? w.z.U() : 0),
          by_key(rows * w.z.H), by_key_U(rows * w.z.H), from_U(w.z.H), by_g(rows * w.z.R), by_g_U(rows * w.z.R), row(rows) {}

    struct Row {
        long steps;
        T along;           // <dU', U'>
        T d_S, squares, unit;  // of this step: what S gets from lines 6 and 9; the gradient of |h|^2; 1 / (1 + |h|^2)
        T scale, shrink;   // dU" = scale dU' - shrink U'
    };
    long width;  // of a row of sums: [of e V | of u | of the pace | of the prediction]
    Buffer<T> dh, sums, de, dq, via_h, key, g, m, dU, states, targets, target;
    // Of the step to come: dU' g, U' g (H) and key dU', key U' (R); of the one at hand: U dq (H).
    Buffer<T> by_key, by_key_U, from_U, by_g, by_g_U;
    Buffer<Row> row;
};

// U before each step of a segment, and after its last, from U and U_target before the first; with `targets`, these too.
template <class T>
void replay(T* U, T* target, T* targets, const T* key, const T* g, T scale, T sleep, T forget, long ranks, long H) {
    constexpr long L = Simd<T>::lanes;
    T* next = U + ranks * H;
    for (long r = 0; r < ranks; ++r)
        for (long j = 0; j < H; j += L) {
            const Vec<T> u = load(U + r * H + j), v = load(target + r * H + j);
            if (targets) store(targets + r * H + j, v);
            const Vec<T> after = scale * (u + forget * (v - u) + load(key + j) * g[r]);
            store(next + r * H + j, after);
            store(target + r * H + j, Vec<T>(v + sleep * (after - v)));
        }
}

// What a step's adjoint of U asks for once, together with what the step before it will ask for:
//   from_U = U dq;  dU = (1 - forget) (scale dU' - shrink U') + h dq^T;
//   then by_key = dU g, by_g = key dU and, where a norm was shrunk, the same of U and <dU, U>, with g and key of the step before.
// `after` is U'. Returns <dU, U>.
template <class T, bool SHRUNK>
T adjoint(const T* U, const T* after, T* dU, const T* h, long hidden, const T* dq, T scale, T shrink, T forget, const T* key,
          const T* g, T* from_U, T* by_key, T* by_key_U, T* by_g, T* by_g_U, long ranks, long H) {
    constexpr long L = Simd<T>::lanes;
    const T stays = T(1) - forget;
    Vec<T> along[UNROLL] = {};
    for (long r = 0; r < ranks; r += UNROLL) {
        Vec<T> keyed[UNROLL] = {}, keyed_U[UNROLL] = {};
        for (long j = 0; j < H; j += L) {
            const Vec<T> hj = load(h + j, hidden - j), kj = load(key + j);
            Vec<T> read = r ? load(from_U + j) : Vec<T>{}, d_key = r ? load(by_key + j) : Vec<T>{};
            Vec<T> d_key_U = SHRUNK && r ? load(by_key_U + j) : Vec<T>{};
#pragma GCC unroll 4
            for (long k = 0; k < UNROLL; ++k) {
                const long at = (r + k) * H + j;
                const Vec<T> u = load(U + at);
                Vec<T> d = load(dU + at);
                if (SHRUNK) d = scale * d - shrink * load(after + at);
                d = stays * d + hj * dq[r + k];
                store(dU + at, d);
                read += u * dq[r + k];
                d_key += d * g[r + k];
                keyed[k] += d * kj;
                if (SHRUNK) {
                    along[k] += d * u;
                    d_key_U += u * g[r + k];
                    keyed_U[k] += u * kj;
                }
            }
            store(from_U + j, read);
            store(by_key + j, d_key);
            if (SHRUNK) store(by_key_U + j, d_key_U);
        }
        for (long k = 0; k < UNROLL; ++k) {
            by_g[r + k] = sum<T>(keyed[k]);
            if (SHRUNK) by_g_U[r + k] = sum<T>(keyed_U[k]);
        }
    }
    return sum<T>((along[0] + along[1]) + (along[2] + along[3]));
}

template <class T>
void backward(const Scan<T>& s, const BackwardWeights<T>& w, BackwardRoom<T>& room, long block, long first, int rows) {
    constexpr long L = Simd<T>::lanes;
    const Sizes<T>& z = w.z;
    const long I = s.inputs, H = s.hidden, R = s.rank, gate = s.liquid ? z.H : 0, N = s.rows;
    const long wide = s.liquid ? 2 * H : H, to_predict = z.R + z.H + gate;  // where the prediction's part of `sums` is
    const long slots = s.learns ? s.every + 1 : 1;
    auto before = [&](const T* after, const T* start, long t, long row, long width) {  // of h: before step t
        return t > 0 ? after + ((t - 1) * N + row) * width : start + row * width;
    };
    std::memset(room.m, 0, 2 * z.H * sizeof(T));
    long longest = 0;
    for (int n = 0; n < rows; ++n) {
        const long row = first + n;
        auto& st = room.row[n];
        st = {steps_of(s, row), 0, 0, 0, 0, T(1), 0};
        longest = std::max(longest, st.steps);
        T* dh = room.dh + n * z.H;
        std::memset(dh, 0, z.H * sizeof(T));
        if (s.d_h) std::memcpy(dh, s.d_h + row * H, H * sizeof(T));
        if (s.plastic) {
            T* dU = room.dU + n * z.U();
            std::memset(dU, 0, z.U() * sizeof(T));
            if (s.d_U) to_lanes(s.d_U + row * H * R, dU, s, z.H);
        }
        for (long t = st.steps; t <= s.steps; ++t) {  // padding; at its first step the forecast is still to come
            const long at = t * N + row;
            std::memset(s.d_sums + at * (wide + I), 0, (wide + I) * sizeof(T));
            if (t == s.steps) break;
            std::memset(s.d_x + at * I, 0, I * sizeof(T));
            std::memset(s.d_filtered + at * R, 0, R * sizeof(T));
            s.d_pace[at] = 0;
            if (s.d_forget) s.d_forget[at] = 0;
        }
    }
    // key and g of step t: what the pass over U for the step after it needs; zeros before the first step.
    auto recall = [&](int n, long t) {
        T *key = room.key + n * z.H, *g = room.g + n * z.R;
        if (!s.learns || t < 0) {
            std::memset(key, 0, z.H * sizeof(T));
            std::memset(g, 0, z.R * sizeof(T));
            return T(0);
        }
        const long at = t * N + first + n;
        std::memcpy(g, s.filtered + at * R, R * sizeof(T));
        room.row[n].unit = w.plasticity.key(before(s.output, s.h, t, first + n, H), H, z.H, s.surprise[at], key);
        return s.norm[at];
    };

    for (long segment = (longest - 1) / s.every; segment >= 0; --segment) {
        const long start = segment * s.every, end = std::min(start + s.every, longest);
        for (int n = 0; n < rows && s.plastic; ++n) {
            const long last = std::min(end, room.row[n].steps), kept = (segment * N + first + n) * R * H;
            T* states = room.states + n * slots * z.U();
            auto fetch = [&](const T* from, T* to) {
                for (long r = 0; r < R; ++r) std::memcpy(to + r * z.H, from + kept + r * H, H * sizeof(T));
            };
            if (last <= start) continue;
            fetch(s.U_kept, states);
            if (!s.learns) continue;
            fetch(s.U_target_kept, room.target);
            for (long t = start; t < last; ++t) {
                const long at = t * N + first + n, slot = t - start;
                // by_g and from_U are free until the first step of the segment; what is in flight stays in key and g of `room`
                const T* h = before(s.output, s.h, t, first + n, H);
                T *key = room.from_U, *g = room.dq + n * z.R;
                w.plasticity.key(h, H, z.H, s.surprise[at], key);
                std::memcpy(g, s.filtered + at * R, R * sizeof(T));
                replay(states + slot * z.U(), +room.target, s.d_forget ? room.targets + (n * s.every + slot) * z.U() : nullptr, key,
                       g, shrinkage(s.norm[at], s), s.asleep[at], forget(s, first + n, t), z.ranks, z.H);
            }
        }

        for (long t = end - 1; t >= start; --t) {
            for (int n = 0; n < rows; ++n) {
                auto& st = room.row[n];
                if (t >= st.steps) continue;
                const long row = first + n, at = t * N + row;
                T *dh = room.dh + n * z.H, *sums = room.sums + n * room.width, *g = room.g + n * z.R;
                T *by_key = room.by_key + n * z.H, *by_key_U = room.by_key_U + n * z.H;
                T *by_g = room.by_g + n * z.R, *by_g_U = room.by_g_U + n * z.R;
                const T* h = before(s.output, s.h, t, row, H);
                if (t == st.steps - 1) {
                    T *dq = room.dq + n * z.R, *via_h = room.via_h + n * z.H;
                    std::memset(dq, 0, z.R * sizeof(T));
                    std::memset(via_h, 0, z.H * sizeof(T));
                    if (s.d_prediction) {  // the forecast: line 1 on the last state
                        std::memset(sums, 0, room.width * sizeof(T));
                        std::memcpy(sums + to_predict, s.d_prediction + (at + N) * I, I * sizeof(T));
                        std::memcpy(s.d_sums + (at + N) * (wide + I) + wide, sums + to_predict, I * sizeof(T));
                        if (s.plastic) w.read.times(sums + to_predict, room.width, dq, z.R, 1);
                        w.state.times(sums + z.R, room.width, via_h, z.H, 1);
                    }
                    recall(n, t);
                    if (s.plastic) {
                        const T* U = room.states + (n * slots + (s.learns ? st.steps - start : 0)) * z.U();
                        st.along = adjoint<T, true>(U, U, room.dU + n * z.U(), s.output + at * H, H, dq, T(1), T(0), T(0),
                                                    room.key + n * z.H, g, room.from_U, by_key, by_key_U, by_g, by_g_U, z.ranks,
                                                    z.H);
                        for (long j = 0; j < z.H; j += L) store(via_h + j, Vec<T>(load(via_h + j) + load(room.from_U + j)));
                    }
                    for (long j = 0; j < z.H; j += L) {
                        Vec<T> d = load(dh + j) + load(via_h + j);
                        if (s.d_output) d += load(s.d_output + at * H + j, H - j);
                        store(dh + j, d);
                    }
                }
                const T S = s.surprise[at];
                if (s.learns) {  // 7
                    const T norm = s.norm[at], scale = shrinkage(norm, s);
                    st.scale = scale;
                    st.shrink = norm > T(s.target)
                                    ? T(s.kappa) * (T(s.target) / norm) * (st.along / scale / norm) / norm / scale
                                    : T(0);
                    for (long r = 0; r < z.R; ++r) sums[r] = scale * by_g[r] - (st.shrink != 0 ? st.shrink * by_g_U[r] : T(0));
                    std::memcpy(s.d_filtered + at * R, sums, R * sizeof(T));
                } else {
                    std::memset(sums, 0, z.R * sizeof(T));
                    std::memset(s.d_filtered + at * R, 0, R * sizeof(T));
                }
                T* d_sums = s.d_sums + at * (wide + I);
                const T* gates = s.gates + at * wide;
                Vec<T> d_surprise{}, d_pace{}, d_squares{};
                for (long j = 0; j < z.H; j += L) {
                    const Vec<T> hj = load(h + j, H - j), u = load(gates + j, H - j), d = load(dh + j);
                    Vec<T> d_u = d, d_h{};
                    if (s.liquid) {  // 9
                        const Vec<T> a = load(gates + H + j, H - j), pace = d * (u - hj) * a * (T(1) - a);
                        d_u = d * a;
                        d_h = d - d_u;
                        d_pace += pace;
                        store(sums + z.R + z.H + j, pace);
                        store(d_sums + H + j, pace, H - j);
                    }
                    const Vec<T> of_u = d_u * (T(1) - u * u);  // 8
                    store(sums + z.R + j, of_u);
                    store(d_sums + j, of_u, H - j);
                    if (s.learns) {  // 6
                        const Vec<T> lift = load(w.plasticity.lift + j), m = load(w.plasticity.floor + j) + S * lift;
                        const Vec<T> room_left = T(1) / (m + HALF_PLASTICITY<T>), p = m * room_left;
                        Vec<T> d_key = st.scale * load(by_key + j);
                        if (st.shrink != 0) d_key -= st.shrink * load(by_key_U + j);
                        d_key *= st.unit;
                        d_h += d_key * p;
                        d_squares += d_key * p * hj;
                        const Vec<T> d_m = d_key * hj * HALF_PLASTICITY<T> * room_left * room_left;
                        store(room.m + j, Vec<T>(load(room.m + j) + d_m));
                        store(room.m + z.H + j, Vec<T>(load(room.m + z.H + j) + d_m * S));
                        d_surprise += d_m * lift;
                    }
                    store(dh + j, d_h);
                }
                st.squares = -sum<T>(d_squares) * st.unit;
                const T pace = sum<T>(d_pace);
                s.d_pace[at] = pace;
                st.d_S = sum<T>(d_surprise) + pace * w.s_scale / (T(1) + w.s_scale * S);
            }

            w.error.times(room.sums, room.width, room.de, z.I, rows);
            for (int n = 0; n < rows; ++n) {
                if (t >= room.row[n].steps) continue;
                const long at = t * N + first + n;
                const T S = s.surprise[at], d_r = room.row[n].d_S * S * (T(1) - S) / T(s.temperature);  // 5
                T *predicts = room.sums + n * room.width + to_predict, *d_sums = s.d_sums + at * (wide + I) + wide;
                for (long i = 0; i < z.I; i += L) {  // 3, 2
                    Vec<T> de = load(room.de + n * z.I + i) + d_r * load(s.slope + at * I + i, I - i);
                    if (s.d_error) de += load(s.d_error + at * I + i, I - i);
                    Vec<T> d_prediction = -de;
                    if (s.d_prediction) d_prediction += load(s.d_prediction + at * I + i, I - i);
                    store(s.d_x + at * I + i, de, I - i);
                    store(predicts + i, d_prediction);
                    store(d_sums + i, d_prediction, I - i);
                }
            }
            if (s.plastic) w.read.times(room.sums + to_predict, room.width, room.dq, z.R, rows);
            w.state.times(room.sums + z.R, room.width, room.via_h, z.H, rows);

            for (int n = 0; n < rows; ++n) {
                auto& st = room.row[n];
                if (t >= st.steps) continue;
                const long row = first + n, at = t * N + row;
                T* dh = room.dh + n * z.H;
                const T *h = before(s.output, s.h, t, row, H), *via_h = room.via_h + n * z.H;
                if (s.plastic) {
                    T *key = room.key + n * z.H, *g = room.g + n * z.R, *dU = room.dU + n * z.U(), *dq = room.dq + n * z.R;
                    const T *U = room.states + (n * slots + (s.learns ? t - start : 0)) * z.U(), *after = U + (s.learns ? z.U() : 0);
                    const T forgets = s.learns ? forget(s, row, t) : T(0);
                    if (s.d_forget && s.learns) {
                        const T* target = room.targets + (n * s.every + t - start) * z.U();
                        Vec<T> total{};
                        for (long k = 0; k < z.U(); k += L)
                            total += (st.scale * load(dU + k) - st.shrink * load(after + k)) * (load(target + k) - load(U + k));
                        s.d_forget[at] = sum<T>(total);
                    }
                    const bool shrunk = (recall(n, t - 1) > T(s.target)) | (st.scale != T(1));
                    auto pass = shrunk ? adjoint<T, true> : adjoint<T, false>;
                    st.along = pass(U, after, dU, h, H, dq, st.scale, st.shrink, forgets, key, g, +room.from_U, room.by_key + n * z.H,
                                    room.by_key_U + n * z.H, room.by_g + n * z.R, room.by_g_U + n * z.R, z.ranks, z.H);
                } else {
                    std::memset(room.from_U, 0, z.H * sizeof(T));
                }
                const T* d_output = t > 0 && s.d_output ? s.d_output + (at - N) * H : nullptr;
                const T twice = T(2) * room.row[n].squares;  // through 1 + |h|^2
                for (long j = 0; j < z.H; j += L) {
                    Vec<T> d = load(dh + j) + load(via_h + j) + load(room.from_U + j) + twice * load(h + j, H - j);
                    if (d_output) d += load(d_output + j, H - j);
                    store(dh + j, d);
                }
            }
        }
    }

    for (int n = 0; n < rows; ++n) {
        const long row = first + n;
        std::memcpy(s.d_h0 + row * H, room.dh + n * z.H, H * sizeof(T));
        if (s.plastic) from_lanes(room.dU + n * z.U(), s.d_U0 + row * H * R, s, z.H);
    }
    for (long k = 0; k < 2; ++k) std::memcpy(s.d_m + (block * 2 + k) * H, room.m + k * z.H, H * sizeof(T));
}
