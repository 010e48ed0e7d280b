// What the backward pass multiplies by, and the parameters' gradients that it adds up.
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

// The parameters' gradients from some of the samples.
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
