// The backward pass by the adjoints of h (N, H) and U (N, H, R), for a block of rows, from the last step to the first.
//
// U is kept before every K-th step only. Within a segment the steps' updates are taken back, one after another, from the state
// after it: lines 11, 7 and 6 can be inverted from the kept factors e V, S, h and |U"|. Where that would lose digits (strong
// homeostasis, forgetting or sleep), U is recomputed from the state before the segment. At the end of a segment its share of the parameters' gradients is added, while its rows are in the cache.
#pragma once

#include "scan.h"

template <class T>
struct BackwardWeights {
    explicit BackwardWeights(const Scan<T>& s)
        : z(s),
          gate(s.liquid ? z.H : 0),
          width(z.R + z.H + gate + z.I),
          error(z.R + s.hidden, z.I),
          read(s.inputs, z.R),
          state(z.H + gate + s.inputs, z.H),
          input(s.d_x ? z.H + gate : 0, z.I),
          plasticity(s, z.H),
          s_scale(hastening(s)) {
        const long I = s.inputs, H = s.hidden, R = s.rank;
        error.place(s.V, R, I, 1, R, 0, 0);
        error.place(s.W, H, I, 1, H, z.R, 0);
        read.place(s.V, I, R, R, 1, 0, 0);
        state.place(s.A, H, H, 1, H, 0, 0);
        if (s.liquid) state.place(s.G_h, H, H, 1, H, z.H, 0);
        state.place(s.C, I, H, 1, I, z.H + gate, 0);
        if (s.d_x) input.place(s.B, H, I, 1, H, 0, 0);
        if (s.d_x && s.liquid) input.place(s.G_x, H, I, 1, H, z.H, 0);
    }
    Sizes<T> z;
    long gate, width;  // of the gate's part; of a row of sums: [of e V | of u | of the pace | of the prediction]
    Packed<T> error, read, state, input;  // [V^T; W^T], V, [A^T; G_h^T; C^T], [B^T; G_x^T]
    Plasticity<T> plasticity;
    T s_scale;
};

// The parameters' gradients from some of the rows.
template <class T>
struct Gradients {
    Gradients(const Scan<T>& s, const BackwardWeights<T>& w)
        : width(w.width), R(w.z.R), H(w.z.H), I(w.z.I), wanted(s.wants_parameters()), state(wanted ? s.hidden * (width - R) : 0),
          input(wanted ? s.inputs * (width - R - I) : 0), error(wanted ? s.inputs * (R + H) : 0), read(wanted ? s.rank * I : 0),
          total(width), m(2 * H) {}

    void add(const Gradients& other, const Scan<T>& s) {
        auto sum = [](T* to, const T* from, long n) {
            for (long k = 0; k < n; ++k) to[k] += from[k];
        };
        if (wanted) {
            sum(state, other.state, s.hidden * (width - R));
            sum(input, other.input, s.inputs * (width - R - I));
            sum(error, other.error, s.inputs * (R + H));
            sum(read, other.read, s.rank * I);
        }
        sum(total, other.total, width);
        sum(m, other.m, 2 * H);
        surprise_scale += other.surprise_scale;
    }

    void write(const Scan<T>& s) const {
        const long i = s.inputs, h = s.hidden, r = s.rank, gate = s.liquid ? H : 0;
        auto copy = [](T* to, long rows, long columns, const T* from, long down) {
            for (long k = 0; to && k < rows; ++k) std::memcpy(to + k * columns, from + k * down, columns * sizeof(T));
        };
        copy(s.d_A, h, h, state, width - R);
        copy(s.d_C, h, i, state + H + gate, width - R);
        copy(s.d_B, i, h, input, width - R - I);
        if (s.liquid) copy(s.d_G_h, h, h, state + H, width - R);
        if (s.liquid) copy(s.d_G_x, i, h, input + H, width - R - I);
        copy(s.d_W, i, h, error + R, R + H);
        copy(s.d_V, i, r, error, R + H);
        for (long k = 0; s.d_V && k < i; ++k)
            for (long l = 0; l < r; ++l) s.d_V[k * r + l] += read[l * I + k];
        copy(s.d_b, 1, h, total + R, h);
        copy(s.d_c, 1, i, total + R + H + gate, i);
        for (long j = 0; j < h; ++j) {
            const T shared = m[j], surprised = m[H + j];  // sums of dm, and of dm S
            if (s.d_tau && s.liquid) s.d_tau[j] = -total[R + H + j] / s.tau[j];
            if (s.d_eta) s.d_eta[j] = s.tonic[j] * shared + (T(1) - s.tonic[j]) * surprised;
            if (s.d_tonic) s.d_tonic[j] = s.eta[j] * (shared - surprised);
        }
        if (s.d_surprise_scale) *s.d_surprise_scale = surprise_scale;
    }

    long width, R, H, I;
    bool wanted;
    Buffer<T> state, input, error, read, total, m;  // [A | G_h | C], [B | G_x], [V | W], V^T; sums over rows; see write
    T surprise_scale = 0;
};

template <class T>
struct BackwardRoom {
    BackwardRoom(const Scan<T>& s, const BackwardWeights<T>& w, long rows)
        : dh(rows * w.z.H), sums((s.every + 1) * rows * w.width), de(rows * w.z.I), dq(rows * w.z.R), via_h(rows * w.z.H),
          key(rows * w.z.H), g(rows * w.z.R), key_now(rows * w.z.H), g_now(rows * w.z.R), dx(s.d_x ? s.every * rows * w.z.I : 0), dU(s.plastic ? rows * w.z.U() : 0),
          U(s.plastic ? rows * w.z.U() : 0), target(s.learns ? rows * w.z.U() : 0),
          targets(s.d_timespans && s.learns ? rows * s.every * w.z.U() : 0),
          by_key(rows * w.z.H), by_key_U(rows * w.z.H), from_U(w.z.H), by_g(rows * w.z.R), by_g_U(rows * w.z.R),
          nothing(w.z.I), one(1), rows_of((s.every + 1) * rows), row(rows), rows(rows) {
        one[0] = 1;
    }

    struct Row {
        long steps;
        T along;               // <dU', U'>
        T d_S, squares, unit;  // of this step: what S gets from lines 6 and 9; the gradient of |h|^2; 1 / (1 + |h|^2)
        T scale, shrink;       // dU" = scale dU' - shrink U'
        bool replayed;         // in this segment
    };
    // What a step leaves for the gradients: where its rows of sums, state, input, error and h U are.
    struct Rows {
        explicit Rows(long n) : sums(n), h(n), x(n), e(n), q(n), one(n) {}
        Buffer<const T*> sums, h, x, e, q, one;
        long count = 0;
    };
    Buffer<T> dh, sums, de, dq, via_h;
    Buffer<T> key, g, key_now, g_now;  // of line 6, for the next step to be done, which comes before, and for the one at hand
    Buffer<T> dx, dU;
    Buffer<T> U, target;                 // taken back step by step
    Buffer<T> states, targets;           // recomputed: U before each step of a segment, and after its last
    // Of the step to come: dU' g, U' g (H) and key dU', key U' (R); of the one at hand: U dq (H).
    Buffer<T> by_key, by_key_U, from_U, by_g, by_g_U, nothing, one;
    Rows rows_of;
    Buffer<Row> row;
    long rows;  // that there is room for
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

// What the pass over U for one step works with; U', U" and U are U after the step, before line 7, and before the step.
template <class T>
struct Pass {
    const T *after, *h, *dq;  // U'; h and dq of the step
    T scale, shrink, forget;  // dU" = scale dU' - shrink U'; f
    const T *key, *g;         // of the step before
    const T *key_now, *g_now;
    T sleep;
    T *from_U, *by_key, *by_key_U, *by_g, *by_g_U;
};

// What a step's adjoint of U asks for, together with what the step before it will ask for:
//   from_U = U dq;  dU = (1 - forget) (scale dU' - shrink U') + h dq^T;
//   then by_key = dU g, by_g = key dU and, where a norm was shrunk, the same of U and <dU, U>, with g and key of the step before.
// BACK: U and target come as they are after the step and are first taken back to before it. Returns <dU, U>.
template <class T, bool SHRUNK, bool BACK>
T adjoint(T* U, T* target, T* dU, const Pass<T>& p, long hidden, long ranks, long H) {
    constexpr long L = Simd<T>::lanes;
    const T stays = T(1) - p.forget, awake = T(1) / (T(1) - p.sleep), regain = T(1) / stays, grow = regain / p.scale;
    Vec<T> along[UNROLL] = {};
    for (long r = 0; r < ranks; r += UNROLL) {
        Vec<T> keyed[UNROLL] = {}, keyed_U[UNROLL] = {};
        for (long j = 0; j < H; j += L) {
            const Vec<T> hj = load(p.h + j, hidden - j), kj = load(p.key + j);
            const Vec<T> learned = BACK ? load(p.key_now + j) * regain : Vec<T>{};
            Vec<T> read = r ? load(p.from_U + j) : Vec<T>{}, d_key = r ? load(p.by_key + j) : Vec<T>{};
            Vec<T> d_key_U = SHRUNK && r ? load(p.by_key_U + j) : Vec<T>{};
#pragma GCC unroll 4
            for (long k = 0; k < UNROLL; ++k) {
                const long at = (r + k) * H + j;
                Vec<T> u = load(U + at), d = load(dU + at);
                if (SHRUNK) d = p.scale * d - p.shrink * (BACK ? u : load(p.after + at));
                if (BACK) {
                    const Vec<T> v = (load(target + at) - p.sleep * u) * awake;  // 11
                    u = grow * u - (p.forget * regain) * v - learned * p.g_now[r + k];  // 7, 6
                    store(target + at, v);
                    store(U + at, u);
                }
                d = stays * d + hj * p.dq[r + k];
                store(dU + at, d);
                read += u * p.dq[r + k];
                d_key += d * p.g[r + k];
                keyed[k] += d * kj;
                if (SHRUNK) {
                    along[k] += d * u;
                    d_key_U += u * p.g[r + k];
                    keyed_U[k] += u * kj;
                }
            }
            store(p.from_U + j, read);
            store(p.by_key + j, d_key);
            if (SHRUNK) store(p.by_key_U + j, d_key_U);
        }
        for (long k = 0; k < UNROLL; ++k) {
            p.by_g[r + k] = sum<T>(keyed[k]);
            if (SHRUNK) p.by_g_U[r + k] = sum<T>(keyed_U[k]);
        }
    }
    return sum<T>((along[0] + along[1]) + (along[2] + along[3]));
}

template <class T>
void backward(const Scan<T>& s, const BackwardWeights<T>& w, BackwardRoom<T>& room, Gradients<T>& gradients, long first, int rows) {
    constexpr long L = Simd<T>::lanes;
    const Sizes<T>& z = w.z;
    const long I = s.inputs, H = s.hidden, R = s.rank, gate = w.gate, N = s.rows, T_ = s.steps;
    const long wide = s.liquid ? 2 * H : H, to_predict = z.R + z.H + gate;  // where the prediction's part of `sums` is
    const long slots = s.every + 1;
    auto before = [&](const T* after, const T* start, long t, long row, long width) {  // of h: before step t
        return t > 0 ? after + ((t - 1) * N + row) * width : start + row * width;
    };
    long longest = 0;
    for (int n = 0; n < rows; ++n) {
        const long row = first + n;
        auto& st = room.row[n];
        st = {steps_of(s, row), 0, 0, 0, 0, T(1), 0, false};
        longest = std::max(longest, st.steps);
        T* dh = room.dh + n * z.H;
        std::memset(dh, 0, z.H * sizeof(T));
        if (s.d_h) std::memcpy(dh, s.d_h + row * H, H * sizeof(T));
        if (s.plastic) {
            T* dU = room.dU + n * z.U();
            std::memset(dU, 0, z.U() * sizeof(T));
            if (s.d_U) to_lanes(s.d_U + row * H * R, dU, s, z.H);
        }
        const long padding = T_ - st.steps;
        if (s.d_x) std::memset(s.d_x + (row * T_ + st.steps) * I, 0, padding * I * sizeof(T));
        if (s.d_timespans) std::memset(s.d_timespans + row * T_ + st.steps, 0, padding * sizeof(T));
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
            auto& st = room.row[n];
            const long row = first + n, last = std::min(end, st.steps);
            if (last <= start) continue;
            T *U = room.U + n * z.U(), *target = room.target + n * z.U();
            auto fetch = [&](const T* from, long which, T* to) {
                std::memset(to, 0, z.U() * sizeof(T));  // padding, too: another row's NaN may lie there
                for (long r = 0; r < R; ++r) std::memcpy(to + r * z.H, from + (which * N + row) * R * H + r * H, H * sizeof(T));
            };
            if (!s.learns) {
                fetch(s.U_kept, 0, U);
                continue;
            }
            // An error grows from the segment's end to its start by 1 / kept, and is made where U is largest.
            T kept = T(1), largest = T(0), least = std::numeric_limits<T>::max();
            for (long t = start; t < last; ++t) {
                const long at = t * N + row;
                kept *= shrinkage(s.norm[at], s) * (T(1) - forget(s, row, t)) * (T(1) - s.asleep[at]);
                largest = std::max(largest, s.norm[at]);
                least = std::min(least, s.norm[at]);
            }
            const bool even = largest <= T(100) * std::max(least, T(s.target));
            st.replayed = !(kept > T(1) / T(8) && even) || s.d_timespans;
            if (!st.replayed && last == st.steps) {
                std::memset(U, 0, z.U() * sizeof(T));
                std::memset(target, 0, z.U() * sizeof(T));
                to_lanes(s.U_ + row * H * R, U, s, z.H);
                to_lanes(s.U_target_ + row * H * R, target, s, z.H);
            } else if (!st.replayed) {
                fetch(s.U_kept, segment + 1, U);
                fetch(s.U_target_kept, segment + 1, target);
            } else {
                if (!room.states) room.states = Buffer<T>(room.rows * slots * z.U());
                T* states = room.states + n * slots * z.U();
                fetch(s.U_kept, segment, states);
                fetch(s.U_target_kept, segment, target);
                T *key = room.key_now + n * z.H, *g = room.g_now + n * z.R;
                for (long t = start; t < last; ++t) {
                    const long at = t * N + row, slot = t - start;
                    w.plasticity.key(before(s.output, s.h, t, row, H), H, z.H, s.surprise[at], key);
                    std::memcpy(g, s.filtered + at * R, R * sizeof(T));
                    T* targets = s.d_timespans ? room.targets + (n * s.every + slot) * z.U() : nullptr;
                    replay(states + slot * z.U(), target, targets, key, g, shrinkage(s.norm[at], s), s.asleep[at],
                           forget(s, row, t), z.ranks, z.H);
                }
            }
        }

        auto& left = room.rows_of;
        left.count = 0;
        auto leave = [&](const T* sums, const T* h, const T* x, const T* e, const T* q) {
            left.sums[left.count] = sums;
            left.h[left.count] = h;
            left.x[left.count] = x;
            left.e[left.count] = e;
            left.q[left.count] = q;
            left.one[left.count++] = room.one;
        };
        for (long t = end - 1; t >= start; --t) {
            T* all_sums = room.sums + (t - start) * rows * w.width;
            for (int n = 0; n < rows; ++n) {
                auto& st = room.row[n];
                if (t >= st.steps) continue;
                const long row = first + n, at = t * N + row;
                T *dh = room.dh + n * z.H, *sums = all_sums + n * w.width, *g = room.g + n * z.R;
                T *by_key = room.by_key + n * z.H, *by_key_U = room.by_key_U + n * z.H;
                T *by_g = room.by_g + n * z.R, *by_g_U = room.by_g_U + n * z.R;
                const T* h = before(s.output, s.h, t, row, H);
                if (t == st.steps - 1) {
                    T *dq = room.dq + n * z.R, *via_h = room.via_h + n * z.H;
                    std::memset(dq, 0, z.R * sizeof(T));
                    std::memset(via_h, 0, z.H * sizeof(T));
                    if (s.d_prediction) {  // the forecast: line 1 on the last state
                        T* last = sums + rows * w.width;  // the place of the step that would follow
                        std::memset(last, 0, w.width * sizeof(T));
                        std::memcpy(last + to_predict, s.d_prediction + (at + N) * I, I * sizeof(T));
                        if (s.plastic) w.read.times(last + to_predict, w.width, dq, z.R, 1);
                        w.state.times(last + z.R, w.width, via_h, z.H, 1);
                        leave(last, s.output + at * H, room.nothing, room.nothing, s.read + (at + N) * R);
                    }
                    recall(n, t);
                    if (s.plastic) {
                        T* U = st.replayed ? room.states + (n * slots + st.steps - start) * z.U() : room.U + n * z.U();
                        const Pass<T> last{U,       s.output + at * H, dq, T(1), T(0), T(0), room.key + n * z.H, g, nullptr,
                                           nullptr, T(0), room.from_U, by_key, by_key_U, by_g, by_g_U};
                        st.along = adjoint<T, true, false>(U, nullptr, room.dU + n * z.U(), last, H, z.ranks, z.H);
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
                    st.shrink = norm > T(s.target) && scale > T(0) && std::isfinite(norm)
                                    ? T(s.kappa) * (T(s.target) / norm) * (st.along / scale / norm) / norm / scale
                                    : T(0);
                    for (long r = 0; r < z.R; ++r) sums[r] = scale * by_g[r] - (st.shrink != 0 ? st.shrink * by_g_U[r] : T(0));
                } else {
                    std::memset(sums, 0, z.R * sizeof(T));
                }
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
                    }
                    const Vec<T> of_u = d_u * (T(1) - u * u);  // 8
                    store(sums + z.R + j, of_u);
                    if (s.learns) {  // 6
                        const Vec<T> lift = load(w.plasticity.lift + j), m = load(w.plasticity.floor + j) + S * lift;
                        const Vec<T> room_left = T(1) / (m + HALF_PLASTICITY<T>), p = m * room_left;
                        Vec<T> d_key = st.scale * load(by_key + j);
                        if (st.shrink != 0) d_key -= st.shrink * load(by_key_U + j);
                        d_key *= st.unit;
                        store(room.key_now + n * z.H + j, Vec<T>(p * hj * st.unit));
                        d_h += d_key * p;
                        d_squares += d_key * p * hj;
                        const Vec<T> d_m = d_key * hj * HALF_PLASTICITY<T> * room_left * room_left;
                        store(gradients.m + j, Vec<T>(load(gradients.m + j) + d_m));
                        store(gradients.m + z.H + j, Vec<T>(load(gradients.m + z.H + j) + d_m * S));
                        d_surprise += d_m * lift;
                    }
                    store(dh + j, d_h);
                }
                st.squares = -sum<T>(d_squares) * st.unit;
                const T pace = sum<T>(d_pace);
                const T hastened = pace / (T(1) + w.s_scale * S);
                st.d_S = sum<T>(d_surprise) + hastened * w.s_scale;
                gradients.surprise_scale += hastened * S;
                if (s.d_timespans) s.d_timespans[row * T_ + t] = s.liquid ? pace / span_at(s, row, t) : T(0);
                leave(sums, h, s.x + row * s.x_row + t * s.x_step, s.error + at * I, s.read + at * R);
            }

            w.error.times(all_sums, w.width, room.de, z.I, rows);
            for (int n = 0; n < rows; ++n) {
                if (t >= room.row[n].steps) continue;
                const long at = t * N + first + n;
                const T S = s.surprise[at], d_r = room.row[n].d_S * S * (T(1) - S) / T(s.temperature);  // 5
                T* predicts = all_sums + n * w.width + to_predict;
                for (long i = 0; i < z.I; i += L) {  // 3, 2
                    Vec<T> de = load(room.de + n * z.I + i) + d_r * load(s.slope + at * I + i, I - i);
                    if (s.d_error) de += load(s.d_error + at * I + i, I - i);
                    Vec<T> d_prediction = -de;
                    if (s.d_prediction) d_prediction += load(s.d_prediction + at * I + i, I - i);
                    if (s.d_x) store(s.d_x + ((first + n) * T_ + t) * I + i, de, I - i);
                    store(predicts + i, d_prediction);
                }
            }
            if (s.plastic) w.read.times(all_sums + to_predict, w.width, room.dq, z.R, rows);
            w.state.times(all_sums + z.R, w.width, room.via_h, z.H, rows);

            for (int n = 0; n < rows; ++n) {
                auto& st = room.row[n];
                if (t >= st.steps) continue;
                const long row = first + n, at = t * N + row;
                T* dh = room.dh + n * z.H;
                const T *h = before(s.output, s.h, t, row, H), *via_h = room.via_h + n * z.H;
                if (s.plastic) {
                    T *U = room.U + n * z.U(), *target = room.target + n * z.U(), *dU = room.dU + n * z.U();
                    const T* after = U;
                    if (st.replayed) {
                        U = room.states + (n * slots + t - start) * z.U();
                        after = U + z.U();
                    }
                    const T forgets = s.learns ? forget(s, row, t) : T(0);
                    if (s.d_timespans && s.learns) {
                        const T* targets = room.targets + (n * s.every + t - start) * z.U();
                        Vec<T> total{};
                        for (long k = 0; k < z.U(); k += L)
                            total += (st.scale * load(dU + k) - st.shrink * load(after + k)) * (load(targets + k) - load(U + k));
                        const T stays = T(1) - forgets;  // df / dspan = rate (1 - f)^2
                        s.d_timespans[row * T_ + t] += sum<T>(total) * T(s.rate) * stays * stays;
                    }
                    if (s.learns) std::memcpy(room.g_now + n * z.R, s.filtered + at * R, R * sizeof(T));
                    const bool shrunk = (recall(n, t - 1) > T(s.target)) | (st.scale != T(1)) | (st.shrink != T(0)), back = s.learns && !st.replayed;
                    const Pass<T> pass{after,
                                       h,
                                       room.dq + n * z.R,
                                       st.scale,
                                       st.shrink,
                                       forgets,
                                       room.key + n * z.H,
                                       room.g + n * z.R,
                                       room.key_now + n * z.H,
                                       room.g_now + n * z.R,
                                       s.learns ? s.asleep[at] : T(0),
                                       room.from_U,
                                       room.by_key + n * z.H,
                                       room.by_key_U + n * z.H,
                                       room.by_g + n * z.R,
                                       room.by_g_U + n * z.R};
                    auto run = back ? (shrunk ? adjoint<T, true, true> : adjoint<T, false, true>)
                                    : (shrunk ? adjoint<T, true, false> : adjoint<T, false, false>);
                    st.along = run(U, target, dU, pass, H, z.ranks, z.H);
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

        if (s.d_x) {
            w.input.times(room.sums + z.R, w.width, room.dx, z.I, int((end - start) * rows));
            for (long t = start; t < end; ++t)
                for (int n = 0; n < rows; ++n)
                    for (long i = 0; i < z.I && t < room.row[n].steps; i += L) {
                        T* at = s.d_x + ((first + n) * T_ + t) * I + i;
                        store(at, Vec<T>(load(at, I - i) + load(room.dx + ((t - start) * rows + n) * z.I + i)), I - i);
                    }
        }
        if (gradients.wanted) {
            auto rows_by = [&](const T* const* a) { return Outer<T>(a, left.sums, left.count); };
            rows_by(left.h).add(gradients.state, H, w.width - z.R, w.width - z.R, z.R);
            rows_by(left.x).add(gradients.input, I, z.H + gate, z.H + gate, z.R);
            rows_by(left.e).add(gradients.error, I, z.R + z.H, z.R + z.H);
            if (s.d_V) rows_by(left.q).add(gradients.read, R, z.I, z.I, to_predict);
            rows_by(left.one).add(gradients.total, 1, w.width, w.width);
        }
    }

    for (int n = 0; n < rows; ++n) {
        const long row = first + n;
        if (s.d_h0) std::memcpy(s.d_h0 + row * H, room.dh + n * z.H, H * sizeof(T));
        if (s.d_U0 && s.plastic) from_lanes(room.dU + n * z.U(), s.d_U0 + row * H * R, s, z.H);
    }
}
