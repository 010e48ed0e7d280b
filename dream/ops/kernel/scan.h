// What a scan is given, and what its forward and backward passes share.
//
// Shapes are those of fields.h, symbols those of dream/functional.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "product.h"

// See fields.h.
template <class T>
struct Scan {
#define FIELD(type, name) type name;
#include "fields.h"
#undef FIELD

    bool wants_parameters() const {
        const T* gradients[] = {d_C, d_c,   d_W,     d_B,   d_b,              d_A, d_G_x, d_G_h,
                                d_V, d_eta, d_tonic, d_tau, d_surprise_scale, d_K, d_k,   d_D};
        return std::any_of(std::begin(gradients), std::end(gradients), [](const T* wanted) { return wanted != nullptr; });
    }
};

// "type name;" of every field, in order.
constexpr char SCHEMA[] =
#define FIELD(type, name) #type " " #name ";"
#include "fields.h"
#undef FIELD
    ;

// The constants of the definition, as in dream/functional.py.
template <class T>
constexpr T EPS = T(1e-6);
template <class T>
constexpr T HALF_PLASTICITY = T(0.1);
template <class T>
constexpr T OUTLIER = T(5);
template <class T>
constexpr T MAX_ENTROPY = T(2);
template <class T>
constexpr T FARTHEST = T(1e15);
// Half of the largest number whose square is finite; as in dream/numerics.py.
template <class T>
constexpr T HALF_LARGEST = T(sizeof(T) == 4 ? 0x1p63 : 0x1p511);
constexpr long KEY_BLOCK = 16;  // units whose keys are mixed among themselves
constexpr long UNROLL = 4;  // ranks whose fast weights are passed over together

// Padded sizes: I, H and R in whole vectors, H in whole blocks of keys, too, and the ranks of U in whole groups.
template <class T>
struct Sizes {
    explicit Sizes(const Scan<T>& s)
        : I(padded<T>(s.inputs)),
          H(s.hidden > KEY_BLOCK ? (s.hidden + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK : padded<T>(s.hidden)),
          ranks((s.rank + UNROLL - 1) / UNROLL * UNROLL), R(padded<T>(ranks)) {}
    long I, H, ranks, R;
    long U() const { return ranks * H; }
};

constexpr long BLOCK = 8;  // samples, at most

// Samples are computed in blocks that share their products; a block never depends on another.
template <class T>
struct Blocks {
    explicit Blocks(const Scan<T>& s) {
        const long rounds = std::max(1L, long(s.samples + BLOCK * s.threads - 1) / long(BLOCK * s.threads));
        size = std::max(1L, long(s.samples + s.threads * rounds - 1) / long(s.threads * rounds));
        count = (s.samples + size - 1) / size;
    }
    long size, count;
};

template <class T>
inline T shrinkage(T norm, const Scan<T>& s) {  // line 7
    const T target = T(s.target_norm), kappa = T(s.kappa);
    return norm > target ? (T(1) - kappa) + kappa * (target / norm) : T(1);
}

template <class T>
inline long steps_of(const Scan<T>& s, long sample) {
    return s.lengths ? s.lengths[sample] : s.steps;
}

template <class T>
inline T span_at(const Scan<T>& s, long sample, long t) {
    return s.timespans ? s.timespans[sample * s.span_sample + t * s.span_step] : T(1);
}

// f of line 6 at one step of a sample; its derivative by the span is rate * (1 - f)^2.
template <class T>
inline T forget(const Scan<T>& s, long sample, long t) {
    const T rate = T(s.forgetting_rate) * span_at(s, sample, t);
    return rate / (T(1) + rate);
}

// rho, the square of the length of V's columns.
template <class T>
inline T rho_of(const Scan<T>& s) {
    return T(std::min(s.inputs, s.rank));
}

// What plasticity needs of a unit, padded: m = floor + S * lift, the share of eta that is always on and what surprise adds.
template <class T>
struct Plasticity {
    Plasticity(const Scan<T>& s, long H) : rho(rho_of(s)), H(H), floor(s.learns ? H : 0), lift(s.learns ? H : 0) {
        constexpr long L = Simd<T>::lanes;
        for (long j = 0; j < H && s.learns; j += L) {
            Vec<T> eta = load(s.eta + j, s.hidden - j), tonic = load(s.tonic + j, s.hidden - j);
            if (s.raw) eta = exp<T>(eta), tonic = sigmoid<T>(tonic);
            store(floor + j, Vec<T>(tonic * eta), s.hidden - j);
            store(lift + j, Vec<T>((T(1) - tonic) * eta), s.hidden - j);
        }
    }
    T rho;
    long H;
    Buffer<T> floor, lift;

    // stored_j = p_j q_j / (rho (1 + |q|^2)) of line 6, for the key q; returns 1 / (rho (1 + |q|^2)).
    T store_key(const T* q, T S, T* stored) const {
        constexpr long L = Simd<T>::lanes;
        Vec<T> squares{};
        for (long j = 0; j < H; j += L) squares += load(q + j) * load(q + j);
        const T unit = T(1) / (rho * (T(1) + sum<T>(squares)));
        for (long j = 0; j < H; j += L) {
            const Vec<T> m = load(floor + j) + S * load(lift + j);
            store(stored + j, Vec<T>(m / (m + HALF_PLASTICITY<T>)*load(q + j) * unit));
        }
        return unit;
    }
};

// s, how far surprise shortens the time constants.
template <class T>
inline T hastening(const Scan<T>& s) {
    return !s.surprise_scale ? T(0) : s.raw ? std::exp(*s.surprise_scale) : *s.surprise_scale;
}
