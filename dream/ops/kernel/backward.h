// The backward pass by the adjoints of h (N, H) and U (N, H, R), for a block of samples, from its last step to its first.
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
        : dh(samples * w.z.H),
          sums((s.every + 1) * samples * w.width),
          de(samples * w.z.I),
          d_read(samples * w.z.R),
          d_found(samples * w.z.R),
          via_h(samples * w.z.H),
          key(samples * w.z.H),
          key_now(samples * w.z.H),
          cue(samples * w.z.H),
          cue_key(samples * w.z.H),
          d_key(samples * w.z.H),
          d_cue(samples * w.z.H),
          d_cue_key(samples * w.z.H),
          zeros(w.z.H),
          stored(samples * w.z.H),
          stored_now(samples * w.z.H),
          g(samples * w.z.R),
          g_now(samples * w.z.R),
          hidden(samples * w.z.H),
          dx(s.d_x ? s.every * samples * w.z.I : 0),
          dU(s.plastic ? samples * w.z.U() : 0),
          U(s.plastic ? samples * w.z.U() : 0),
          target(s.learns ? samples * w.z.U() : 0),
          targets(s.d_timespans && s.learns ? samples * s.every * w.z.U() : 0),
          by_g(samples * w.z.H),
          by_g_U(samples * w.z.H),
          from_U(w.z.H),
          by_stored(samples * w.z.R),
          by_stored_U(samples * w.z.R),
          nothing(std::max(w.z.I, w.z.R)),
          one(1),
          filled(s.missing ? w.z.I : 0),
          rows_of((s.every + 1) * samples),
          sample(samples),
          samples(samples) {
        one[0] = 1;
    }

    struct Sample {
        long steps;
        T along;               // <dU', U'>, U' as the next step found it
        T unit;                // 1 / (rho (1 + |q|^2))
        T scale, shrink;       // dU" = scale dU' - shrink U'
        bool replayed;         // in this segment
    };
    // What a step leaves for the gradients: where its rows of sums, state, input, error, q U and o are.
    struct Rows {
        explicit Rows(long n) : sums(n), h(n), x(n), e(n), read(n), recalled(n), one(n) {}
        Buffer<const T*> sums, h, x, e, read, recalled, one;
        long count = 0;
    };
    // Adjoints of h, of a row's sums, of e, of q U and o (line 8's times sqrt(rho)), and of h by way of products and keys.
    Buffer<T> dh, sums, de, d_read, d_found, via_h;
    Buffer<T> key, key_now;                    // q of the next step to be done, which comes before, and of the one at hand
    Buffer<T> cue, cue_key;                    // of line 8: tanh(v), and its key
    Buffer<T> d_key, d_cue, d_cue_key, zeros;  // adjoints of q, of tanh(v) and of its key
    Buffer<T> stored, stored_now, g, g_now;    // of line 6
    Buffer<T> hidden;                          // h of a step, padded
    Buffer<T> dx, dU;
    Buffer<T> U, target;        // taken back step by step
    Buffer<T> states, targets;  // recomputed: U before each step of a segment, and after its last
    // Of the step to come: dU' g, U' g (H) and stored dU', stored U' (R); of the one at hand: U d_read (H).
    Buffer<T> by_g, by_g_U, from_U, by_stored, by_stored_U, nothing, one;
    Buffer<T> filled;  // the adjoint of what was read in place of what was not observed
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
        for (long segment = (longest + s.every - 1) / s.every - 1; segment >= 0; --segment) {
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
    const long wide = s.liquid ? 2 * H : H, to_v = z.R + z.H, to_predict = to_v + z.H + w.gate;  // parts of a row of `sums`
    const T root_rho = std::sqrt(w.plasticity.rho);
    long start = 0, end = 0;  // of the segment

    const T* h_before(long t, long sample) const { return t > 0 ? s.output + ((t - 1) * N + sample) * H : s.h + sample * H; }
    T* sums_of(long t) const { return room.sums + (t - start) * samples * w.width; }
    T* state(int n, long t) const { return room.states + (n * (s.every + 1) + t - start) * z.U(); }

    void leave(const T* sums, const T* h, const T* x, const T* e, const T* read, const T* recalled) {
        auto& left = room.rows_of;
        left.sums[left.count] = sums;
        left.h[left.count] = h;
        left.x[left.count] = x;
        left.e[left.count] = e;
        left.read[left.count] = read;
        left.recalled[left.count] = recalled;
        left.one[left.count++] = room.one;
    }

    // The adjoints of the last state, and zeros where a sample is padded. Returns its steps.
    long begin(int n) {
        const long sample = first + n, valid = steps_of(s, sample), padding = steps - valid;
        room.sample[n] = {valid, 0, 0, T(1), 0, false};
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

    // q of step t, from the state before it.
    void key_of(int n, long t, T* key) const {
        std::memcpy(room.hidden + n * z.H, h_before(t, first + n), H * sizeof(T));
        w.keys.times(room.hidden + n * z.H, z.H, w.k, 0, key, z.H, 1);
    }

    // stored and g of step t, from its q: what the pass over U for the step after it needs; zeros before the first step.
    // Returns |U"|.
    T look_back(int n, long t) {
        T *key = room.key + n * z.H, *stored = room.stored + n * z.H, *g = room.g + n * z.R;
        if (!s.learns || t < 0) {
            std::memset(stored, 0, z.H * sizeof(T));
            std::memset(g, 0, z.R * sizeof(T));
            return T(0);
        }
        const long at = t * N + first + n;
        std::memcpy(g, s.filtered + at * R, R * sizeof(T));
        room.sample[n].unit = w.plasticity.store_key(key, s.surprise[at], stored);
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
            T *key = room.key_now + n * z.H, *stored = room.stored_now + n * z.H, *g = room.g_now + n * z.R;
            for (long t = start; t < last; ++t) {
                const long at = t * N + sample;
                key_of(n, t, key);
                w.plasticity.store_key(key, s.surprise[at], stored);
                std::memcpy(g, s.filtered + at * R, R * sizeof(T));
                T* targets = s.d_timespans ? room.targets + (n * s.every + t - start) * z.U() : nullptr;
                replay(state(n, t), target, targets, stored, g, shrinkage(s.norm[at], s), s.asleep[at], forget(s, sample, t),
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
        if (s.plastic) {  // 8
            w.recall.times(sums + z.R, w.width, room.d_found, z.R, samples);
            for (int n = 0; n < samples; ++n)
                if (t < room.sample[n].steps) std::memcpy(room.cue + n * z.H, s.cue + (t * N + first + n) * H, H * sizeof(T));
            w.keys.times(room.cue, z.H, w.k, 0, room.cue_key, z.H, samples);
            for (int n = 0; n < samples; ++n)
                if (t < room.sample[n].steps) recall(n, t);
            w.keys_back.times(room.d_cue_key, z.H, room.zeros, 0, room.d_cue, z.H, samples);
            for (int n = 0; n < samples; ++n)
                if (t < room.sample[n].steps) cue(n, t);
        }
        w.error.times(sums, w.width, room.de, z.I, samples);
        for (int n = 0; n < samples; ++n)
            if (t < room.sample[n].steps) errors(n, t);
        if (s.plastic) w.read.times(sums + to_predict, w.width, room.d_read, z.R, samples);
        w.state.times(sums + to_v, w.width, room.via_h, z.H, samples);
        if (s.plastic) fast_weights(t);
        for (int n = 0; n < samples; ++n)
            if (t < room.sample[n].steps) states(n, t);
    }

    // After a sample's last step t: the forecast, which is line 1 on its last state, and what step t asks of U' and its adjoint.
    void last_state(int n, long t) {
        Sample& st = room.sample[n];
        const long at = t * N + first + n;
        T *dh = room.dh + n * z.H, *d_read = room.d_read + n * z.R, *via_h = room.via_h + n * z.H;
        std::memset(d_read, 0, z.R * sizeof(T));
        std::memset(room.d_found + n * z.R, 0, z.R * sizeof(T));
        std::memset(room.cue_key + n * z.H, 0, z.H * sizeof(T));
        std::memset(via_h, 0, z.H * sizeof(T));
        if (s.d_prediction) {
            T* sums = sums_of(t + 1) + n * w.width;
            std::memset(sums, 0, w.width * sizeof(T));
            std::memcpy(sums + to_predict, s.d_prediction + (at + N) * I, I * sizeof(T));
            if (s.plastic) w.read.times(sums + to_predict, w.width, d_read, z.R, 1);
            w.state.times(sums + to_v, w.width, via_h, z.H, 1);
            leave(sums, s.output + at * H, room.nothing, room.nothing, s.read + (at + N) * R, room.nothing);
        }
        T* d_key = room.d_key + n * z.H;
        if (s.plastic) {
            T *U = st.replayed ? state(n, st.steps) : room.U + n * z.U(), *key = room.key_now + n * z.H;
            key_of(n, t + 1, key);
            key_of(n, t, room.key + n * z.H);
            look_back(n, t);
            Pass<T> pass = pass_over(n, U, key);
            pass.scale = T(1);
            st.along = adjoint<T, true, false>(U, nullptr, room.dU + n * z.U(), pass, z.ranks, z.H);
            std::memcpy(d_key, room.from_U, z.H * sizeof(T));
            const T* h = s.output + at * H;
            keys(&h, &d_key, 1);
            w.keys_back.times(d_key, z.H, via_h, z.H, via_h, z.H, 1);
        }
        for (long j = 0; j < z.H; j += L) {
            Vec<T> d = load(dh + j) + load(via_h + j);
            if (s.d_output) d += load(s.d_output + at * H + j, H - j);
            store(dh + j, d);
        }
    }

    // The part of a pass that is the same for all: nothing forgotten, shrunk or slept over.
    Pass<T> pass_over(int n, const T* after, const T* key) {
        return {after,
                key,
                room.d_read + n * z.R,
                room.cue_key + n * z.H,
                room.d_found + n * z.R,
                room.sample[n].scale,
                T(0),
                T(0),
                room.stored + n * z.H,
                room.g + n * z.R,
                room.stored_now + n * z.H,
                room.g_now + n * z.R,
                T(0),
                room.from_U,
                room.by_g + n * z.H,
                room.by_g_U + n * z.H,
                room.by_stored + n * z.R,
                room.by_stored_U + n * z.R};
    }

    // Line 9 and tanh(u) of a sample: from the adjoint of h' to those of u and of the pace.
    void units(int n, long t) {
        const long sample = first + n, at = t * N + sample;
        T *dh = room.dh + n * z.H, *sums = sums_of(t) + n * w.width;
        const T *h = h_before(t, sample), *gates = s.gates + at * wide, S = s.surprise[at];
        std::memset(sums, 0, z.R * sizeof(T));
        Vec<T> d_pace{};
        for (long j = 0; j < z.H; j += L) {
            const Vec<T> hj = load(h + j, H - j), u = load(gates + j, H - j), d = load(dh + j);
            Vec<T> d_u = d, d_h{};
            if (s.liquid) {  // 9
                const Vec<T> a = load(gates + H + j, H - j), pace = d * (u - hj) * a * (T(1) - a);
                d_u = d * a;
                d_h = d - d_u;
                d_pace += pace;
                store(sums + to_v + z.H + j, pace);
            }
            d_u *= T(1) - u * u;
            store(sums + z.R + j, d_u);  // 8
            store(sums + to_v + j, d_u);
            store(dh + j, d_h);
        }
        const T pace = sum<T>(d_pace);
        gradients.surprise_scale += pace / (T(1) + w.s_scale * S) * S;
        if (s.d_timespans) s.d_timespans[sample * steps + t] = s.liquid ? pace / span_at(s, sample, t) : T(0);
        const T* x = s.x_read ? s.x_read + at * I : s.x + sample * s.x_sample + t * s.x_step;
        leave(sums, h, x, s.error + at * I, s.read + at * R, s.plastic ? s.recalled + at * R : room.nothing);
    }

    // Lines 8 to 6 of a sample: what was recalled, and the adjoints that line 6 asks for.
    void recall(int n, long t) {
        Sample& st = room.sample[n];
        const long at = t * N + first + n;
        const T *g = room.g_now + n * z.R, S = s.surprise[at];
        T *d_found = room.d_found + n * z.R, *cue_key = room.cue_key + n * z.H;
        T *sums = sums_of(t) + n * w.width, *key = room.key_now + n * z.H, *stored = room.stored_now + n * z.H;
        T *d_key = room.d_key + n * z.H, *d_cue_key = room.d_cue_key + n * z.H;
        std::memcpy(key, room.key + n * z.H, z.H * sizeof(T));
        std::memcpy(stored, room.stored + n * z.H, z.H * sizeof(T));
        std::memcpy(room.g_now + n * z.R, room.g + n * z.R, z.R * sizeof(T));

        T along = st.along, found_g = T(0);
        for (long r = 0; r < R; ++r) {
            along += s.recalled[at * R + r] * d_found[r];
            d_found[r] *= root_rho;
            found_g += d_found[r] * g[r];
        }
        times_U(st.replayed ? state(n, t + 1) : room.U + n * z.U(), d_found, d_cue_key, z.ranks, z.H);
        Vec<T> stored_cue{};
        for (long j = 0; j < z.H; j += L) stored_cue += load(stored + j) * load(cue_key + j);
        std::memset(d_key, 0, z.H * sizeof(T));
        if (!s.learns) return;

        const T norm = s.norm[at];  // 7
        st.scale = shrinkage(norm, s);
        st.shrink = norm > T(s.target_norm) && st.scale > T(0) && std::isfinite(norm)
                        ? T(s.kappa) * (T(s.target_norm) / norm) * (along / st.scale / norm) / norm / st.scale
                        : T(0);
        const T overlap = sum<T>(stored_cue), unit = st.unit;  // 6
        for (long r = 0; r < R; ++r) {
            sums[r] = st.scale * (room.by_stored[n * z.R + r] + overlap * d_found[r]);
            if (st.shrink != 0) sums[r] -= st.shrink * room.by_stored_U[n * z.R + r];
        }
        Vec<T> d_unit{};
        for (long j = 0; j < z.H; j += L) {
            const Vec<T> lift = load(w.plasticity.lift + j), m = load(w.plasticity.floor + j) + S * lift, q = load(key + j);
            const Vec<T> part = T(1) / (m + HALF_PLASTICITY<T>), p = m * part;
            Vec<T> d_stored = st.scale * (load(room.by_g + n * z.H + j) + found_g * load(cue_key + j));
            if (st.shrink != 0) d_stored -= st.shrink * load(room.by_g_U + n * z.H + j);
            d_stored *= unit;
            const Vec<T> d_m = d_stored * q * HALF_PLASTICITY<T> * part * part;
            store(gradients.m + j, Vec<T>(load(gradients.m + j) + d_m * (T(1) - S)));
            store(gradients.m + z.H + j, Vec<T>(load(gradients.m + z.H + j) + d_m * S));
            store(d_key + j, Vec<T>(d_stored * p));
            d_unit += d_stored * p * q;
        }
        const T d_squares = T(-2) * w.plasticity.rho * unit * sum<T>(d_unit);
        for (long j = 0; j < z.H; j += L) store(d_key + j, Vec<T>(load(d_key + j) + d_squares * load(key + j)));
    }

    // The way of what was looked up into v.
    void cue(int n, long t) {
        T* d_v = sums_of(t) + n * w.width + to_v;
        for (long j = 0; j < z.H; j += L) {
            const Vec<T> c = load(room.cue + n * z.H + j);
            store(d_v + j, Vec<T>(load(d_v + j) + load(room.d_cue + n * z.H + j) * (T(1) - c * c)));
        }
    }

    // Line 2 of a sample: the error's adjoint, and the prediction's.
    void errors(int n, long t) {
        const long sample = first + n, at = t * N + sample;
        T *sums = sums_of(t) + n * w.width, *predicts = sums + to_predict;
        const T* x = s.x + sample * s.x_sample + t * s.x_step;
        bool gaps = false;
        for (long i = 0; i < I && s.missing; ++i) gaps |= std::isnan(x[i]);
        if (gaps) w.input.times(sums + to_v, w.width, room.filled, z.I, 1);
        for (long i = 0; i < z.I; i += L) {
            Vec<T> de = load(room.de + n * z.I + i);
            if (s.d_error) de += load(s.d_error + at * I + i, I - i);
            Vec<T> d_prediction = -de;
            if (gaps) {
                const Vec<T> given = load(x + i, I - i);
                d_prediction = given == given ? d_prediction : load(room.filled + i);
                de = given == given ? de : Vec<T>{};
            }
            if (s.d_prediction) d_prediction += load(s.d_prediction + at * I + i, I - i);
            if (s.d_x) store(s.d_x + (sample * steps + t) * I + i, de, I - i);
            store(predicts + i, d_prediction);
        }
    }

    // U and its adjoint before the step, what the step before it asks of them, and what the step's keys have.
    void fast_weights(long t) {
        const T *x[2 * BLOCK], *d[2 * BLOCK];
        long count = 0;
        if (t > 0) {
            for (int n = 0; n < samples; ++n) std::memcpy(room.hidden + n * z.H, h_before(t - 1, first + n), H * sizeof(T));
            w.keys.times(room.hidden, z.H, w.k, 0, room.key, z.H, samples);
        }
        for (int n = 0; n < samples; ++n) {
            Sample& st = room.sample[n];
            if (t >= st.steps) continue;
            const long sample = first + n;
            T *U = st.replayed ? state(n, t) : room.U + n * z.U(), *dU = room.dU + n * z.U();
            Pass<T> pass = pass_over(n, st.replayed ? state(n, t + 1) : U, room.key_now + n * z.H);
            const bool shrunk = (look_back(n, t - 1) > T(s.target_norm)) | (st.scale != T(1)) | (st.shrink != T(0));
            if (s.learns) {
                pass.shrink = st.shrink;
                pass.forget = forget(s, sample, t);
                pass.sleep = s.asleep[t * N + sample];
                if (s.d_timespans) s.d_timespans[sample * steps + t] += by_span(n, t, pass);
            }
            auto run = s.learns && !st.replayed ? (shrunk ? adjoint<T, true, true> : adjoint<T, false, true>)
                                                : (shrunk ? adjoint<T, true, false> : adjoint<T, false, false>);
            st.along = run(U, room.target + n * z.U(), dU, pass, z.ranks, z.H);
            T* d_key = room.d_key + n * z.H;
            for (long j = 0; j < z.H; j += L) store(d_key + j, Vec<T>(load(d_key + j) + load(room.from_U + j)));
            x[count] = h_before(t, sample);
            d[count++] = d_key;
            x[count] = room.cue + n * z.H;
            d[count++] = room.d_cue_key + n * z.H;
        }
        keys(x, d, count);
        w.keys_back.times(room.d_key, z.H, room.via_h, z.H, room.via_h, z.H, samples);
    }

    // What a sample's state before the step has.
    void states(int n, long t) {
        T *dh = room.dh + n * z.H, *via_h = room.via_h + n * z.H;
        const T* d_output = t > 0 && s.d_output ? s.d_output + ((t - 1) * N + first + n) * H : nullptr;
        for (long j = 0; j < z.H; j += L) {
            Vec<T> d = load(dh + j) + load(via_h + j);
            if (d_output) d += load(d_output + j, H - j);
            store(dh + j, d);
        }
    }

    // The gradients of K and k from some keys' adjoints.
    void keys(const T* const* x, const T* const* d, long count) {
        if (!gradients.wanted) return;
        w.keys.add_outer(x, d, count, gradients.K);
        for (long k = 0; k < count; ++k)
            for (long j = 0; j < z.H; j += L) store(gradients.k + j, Vec<T>(load(gradients.k + j) + load(d[k] + j)));
    }

    // What f of line 6 has of a span's gradient: <dU", U_target - U> df / dspan, where df / dspan = rate (1 - f)^2.
    T by_span(int n, long t, const Pass<T>& p) const {
        const T *U = state(n, t), *dU = room.dU + n * z.U(), *target = room.targets + (n * s.every + t - start) * z.U();
        Vec<T> total{};
        for (long r = 0; r < z.ranks; ++r)
            for (long j = 0; j < z.H; j += L) {
                const long k = r * z.H + j;
                const Vec<T> d = p.scale * (load(dU + k) + load(p.cue + j) * p.d_found[r]) - p.shrink * load(p.after + k);
                total += d * (load(target + k) - load(U + k));
            }
        const T stays = T(1) - p.forget;
        return sum<T>(total) * T(s.forgetting_rate) * stays * stays;
    }

    // Line 8 and 9's products with the input, for the segment.
    void inputs() {
        w.input.times(room.sums + to_v, w.width, room.dx, z.I, int((end - start) * samples));
        for (int n = 0; n < samples; ++n)
            for (long t = start; t < std::min(end, room.sample[n].steps); ++t) {
                T* to = s.d_x + ((first + n) * steps + t) * I;
                const T* from = room.dx + ((t - start) * samples + n) * z.I;
                const T* x = s.x + (first + n) * s.x_sample + t * s.x_step;
                for (long i = 0; i < z.I; i += L) {
                    Vec<T> d = load(to + i, I - i) + load(from + i);
                    if (s.missing) d = load(x + i, I - i) == load(x + i, I - i) ? d : Vec<T>{};
                    store(to + i, d, I - i);
                }
            }
    }

    void parameters() {
        const auto& left = room.rows_of;
        auto rows_by = [&](const T* const* a) { return Outer<T>(a, left.sums, left.count); };
        rows_by(left.h).add(gradients.state, H, gradients.by_state, gradients.by_state, to_v);
        rows_by(left.x).add(gradients.input, I, gradients.by_input, gradients.by_input, to_v);
        rows_by(left.e).add(gradients.error, I, z.R + z.H, z.R + z.H);
        if (s.d_V) rows_by(left.read).add(gradients.read, R, z.I, z.I, to_predict);
        if (s.plastic) rows_by(left.recalled).add(gradients.recall, R, z.H, z.H, z.R);
        rows_by(left.one).add(gradients.total, 1, w.width, w.width);
    }
};
