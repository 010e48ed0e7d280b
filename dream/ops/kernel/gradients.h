// What the backward pass multiplies by, and the parameters' gradients that it adds up.
#pragma once

#include "keys.h"

template <class T>
struct BackwardWeights {
    explicit BackwardWeights(const Scan<T>& s)
        : z(s),
          gate(s.liquid ? z.H : 0),
          width(z.R + 2 * z.H + gate + z.I),
          error(z.R + s.hidden, z.I),
          read(s.inputs, z.R),
          state(z.H + gate + s.inputs, z.H),
          input(s.d_x || s.missing ? z.H + gate : 0, z.I),
          recall(s.plastic ? s.hidden : 0, z.R),
          keys(s.plastic ? s.K : nullptr, s.hidden, false),
          keys_back(s.plastic ? s.K : nullptr, s.hidden, true),
          k(z.H),
          plasticity(s, z.H),
          s_scale(hastening(s)) {
        const long I = s.inputs, H = s.hidden, R = s.rank;
        error.place(s.V, R, I, 1, R, 0, 0);
        error.place(s.W, H, I, 1, H, z.R, 0);
        read.place(s.V, I, R, R, 1, 0, 0);
        state.place(s.A, H, H, 1, H, 0, 0);
        if (s.liquid) state.place(s.G_h, H, H, 1, H, z.H, 0);
        state.place(s.C, I, H, 1, I, z.H + gate, 0);
        if (s.d_x || s.missing) input.place(s.B, H, I, 1, H, 0, 0);
        if ((s.d_x || s.missing) && s.liquid) input.place(s.G_x, H, I, 1, H, z.H, 0);
        if (!s.plastic) return;
        recall.place(s.D, H, R, 1, H, 0, 0);
        std::memcpy(k, s.k, H * sizeof(T));
    }
    Sizes<T> z;
    long gate, width;  // of the gate's part; of a row of sums: [of e V | of u | of v | of the pace | of the prediction]
    Packed<T> error, read, state, input, recall;  // [V^T; W^T], V, [A^T; G_h^T; C^T], [B^T; G_x^T], D^T
    BlockDiagonal<T> keys, keys_back;  // K, and its transpose
    Buffer<T> k;
    Plasticity<T> plasticity;
    T s_scale;
};

// The parameters' gradients from some of the samples.
template <class T>
struct Gradients {
    Gradients(const Scan<T>& s, const BackwardWeights<T>& w)
        : R(w.z.R),
          H(w.z.H),
          I(w.z.I),
          gate(w.gate),
          key_rows(w.keys.blocks * w.keys.size),
          key_size(w.keys.size),
          wide(w.keys.wide),
          by_state(H + gate + I),
          by_input(H + gate),
          wanted(s.wants_parameters()),
          state(wanted ? s.hidden * by_state : 0),
          input(wanted ? s.inputs * by_input : 0),
          error(wanted ? s.inputs * (R + H) : 0),
          read(wanted ? s.rank * I : 0),
          recall(wanted && s.plastic ? s.rank * H : 0),
          K(wanted && s.plastic ? key_rows * wide : 0),
          k(H),
          total(w.width),
          m(2 * H) {}

    void add(const Gradients& other, const Scan<T>& s) {
        auto sum = [](T* to, const T* from, long n) {
            for (long j = 0; j < n; ++j) to[j] += from[j];
        };
        if (wanted) {
            sum(state, other.state, s.hidden * by_state);
            sum(input, other.input, s.inputs * by_input);
            sum(error, other.error, s.inputs * (R + H));
            sum(read, other.read, s.rank * I);
            if (s.plastic) sum(recall, other.recall, s.rank * H);
            if (s.plastic) sum(K, other.K, key_rows * wide);
        }
        sum(k, other.k, H);
        sum(total, other.total, R + 2 * H + gate + I);
        sum(m, other.m, 2 * H);
        surprise_scale += other.surprise_scale;
    }

    void write(const Scan<T>& s) const {
        const long i = s.inputs, h = s.hidden, r = s.rank;
        auto copy = [](T* to, long rows, long columns, const T* from, long down) {
            for (long j = 0; to && j < rows; ++j) std::memcpy(to + j * columns, from + j * down, columns * sizeof(T));
        };
        copy(s.d_A, h, h, state, by_state);
        copy(s.d_C, h, i, state + H + gate, by_state);
        copy(s.d_B, i, h, input, by_input);
        if (s.liquid) copy(s.d_G_h, h, h, state + H, by_state);
        if (s.liquid) copy(s.d_G_x, i, h, input + H, by_input);
        copy(s.d_W, i, h, error + R, R + H);
        copy(s.d_V, i, r, error, R + H);
        for (long j = 0; s.d_V && j < i; ++j)
            for (long l = 0; l < r; ++l) s.d_V[j * r + l] += read[l * I + j];
        if (s.plastic) {
            copy(s.d_D, r, h, recall, H);
            copy(s.d_K, key_rows, key_size, K, wide);
            copy(s.d_k, 1, h, k, h);
        }
        copy(s.d_b, 1, h, total + R + H, h);
        copy(s.d_c, 1, i, total + R + 2 * H + gate, i);
        for (long j = 0; j < h; ++j) {
            const T calm = m[j], surprised = m[H + j];  // sums of dm (1 - S), and of dm S
            if (s.d_tau && s.liquid) s.d_tau[j] = -total[R + 2 * H + j] / s.tau[j];
            if (s.d_eta) s.d_eta[j] = s.tonic[j] * calm + surprised;
            if (s.d_tonic) s.d_tonic[j] = s.eta[j] * calm;
        }
        if (s.d_surprise_scale) *s.d_surprise_scale = surprise_scale;
    }

    long R, H, I, gate, key_rows, key_size, wide;  // G m, m, and m in whole vectors: of K
    long by_state, by_input;
    bool wanted;
    Buffer<T> state, input, error, read, recall;  // [A | G_h | C], [B | G_x], [V | W], V^T, D
    Buffer<T> K, k, total, m;                     // sums over rows: of keys' adjoints, of all adjoints, and see write
    T surprise_scale = 0;
};
