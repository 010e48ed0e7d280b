// The backward pass by the adjoints of h (N, H) and U (N, H, R), for a block of samples, from the last step to the first.
//
// U is kept before every K-th step only. Within a segment the steps' updates are taken back, one after another, from the state
// after it: lines 11, 7 and 6 can be inverted from the kept factors e V, S, h and |U"|. Where that would lose digits (strong
// homeostasis, forgetting or sleep), U is recomputed from the state before the segment. At the end of a segment its share of
// the parameters' gradients is added, while its rows are in the cache.
#pragma once

#include "fast_weights.h"
#include "gradients.h"

template <class T>
struct BackwardRoom {
    BackwardRoom(const Scan<T>& s, const BackwardWeights<T>& w, long samples)
        : dh(samples * w.z.H), sums((s.every + 1) * samples * w.width), de(samples * w.z.I), dq(samples * w.z.R),
          via_h(samples * w.z.H), key(samples * w.z.H), g(samples * w.z.R), key_now(samples * w.z.H), g_now(samples * w.z.R),
          dx(s.d_x ? s.every * samples * w.z.I : 0), dU(s.plastic ? samples * w.z.U() : 0),
          U(s.plastic ? samples * w.z.U() : 0), target(s.learns ? samples * w.z.U() : 0),
          targets(s.d_timespans && s.learns ? samples * s.every * w.z.U() : 0),
          by_key(samples * w.z.H), by_key_U(samples * w.z.H), from_U(w.z.H), by_g(samples * w.z.R), by_g_U(samples * w.z.R),
          nothing(w.z.I), one(1), rows_of((s.every + 1) * samples), sample(samples), samples(samples) {
        one[0] = 1;
    }

    struct Sample {
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
    Buffer<Sample> sample;
    long samples;  // that there is room for
};

template <class T>
class Backward {
  public:
    Backward(const Scan<T>& s, const BackwardWeights<T>& w, BackwardRoom<T>& room, Gradients<T>& gradients, long first,
             int samples)
        : s(s), w(w), room(room), gradients(gradients), first(first), samples(samples) {}

    void run() {
        long longest = 0;
        for (int n = 0; n < samples; ++n) longest = std::max(longest, begin(n));
        for (long segment = (longest - 1) / s.every; segment >= 0; --segment) {
            start = segment * s.every;
            end = std::min(start + s.every, longest);
            for (int n = 0; n < samples && s.plastic; ++n) restore(n, segment);
            room.rows_of.count = 0;
            for (long t = end - 1; t >= start; --t) step(t);
            if (s.d_x) inputs();
            if (gradients.wanted) parameters();
        }
        for (int n = 0; n < samples; ++n) {
            if (s.d_h0) std::memcpy(s.d_h0 + (first + n) * H, room.dh + n * z.H, H * sizeof(T));
            if (s.d_U0 && s.plastic) from_lanes(room.dU + n * z.U(), s.d_U0 + (first + n) * H * R, s, z.H);
        }
    }

  private:
    static constexpr long L = Simd<T>::lanes;
    using Sample = typename BackwardRoom<T>::Sample;
    const Scan<T>& s;
    const BackwardWeights<T>& w;
    BackwardRoom<T>& room;
    Gradients<T>& gradients;
    const long first;
    const int samples;
    const Sizes<T>& z = w.z;
    const long I = s.inputs, H = s.hidden, R = s.rank, N = s.samples, steps = s.steps;
    const long wide = s.liquid ? 2 * H : H, to_predict = z.R + z.H + w.gate;  // where the prediction's part of `sums` is
    long start = 0, end = 0;                                                  // of the segment

    const T* h_before(long t, long sample) const { return t > 0 ? s.output + ((t - 1) * N + sample) * H : s.h + sample * H; }
    T* sums_of(long t) const { return room.sums + (t - start) * samples * w.width; }
    T* state(int n, long t) const { return room.states + (n * (s.every + 1) + t - start) * z.U(); }

    void leave(const T* sums, const T* h, const T* x, const T* e, const T* q) {
        auto& left = room.rows_of;
        left.sums[left.count] = sums;
        left.h[left.count] = h;
        left.x[left.count] = x;
        left.e[left.count] = e;
        left.q[left.count] = q;
        left.one[left.count++] = room.one;
    }

    // The adjoints of the last state, and zeros where a sample is padded. Returns its steps.
    long begin(int n) {
        const long sample = first + n, valid = steps_of(s, sample), padding = steps - valid;
        room.sample[n] = {valid, 0, 0, 0, 0, T(1), 0, false};
        T* dh = room.dh + n * z.H;
        std::memset(dh, 0, z.H * sizeof(T));
        if (s.d_h) std::memcpy(dh, s.d_h + sample * H, H * sizeof(T));
        if (s.plastic) {
            T* dU = room.dU + n * z.U();
            std::memset(dU, 0, z.U() * sizeof(T));
            if (s.d_U) to_lanes(s.d_U + sample * H * R, dU, s, z.H);
        }
        if (s.d_x) std::memset(s.d_x + (sample * steps + valid) * I, 0, padding * I * sizeof(T));
        if (s.d_timespans) std::memset(s.d_timespans + sample * steps + valid, 0, padding * sizeof(T));
        return valid;
    }

    // key and g of step t: what the pass over U for the step after it needs; zeros before the first step. Returns |U"|.
    T recall(int n, long t) {
        T *key = room.key + n * z.H, *g = room.g + n * z.R;
        if (!s.learns || t < 0) {
            std::memset(key, 0, z.H * sizeof(T));
            std::memset(g, 0, z.R * sizeof(T));
            return T(0);
        }
        const long at = t * N + first + n;
        std::memcpy(g, s.filtered + at * R, R * sizeof(T));
        room.sample[n].unit = w.plasticity.key(h_before(t, first + n), H, z.H, s.surprise[at], key);
        return s.norm[at];
    }

    // U and U_target as they are at the segment's end or, where its steps can't be taken back, before and after each of them.
    void restore(int n, long segment) {
        Sample& st = room.sample[n];
        const long sample = first + n, last = std::min(end, st.steps);
        if (last <= start) return;
        T *U = room.U + n * z.U(), *target = room.target + n * z.U();
        auto fetch = [&](const T* from, long which, T* to) {
            std::memset(to, 0, z.U() * sizeof(T));  // padding, too: another sample's NaN may lie there
            for (long r = 0; r < R; ++r) std::memcpy(to + r * z.H, from + (which * N + sample) * R * H + r * H, H * sizeof(T));
        };
        if (!s.learns) return fetch(s.U_kept, 0, U);
        // An error grows from the segment's end to its start by 1 / kept, and is made where U is largest.
        T kept = T(1), largest = T(0), least = std::numeric_limits<T>::max();
        for (long t = start; t < last; ++t) {
            const long at = t * N + sample;
            kept *= shrinkage(s.norm[at], s) * (T(1) - forget(s, sample, t)) * (T(1) - s.asleep[at]);
            largest = std::max(largest, s.norm[at]);
            least = std::min(least, s.norm[at]);
        }
        const bool even = largest <= T(100) * std::max(least, T(s.target_norm));
        st.replayed = !(kept > T(1) / T(8) && even) || s.d_timespans;
        if (st.replayed) {
            if (!room.states) room.states = Buffer<T>(room.samples * (s.every + 1) * z.U());
            fetch(s.U_kept, segment, state(n, start));
            fetch(s.U_target_kept, segment, target);
            T *key = room.key_now + n * z.H, *g = room.g_now + n * z.R;
            for (long t = start; t < last; ++t) {
                const long at = t * N + sample;
                w.plasticity.key(h_before(t, sample), H, z.H, s.surprise[at], key);
                std::memcpy(g, s.filtered + at * R, R * sizeof(T));
                T* targets = s.d_timespans ? room.targets + (n * s.every + t - start) * z.U() : nullptr;
                replay(state(n, t), target, targets, key, g, shrinkage(s.norm[at], s), s.asleep[at], forget(s, sample, t),
                       z.ranks, z.H);
            }
        } else if (last == st.steps) {
            std::memset(U, 0, z.U() * sizeof(T));
            std::memset(target, 0, z.U() * sizeof(T));
            to_lanes(s.U_ + sample * H * R, U, s, z.H);
            to_lanes(s.U_target_ + sample * H * R, target, s, z.H);
        } else {
            fetch(s.U_kept, segment + 1, U);
            fetch(s.U_target_kept, segment + 1, target);
        }
    }

    void step(long t) {
        T* sums = sums_of(t);
        for (int n = 0; n < samples; ++n) {
            if (t >= room.sample[n].steps) continue;
            if (t == room.sample[n].steps - 1) last_state(n, t);
            units(n, t);
        }
        w.error.times(sums, w.width, room.de, z.I, samples);
        for (int n = 0; n < samples; ++n)
            if (t < room.sample[n].steps) errors(n, t);
        if (s.plastic) w.read.times(sums + to_predict, w.width, room.dq, z.R, samples);
        w.state.times(sums + z.R, w.width, room.via_h, z.H, samples);
        for (int n = 0; n < samples; ++n)
            if (t < room.sample[n].steps) states(n, t);
    }

    // After a sample's last step t: the forecast, which is line 1 on its last state, and what step t asks of U' and its adjoint.
    void last_state(int n, long t) {
        Sample& st = room.sample[n];
        const long at = t * N + first + n;
        T *dh = room.dh + n * z.H, *dq = room.dq + n * z.R, *via_h = room.via_h + n * z.H;
        std::memset(dq, 0, z.R * sizeof(T));
        std::memset(via_h, 0, z.H * sizeof(T));
        if (s.d_prediction) {
            T* sums = sums_of(t + 1) + n * w.width;
            std::memset(sums, 0, w.width * sizeof(T));
            std::memcpy(sums + to_predict, s.d_prediction + (at + N) * I, I * sizeof(T));
            if (s.plastic) w.read.times(sums + to_predict, w.width, dq, z.R, 1);
            w.state.times(sums + z.R, w.width, via_h, z.H, 1);
            leave(sums, s.output + at * H, room.nothing, room.nothing, s.read + (at + N) * R);
        }
        recall(n, t);
        if (s.plastic) {
            T* U = st.replayed ? state(n, st.steps) : room.U + n * z.U();
            Pass<T> pass = pass_over(n, U, s.output + at * H);
            pass.scale = T(1);
            st.along = adjoint<T, true, false>(U, nullptr, room.dU + n * z.U(), pass, H, z.ranks, z.H);
        } else {
            std::memset(room.from_U, 0, z.H * sizeof(T));
        }
        for (long j = 0; j < z.H; j += L) {
            Vec<T> d = load(dh + j) + load(via_h + j) + load(room.from_U + j);
            if (s.d_output) d += load(s.d_output + at * H + j, H - j);
            store(dh + j, d);
        }
    }

    // The part of a pass that is the same for all: nothing forgotten, shrunk or slept over.
    Pass<T> pass_over(int n, const T* after, const T* h) {
        return {after,
                h,
                room.dq + n * z.R,
                room.sample[n].scale,
                T(0),
                T(0),
                room.key + n * z.H,
                room.g + n * z.R,
                room.key_now + n * z.H,
                room.g_now + n * z.R,
                T(0),
                room.from_U,
                room.by_key + n * z.H,
                room.by_key_U + n * z.H,
                room.by_g + n * z.R,
                room.by_g_U + n * z.R};
    }

    // Lines 9 to 6 of a sample: from the adjoints of h' and U' to the sums that the products need.
    void units(int n, long t) {
        Sample& st = room.sample[n];
        const long sample = first + n, at = t * N + sample;
        T *dh = room.dh + n * z.H, *sums = sums_of(t) + n * w.width, *key_now = room.key_now + n * z.H;
        const T *by_key = room.by_key + n * z.H, *by_key_U = room.by_key_U + n * z.H, *h = h_before(t, sample);
        const T *gates = s.gates + at * wide, S = s.surprise[at];
        std::memset(sums, 0, z.R * sizeof(T));
        if (s.learns) {  // 7
            const T norm = s.norm[at];
            st.scale = shrinkage(norm, s);
            st.shrink = norm > T(s.target_norm) && st.scale > T(0) && std::isfinite(norm)
                            ? T(s.kappa) * (T(s.target_norm) / norm) * (st.along / st.scale / norm) / norm / st.scale
                            : T(0);
            const T *by_g = room.by_g + n * z.R, *by_g_U = room.by_g_U + n * z.R;
            for (long r = 0; r < R; ++r) sums[r] = st.scale * by_g[r] - (st.shrink != 0 ? st.shrink * by_g_U[r] : T(0));
        }
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
            store(sums + z.R + j, Vec<T>(d_u * (T(1) - u * u)));  // 8
            if (s.learns) {                                       // 6
                const Vec<T> lift = load(w.plasticity.lift + j), m = load(w.plasticity.floor + j) + S * lift;
                const Vec<T> part = T(1) / (m + HALF_PLASTICITY<T>), p = m * part;
                Vec<T> d_key = st.scale * load(by_key + j);
                if (st.shrink != 0) d_key -= st.shrink * load(by_key_U + j);
                d_key *= st.unit;
                store(key_now + j, Vec<T>(p * hj * st.unit));
                d_h += d_key * p;
                d_squares += d_key * p * hj;
                const Vec<T> d_m = d_key * hj * HALF_PLASTICITY<T> * part * part;
                store(gradients.m + j, Vec<T>(load(gradients.m + j) + d_m));
                store(gradients.m + z.H + j, Vec<T>(load(gradients.m + z.H + j) + d_m * S));
                d_surprise += d_m * lift;
            }
            store(dh + j, d_h);
        }
        st.squares = -sum<T>(d_squares) * st.unit;
        const T pace = sum<T>(d_pace), hastened = pace / (T(1) + w.s_scale * S);
        st.d_S = sum<T>(d_surprise) + hastened * w.s_scale;
        gradients.surprise_scale += hastened * S;
        if (s.d_timespans) s.d_timespans[sample * steps + t] = s.liquid ? pace / span_at(s, sample, t) : T(0);
        leave(sums, h, s.x + sample * s.x_sample + t * s.x_step, s.error + at * I, s.read + at * R);
    }

    // Lines 5 to 2 of a sample: the error's adjoint, and the prediction's.
    void errors(int n, long t) {
        const long sample = first + n, at = t * N + sample;
        const T S = s.surprise[at], d_r = room.sample[n].d_S * S * (T(1) - S) / T(s.surprise_temperature);  // 5
        T* predicts = sums_of(t) + n * w.width + to_predict;
        for (long i = 0; i < z.I; i += L) {
            Vec<T> de = load(room.de + n * z.I + i) + d_r * load(s.slope + at * I + i, I - i);  // 3
            if (s.d_error) de += load(s.d_error + at * I + i, I - i);
            Vec<T> d_prediction = -de;  // 2
            if (s.d_prediction) d_prediction += load(s.d_prediction + at * I + i, I - i);
            if (s.d_x) store(s.d_x + (sample * steps + t) * I + i, de, I - i);
            store(predicts + i, d_prediction);
        }
    }

    // Line 1 of a sample, and what lines 6 to 9 have of the state before: its adjoints.
    void states(int n, long t) {
        Sample& st = room.sample[n];
        const long sample = first + n, at = t * N + sample;
        T* dh = room.dh + n * z.H;
        const T *h = h_before(t, sample), *via_h = room.via_h + n * z.H;
        if (s.plastic) {
            T *U = st.replayed ? state(n, t) : room.U + n * z.U(), *dU = room.dU + n * z.U();
            Pass<T> pass = pass_over(n, st.replayed ? state(n, t + 1) : U, h);
            const bool shrunk = (recall(n, t - 1) > T(s.target_norm)) | (st.scale != T(1)) | (st.shrink != T(0));
            if (s.learns) {
                pass.shrink = st.shrink;
                pass.forget = forget(s, sample, t);
                pass.sleep = s.asleep[at];
                std::memcpy(room.g_now + n * z.R, s.filtered + at * R, R * sizeof(T));
                if (s.d_timespans) s.d_timespans[sample * steps + t] += by_span(n, t, pass);
            }
            auto run = s.learns && !st.replayed ? (shrunk ? adjoint<T, true, true> : adjoint<T, false, true>)
                                                : (shrunk ? adjoint<T, true, false> : adjoint<T, false, false>);
            st.along = run(U, room.target + n * z.U(), dU, pass, H, z.ranks, z.H);
        } else {
            std::memset(room.from_U, 0, z.H * sizeof(T));
        }
        const T* d_output = t > 0 && s.d_output ? s.d_output + (at - N) * H : nullptr;
        const T twice = T(2) * st.squares;  // through 1 + |h|^2
        for (long j = 0; j < z.H; j += L) {
            Vec<T> d = load(dh + j) + load(via_h + j) + load(room.from_U + j) + twice * load(h + j, H - j);
            if (d_output) d += load(d_output + j, H - j);
            store(dh + j, d);
        }
    }

    // What f of line 6 has of a span's gradient: <dU", U_target - U> df / dspan, where df / dspan = rate (1 - f)^2.
    T by_span(int n, long t, const Pass<T>& pass) const {
        const T *U = state(n, t), *dU = room.dU + n * z.U(), *target = room.targets + (n * s.every + t - start) * z.U();
        Vec<T> total{};
        for (long k = 0; k < z.U(); k += L)
            total += (pass.scale * load(dU + k) - pass.shrink * load(pass.after + k)) * (load(target + k) - load(U + k));
        const T stays = T(1) - pass.forget;
        return sum<T>(total) * T(s.forgetting_rate) * stays * stays;
    }

    // Line 8 and 9's products with the input, for the segment.
    void inputs() {
        w.input.times(room.sums + z.R, w.width, room.dx, z.I, int((end - start) * samples));
        for (int n = 0; n < samples; ++n)
            for (long t = start; t < std::min(end, room.sample[n].steps); ++t) {
                T* to = s.d_x + ((first + n) * steps + t) * I;
                const T* from = room.dx + ((t - start) * samples + n) * z.I;
                for (long i = 0; i < z.I; i += L) store(to + i, Vec<T>(load(to + i, I - i) + load(from + i)), I - i);
            }
    }

    void parameters() {
        const auto& left = room.rows_of;
        auto rows_by = [&](const T* const* a) { return Outer<T>(a, left.sums, left.count); };
        rows_by(left.h).add(gradients.state, H, w.width - z.R, w.width - z.R, z.R);
        rows_by(left.x).add(gradients.input, I, z.H + w.gate, z.H + w.gate, z.R);
        rows_by(left.e).add(gradients.error, I, z.R + z.H, z.R + z.H);
        if (s.d_V) rows_by(left.q).add(gradients.read, R, z.I, z.I, to_predict);
        rows_by(left.one).add(gradients.total, 1, w.width, w.width);
    }
};
