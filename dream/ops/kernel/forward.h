// The forward pass: lines 1 to 11 for a block of samples, all steps.
#pragma once

#include "fast_weights.h"

constexpr long AHEAD = 8;  // steps whose input products are made together

// The parameters, each product's in one matrix: Packed, or Loose.
template <class T, template <class> class Matrix>
struct ForwardWeights {
    explicit ForwardWeights(const Scan<T>& s)
        : z(s),
          gate(s.liquid ? z.H : 0),
          state(s.hidden, z.H + gate + z.I),
          error(s.inputs, z.R + z.H),
          input(s.inputs, z.H + gate),
          recall(s.plastic ? s.rank : 0, z.H),
          read(s.plastic ? s.rank : 0, z.I),
          keys(s.plastic ? s.K : nullptr, s.hidden, false),
          plasticity(s, z.H),
          filter(s.plastic ? s.rank * z.I : 0),
          c(z.I),
          valid(z.I),
          bias(z.H + gate),
          k(z.H),
          s_scale(hastening(s)) {
        constexpr long L = Simd<T>::lanes;
        const long I = s.inputs, H = s.hidden, R = s.rank;
        state.place(s.A, H, H, H, 1, 0, 0);
        if (s.liquid) state.place(s.G_h, H, H, H, 1, 0, z.H);
        state.place(s.C, H, I, I, 1, 0, z.H + gate);
        error.place(s.V, I, R, R, 1, 0, 0);
        error.place(s.W, I, H, H, 1, 0, z.R);
        input.place(s.B, I, H, H, 1, 0, 0);
        if (s.liquid) input.place(s.G_x, I, H, H, 1, 0, z.H);
        if (s.plastic) recall.place(s.D, R, H, H, 1, 0, 0);
        if (s.plastic) std::memcpy(k, s.k, H * sizeof(T));
        std::memcpy(bias, s.b, H * sizeof(T));
        for (long j = 0; j < H && s.liquid; ++j) bias[z.H + j] = -(s.raw ? s.tau[j] : std::log(s.tau[j]));
        std::memcpy(c, s.c, I * sizeof(T));
        Vec<T> logs{};
        for (long i = 0; i < z.I; i += L) {
            store(valid + i, all(T(1)), I - i);
            logs += load(valid + i) * log<T>(load(s.error_var_prior + i, I - i) + EPS<T>);
        }
        prior = T(0.5) * (T(2.8378770664093453) - sum<T>(logs) / T(I));  // ln(2 pi e)
        for (long i = 0; i < I && s.plastic; ++i)
            for (long r = 0; r < R; ++r) filter[r * z.I + i] = s.V[i * R + r];
        if (s.plastic) read.place(filter, R, I, z.I, 1, 0, 0);
    }
    Sizes<T> z;
    long gate;                                    // width of the gate's part
    Matrix<T> state, error, input, recall, read;  // [A | G_h | C], [V | W], [B | G_x], D, V^T
    BlockDiagonal<T> keys;
    Plasticity<T> plasticity;
    Buffer<T> filter, c, valid, bias, k;          // V^T, row by row; c; 1 where there is an input; b and -ln tau; k
    T s_scale, prior;                             // s; what line 4 has of var_0
};

template <class T>
struct ForwardRoom {
    template <class Weights>
    ForwardRoom(const Scan<T>& s, const Weights& w, long samples)
        : h(samples * w.z.H),
          e(samples * w.z.I),
          from_h(samples * w.state.width),
          from_e(samples * w.error.width),
          ahead(std::min(AHEAD, long(s.steps)) * samples),
          x(ahead * w.z.I),
          from_x(ahead * w.input.width),
          mean(samples * w.z.I),
          var(samples * w.z.I),
          key(samples * w.z.H),
          read(samples * w.z.R),
          from_read(samples * w.z.I),
          v(samples * w.z.H),
          cue(samples * w.z.H),
          cue_key(samples * w.z.H),
          stored(w.z.H),
          recalled(samples * w.z.R),
          from_o(samples * w.z.H),
          seen(s.missing ? ahead * w.z.I : 0),
          observed(s.missing ? ahead : 0),
          filled(s.missing ? w.z.I : 0),
          from_filled(s.missing ? w.input.width : 0),
          U(s.plastic ? samples * w.z.U() : 0),
          U_target(s.learns ? samples * w.z.U() : 0),
          sample(samples) {}

    struct Sample {
        long steps;
        T threshold, avg, S;
        T scale, sleep;  // what is still to be done to U and U_target: line 7, then line 11
        T u_norm;
    };
    Buffer<T> h, e, from_h, from_e;
    long ahead;  // rows of x whose products are made together, at most
    Buffer<T> x, from_x, mean, var;
    Buffer<T> key, read, from_read;  // q of line 6, q U and (q U) V^T
    Buffer<T> v, cue, cue_key;      // of line 8: v, tanh(v) and its key
    Buffer<T> stored;               // of line 6: p q / (rho (1 + |q|^2))
    Buffer<T> recalled, from_o;     // o, and o D
    Buffer<T> seen;                 // 1 where x was observed, for all rows of x
    Buffer<long> observed;          // how many of a row were
    Buffer<T> filled, from_filled;  // predictions in place of what was not, and their products
    Buffer<T> U, U_target;
    Buffer<Sample> sample;
};

// Line 3 where an error may be FARTHEST usual deviations away, and count no more.
template <class T>
T far_deviation(const Scan<T>& s, const T* e, const T* mean, const T* var, const T* seen, long count) {
    T squares = 0;
    for (long i = 0; i < s.inputs; ++i) {
        if (seen && seen[i] == T(0)) continue;
        const T z = (e[i] - mean[i]) / std::sqrt(var[i] + EPS<T>);
        const T counted = z > FARTHEST<T> ? FARTHEST<T> : z < -FARTHEST<T> ? -FARTHEST<T> : z;  // NaN stays NaN
        squares += counted * counted;
    }
    return std::sqrt(squares / T(count));
}

// The norm of n numbers whose squares overflow: as in dream/numerics.py.
template <class T>
T large_norm(const T* U, long n) {
    constexpr T unit = T(sizeof(T) == 4 ? 0x1p32 : 0x1p256);
    T squares = 0;
    for (long k = 0; k < n; ++k) squares += (U[k] / unit) * (U[k] / unit);
    return std::sqrt(squares) * unit;
}

// Weights: ForwardWeights of either kind.
template <class T, class Weights>
class Forward {
  public:
    Forward(const Scan<T>& s, const Weights& w, ForwardRoom<T>& room, long first, int samples)
        : s(s), w(w), room(room), first(first), samples(samples) {}

    void run() {
        for (int n = 0; n < samples; ++n) longest = std::max(longest, begin(n));
        for (long t = 0; t < longest; ++t) step(t);
        if (s.forecasts) {
            times_state();
            for (int n = 0; n < samples; ++n)
                if (room.sample[n].steps == longest) predict(n, longest);
        }
        for (int n = 0; n < samples; ++n) {
            finish(n);
            pad(n);
        }
    }

  private:
    static constexpr long L = Simd<T>::lanes;
    const Scan<T>& s;
    const Weights& w;
    ForwardRoom<T>& room;
    const long first;
    const int samples;
    const Sizes<T>& z = w.z;
    const long I = s.inputs, H = s.hidden, R = s.rank, N = s.samples;
    const long wide = s.liquid ? 2 * H : H;
    const T log_step = T(std::log(s.time_step)), root_rho = std::sqrt(w.plasticity.rho);
    const T near = FARTHEST<T> / std::sqrt(T(I));  // below it no deviation of line 3 is beyond FARTHEST
    long longest = 0;

    T* U_of(int n) const { return room.U + n * z.U(); }
    T* target_of(int n) const { return room.U_target + n * z.U(); }

    // The state before the first step. Returns the steps of the sample.
    long begin(int n) {
        const long sample = first + n;
        auto& st = room.sample[n];
        T *h = room.h + n * z.H, *read = room.read + n * z.R;
        auto fetch = [](T* to, const T* from, long n, long whole) {  // what lies beyond n may be another sample's NaN
            std::memcpy(to, from, n * sizeof(T));
            std::memset(to + n, 0, (whole - n) * sizeof(T));
        };
        fetch(h, s.h + sample * H, H, z.H);
        fetch(room.mean + n * z.I, s.error_mean + sample * I, I, z.I);
        fetch(room.var + n * z.I, s.error_var + sample * I, I, z.I);
        std::memset(read, 0, z.R * sizeof(T));
        std::memset(room.recalled + n * z.R, 0, z.R * sizeof(T));
        st = {steps_of(s, sample), s.adaptive_tau[sample], s.avg_surprise[sample], 0, T(1), T(0), 0};
        if (s.plastic) {
            if (z.U() != H * R) std::memset(U_of(n), 0, z.U() * sizeof(T));
            to_lanes(s.U + sample * H * R, U_of(n), s, z.H);
            if (s.learns && z.U() != H * R) std::memset(target_of(n), 0, z.U() * sizeof(T));
            if (s.learns) to_lanes(s.U_target + sample * H * R, target_of(n), s, z.H);
            w.keys.times(h, z.H, w.k, 0, room.key + n * z.H, z.H, 1);
            read_key(n);
        }
        if (!s.learns) {  // its norm does not change
            double squares = 0;
            for (long k = 0; k < H * R; ++k) squares += double(s.U[sample * H * R + k]) * double(s.U[sample * H * R + k]);
            st.u_norm = std::isfinite(squares) ? T(std::sqrt(squares)) : large_norm(s.U + sample * H * R, H * R);
        }
        return st.steps;
    }

    void step(long t) {
        if (s.U_kept && t % s.every == 0 && (s.learns || t == 0))
            for (int n = 0; n < samples; ++n) keep(n, t);
        if (t % AHEAD == 0) read_ahead(t);
        times_state();
        for (int n = 0; n < samples; ++n) {
            const long steps = room.sample[n].steps;
            if (t < steps || (t == steps && s.forecasts)) predict(n, t);
            if (t < steps) habituate(n, t, surprise(n, t));
        }
        w.error.times(room.e, z.I, room.from_e, w.error.width, samples);
        if (s.plastic) {
            for (int n = 0; n < samples; ++n)
                if (t < room.sample[n].steps) look_up(n, t);
            w.keys.times(room.cue, z.H, w.k, 0, room.cue_key, z.H, samples);
            for (int n = 0; n < samples; ++n)
                if (t < room.sample[n].steps) fast_weights(n, t);
            w.recall.times(room.recalled, z.R, room.from_o, z.H, samples);
        }
        for (int n = 0; n < samples; ++n)
            if (t < room.sample[n].steps) units(n, t);
        if (!s.plastic) return;
        w.keys.times(room.h, z.H, w.k, 0, room.key, z.H, samples);
        for (int n = 0; n < samples; ++n)
            if (t < room.sample[n].steps) read_key(n);
    }

    // What U holds under the key of h.
    void read_key(int n) {
        read_U<T>(U_of(n), room.key + n * z.H, room.sample[n].scale, room.read + n * z.R, z.ranks, z.H);
    }

    // U and U_target before a segment, for the backward pass.
    void keep(int n, long t) {
        const auto& st = room.sample[n];
        const T *U = U_of(n), *target = target_of(n);
        const long at = ((t / s.every) * N + first + n) * R * H;
        for (long r = 0; r < R; ++r)
            for (long j = 0; j < z.H; j += L) {
                const Vec<T> u = st.scale * load(U + r * z.H + j);
                store(s.U_kept + at + r * H + j, u, H - j);
                if (!s.learns) continue;
                const Vec<T> v = load(target + r * z.H + j);
                store(s.U_target_kept + at + r * H + j, Vec<T>(v + st.sleep * (u - v)), H - j);
            }
    }

    // The input's products for some steps at once.
    void read_ahead(long t) {
        const long ahead = std::min(AHEAD, longest - t);
        for (long k = 0; k < ahead; ++k)
            for (int n = 0; n < samples; ++n) {
                const long row = k * samples + n;
                std::memcpy(room.x + row * z.I, s.x + (first + n) * s.x_sample + (t + k) * s.x_step, I * sizeof(T));
                if (s.missing) look(row);
            }
        w.input.times(room.x, z.I, room.from_x, w.input.width, int(ahead * samples));
    }

    // What of a row of x was observed; 0 in place of what was not.
    void look(long row) {
        T *x = room.x + row * z.I, *seen = room.seen + row * z.I;
        room.observed[row] = 0;
        for (long i = 0; i < I; ++i) {
            const bool there = !std::isnan(x[i]);
            seen[i] = T(there);
            room.observed[row] += there;
            if (!there) x[i] = T(0);
        }
    }

    // Predictions, which e holds, in place of what was not observed: in x and in its products.
    void fill(int n, long row) {
        T *x = room.x + row * z.I, *from_x = room.from_x + row * w.input.width;
        const T *seen = room.seen + row * z.I, *expected = room.e + n * z.I;
        for (long i = 0; i < I; ++i) {
            room.filled[i] = seen[i] == T(0) ? expected[i] : T(0);
            x[i] += room.filled[i];
        }
        w.input.times(room.filled, z.I, room.from_filled, w.input.width, 1);
        for (long j = 0; j < w.input.width; ++j) from_x[j] += room.from_filled[j];
    }

    void times_state() {
        w.state.times(room.h, z.H, room.from_h, w.state.width, samples);
        if (s.plastic) w.read.times(room.read, z.R, room.from_read, z.I, samples);
    }

    // Line 1.
    void predict(int n, long t) {
        const long at = t * N + first + n;
        const T *from_h = room.from_h + n * w.state.width + z.H + w.gate, *from_read = room.from_read + n * z.I;
        T* e = room.e + n * z.I;
        if (s.read) std::memcpy(s.read + at * R, room.read + n * z.R, R * sizeof(T));
        for (long i = 0; i < z.I; i += L) {
            const Vec<T> prediction = load(w.c + i) + load(from_h + i) + load(from_read + i);
            store(e + i, prediction);
            store(s.prediction + at * I + i, prediction, I - i);
        }
    }

    // Lines 2 to 5; e holds the prediction, then the error. Returns r.
    T surprise(int n, long t) {
        auto& st = room.sample[n];
        const long at = t * N + first + n, row = t % AHEAD * samples + n;
        const T *x = room.x + row * z.I, *mean = room.mean + n * z.I, *var = room.var + n * z.I;
        const long count = s.missing ? room.observed[row] : I;
        const T* seen = count < I ? room.seen + row * z.I : nullptr;
        T* e = room.e + n * z.I;
        if (seen) fill(n, row);
        if (s.x_read) std::memcpy(s.x_read + at * I, x, I * sizeof(T));
        Vec<T> squares{}, logs{};
        for (long i = 0; i < z.I; i += L) {
            Vec<T> error = load(x + i) - load(e + i);  // 2
            if (seen) error = load(seen + i) == T(0) ? Vec<T>{} : error;
            store(e + i, error);
            store(s.error + at * I + i, error, I - i);
            const Vec<T> usual = load(var + i) + EPS<T>, apart = error - load(mean + i), far = apart * apart / usual;
            squares += seen ? load(seen + i) * far : far;
            logs += load(w.valid + i) * log<T>(usual);
        }
        T r = std::sqrt(sum<T>(squares) / T(std::max(count, 1L)));  // 3
        if (!(r < near)) r = far_deviation(s, e, mean, var, seen, count);
        const T entropy = std::min(std::max(w.prior + T(0.5) * sum<T>(logs) / T(I), T(0)), MAX_ENTROPY<T>);  // 4
        const T over = (r - st.threshold * (T(1) + T(s.entropy_influence) * entropy)) / T(s.surprise_temperature);
        st.S = count ? sigmoid<T>(all(over))[0] : T(0);  // 5
        s.surprise[at] = st.S;
        s.deviation[at] = r;
        return r;
    }

    // Line 10.
    void habituate(int n, long t, T r) {
        auto& st = room.sample[n];
        const long row = t % AHEAD * samples + n, count = s.missing ? room.observed[row] : I;
        if (count == 0) return;
        const T* seen = count < I ? room.seen + row * z.I : nullptr;
        const T *e = room.e + n * z.I, beta = T(s.error_smoothing), beta_s = T(s.surprise_smoothing), base = T(s.base_threshold);
        T *mean = room.mean + n * z.I, *var = room.var + n * z.I;
        for (long i = 0; i < z.I; i += L) {
            const Vec<T> old_mean = load(mean + i), old_var = load(var + i), usual = old_var + EPS<T>;
            const Vec<T> apart = load(e + i) - old_mean, far = OUTLIER<T> * square_root<T>(usual);
            const Vec<T> limit = far < HALF_LARGEST<T> ? far : all(HALF_LARGEST<T>);
            const Vec<T> d = clamp<T>(apart, -limit, limit);
            Vec<T> new_mean = old_mean + beta * d, new_var = (T(1) - beta) * (old_var + beta * d * d);
            if (seen) {
                new_mean = load(seen + i) == T(0) ? old_mean : new_mean;
                new_var = load(seen + i) == T(0) ? old_var : new_var;
            }
            store(mean + i, new_mean);
            store(var + i, new_var);
        }
        st.avg += beta_s * (st.S - st.avg);
        st.threshold = std::max(st.threshold + beta_s * ((T(1) + base) * std::min(r, T(2)) - st.threshold), base);
    }

    // v of line 8 but for what the caller adds: x B + b + h A.
    Vec<T> v_of(int n, long t, long j) const {
        const T* from_x = room.from_x + (t % AHEAD * samples + n) * w.input.width;
        return load(from_x + j) + load(w.bias + j) + load(room.from_h + n * w.state.width + j);
    }

    // v of line 8, and the tanh that is looked up.
    void look_up(int n, long t) {
        const long at = t * N + first + n;
        for (long j = 0; j < z.H; j += L) {
            const Vec<T> v = v_of(n, t, j), cue = tanh<T>(v);
            store(room.v + n * z.H + j, v);
            store(room.cue + n * z.H + j, cue);
            if (s.cue) store(s.cue + at * H + j, cue, H - j);
        }
    }

    // Line 6, what lines 7 and 11 will do in the next pass over U, and what line 8 recalls.
    void fast_weights(int n, long t) {
        auto& st = room.sample[n];
        const long at = t * N + first + n;
        const T *g = room.from_e + n * w.error.width, *cue_key = room.cue_key + n * z.H;
        T* found = room.recalled + n * z.R;
        if (s.filtered) std::memcpy(s.filtered + at * R, g, R * sizeof(T));
        if (s.learns) {
            const auto pass = st.sleep != 0 ? learn<T, true> : learn<T, false>;
            const T forgets = forget(s, first + n, t);
            w.plasticity.store_key(room.key + n * z.H, st.S, room.stored);
            T norm = std::sqrt(
                pass(U_of(n), target_of(n), room.stored, g, cue_key, found, st.scale, st.sleep, forgets, z.ranks, z.H));
            if (!std::isfinite(norm)) norm = large_norm(U_of(n), z.U());
            st.scale = shrinkage(norm, s);                                                      // 7
            st.sleep = st.avg > T(s.min_surprise_for_sleep) ? T(s.sleep_rate) * st.avg : T(0);  // 11
            st.u_norm = norm * st.scale;
            for (long r = 0; r < R; ++r) found[r] *= st.scale * root_rho;
            if (s.norm) {
                s.norm[at] = norm;
                s.asleep[at] = st.sleep;
            }
        } else {
            read_U<T>(U_of(n), cue_key, root_rho, found, z.ranks, z.H);
        }
        if (s.recalled) std::memcpy(s.recalled + at * R, found, R * sizeof(T));
    }

    // Lines 8 and 9.
    void units(int n, long t) {
        const auto& st = room.sample[n];
        const long at = t * N + first + n;
        const T *from_h = room.from_h + n * w.state.width, *from_e = room.from_e + n * w.error.width + z.R;
        const T* from_x = room.from_x + (t % AHEAD * samples + n) * w.input.width;
        T* h = room.h + n * z.H;
        const T pace = log_step + (s.timespans ? std::log(span_at(s, first + n, t)) : T(0)) + std::log1p(w.s_scale * st.S);
        for (long j = 0; j < z.H; j += L) {
            const Vec<T> hj = load(h + j);
            const Vec<T> v = s.plastic ? load(room.v + n * z.H + j) + load(room.from_o + n * z.H + j) : v_of(n, t, j);
            const Vec<T> u = tanh<T>(v + load(from_e + j));  // 8
            Vec<T> next = u;
            if (s.liquid) {  // 9
                const Vec<T> own = load(from_x + z.H + j) + load(w.bias + z.H + j);
                const Vec<T> a = sigmoid<T>(own + load(from_h + z.H + j) + pace), apart = u - hj;
                next = a < T(0.5) ? hj + a * apart : u - apart * (T(1) - a);
                if (s.gates) store(s.gates + at * wide + H + j, a, H - j);
            }
            if (s.gates) store(s.gates + at * wide + j, u, H - j);
            store(h + j, next);
            store(s.output + at * H + j, next, H - j);
        }
        s.u_norm[at] = st.u_norm;
    }

    // The state after the last step.
    void finish(int n) {
        const long sample = first + n;
        const auto& st = room.sample[n];
        std::memcpy(s.h_ + sample * H, room.h + n * z.H, H * sizeof(T));
        std::memcpy(s.error_mean_ + sample * I, room.mean + n * z.I, I * sizeof(T));
        std::memcpy(s.error_var_ + sample * I, room.var + n * z.I, I * sizeof(T));
        s.adaptive_tau_[sample] = st.threshold;
        s.avg_surprise_[sample] = st.avg;
        if (s.learns) {
            T *U = U_of(n), *target = target_of(n);
            for (long k = 0; k < z.U(); k += L) {
                const Vec<T> u = st.scale * load(U + k), v = load(target + k);
                store(U + k, u);
                store(target + k, Vec<T>(v + st.sleep * (u - v)));
            }
            from_lanes(U, s.U_ + sample * H * R, s, z.H);
            from_lanes(target, s.U_target_ + sample * H * R, s, z.H);
        } else {
            std::memcpy(s.U_ + sample * H * R, s.U + sample * H * R, H * R * sizeof(T));
            std::memcpy(s.U_target_ + sample * H * R, s.U_target + sample * H * R, H * R * sizeof(T));
        }
    }

    // Zeros where the sample is padded.
    void pad(int n) {
        const long sample = first + n, steps = room.sample[n].steps;
        auto blank = [](T* array, long index, long width) {
            if (array) std::memset(array + index * width, 0, width * sizeof(T));
        };
        for (long t = steps; t <= s.steps; ++t) {
            const long at = t * N + sample;
            if (t > steps) {
                blank(s.prediction, at, I);
                blank(s.read, at, R);
            }
            if (t == s.steps) break;
            if (t % s.every == 0 && t >= longest && s.learns) {
                blank(s.U_kept, t / s.every * N + sample, R * H);
                blank(s.U_target_kept, t / s.every * N + sample, R * H);
            }
            blank(s.output, at, H);
            blank(s.error, at, I);
            blank(s.filtered, at, R);
            blank(s.recalled, at, R);
            blank(s.gates, at, wide);
            blank(s.cue, at, H);
            blank(s.x_read, at, I);
            blank(s.norm, at, 1);
            blank(s.asleep, at, 1);
            blank(s.surprise, at, 1);
            blank(s.deviation, at, 1);
            blank(s.u_norm, at, 1);
        }
    }
};
