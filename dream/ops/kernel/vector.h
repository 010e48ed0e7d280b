// SIMD vectors of T (float or double) as wide as the target allows, and elementary functions on them.
//
// GCC and Clang vector extensions: the same source serves AVX-512 and AVX2.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <immintrin.h>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#else
constexpr int BYTES = 32;
#endif

template <class T>
struct Simd {
    static constexpr int lanes = BYTES / sizeof(T);
    using Word = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef T V __attribute__((vector_size(BYTES)));
    typedef Word M __attribute__((vector_size(BYTES)));
    typedef T Unaligned __attribute__((vector_size(BYTES), aligned(sizeof(T))));
    static constexpr int mantissa = std::numeric_limits<T>::digits - 1;
};
template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using Bits = typename Simd<T>::M;

template <class T>
constexpr long padded(long n) {
    return (n + Simd<T>::lanes - 1) / Simd<T>::lanes * Simd<T>::lanes;
}

template <class To, class From>
inline To bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class T>
inline Vec<T> all(T value) {
    return Vec<T>{} + value;
}

// As vectors of T, which may lie where T does and nowhere else: a pointer that is read in a loop is then read before it.
template <class T>
inline Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <class T>
inline void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

// The first n lanes, zeros beyond: the end of a row that is not padded.
template <class T>
inline Vec<T> load(const T* p, long n) {
    if (n >= Simd<T>::lanes) return load(p);
    Vec<T> v{};
    if (n > 0) std::memcpy(&v, p, n * sizeof(T));
    return v;
}

template <class T>
inline void store(T* p, Vec<T> v, long n) {
    if (n >= Simd<T>::lanes) return store(p, v);
    for (long k = 0; k < n; ++k) p[k] = v[k];
}

// The half of a vector's lanes, and so on down to one: sums in a tree.
template <class T, int N>
inline T sum_lanes(const T* v) {
    if constexpr (N == 1) {
        return v[0];
    } else {
        typedef T Half __attribute__((vector_size(N / 2 * sizeof(T))));
        Half low, high;
        std::memcpy(&low, v, sizeof low);
        std::memcpy(&high, v + N / 2, sizeof high);
        low += high;
        return sum_lanes<T, N / 2>(reinterpret_cast<const T*>(&low));
    }
}

template <class T>
inline T sum(Vec<T> v) {
    return sum_lanes<T, Simd<T>::lanes>(reinterpret_cast<const T*>(&v));
}

// Lanes with the bit `half` set of a change places with those without it of b: a step of a transposition.
template <class T>
inline __attribute__((always_inline)) void exchange(Vec<T>& a, Vec<T>& b, long half) {
    constexpr int lanes = Simd<T>::lanes;
#if defined(__clang__)
    for (int k = 0; k < lanes; ++k) {
        if (k & half) continue;
        const T kept = a[k + half];
        a[k + half] = b[k];
        b[k] = kept;
    }
#else
    Bits<T> low, high;  // lanes of a, then of b
    for (int k = 0; k < lanes; ++k) {
        low[k] = k & half ? lanes + k - half : k;
        high[k] = k & half ? lanes + k : k + half;
    }
    const Vec<T> first = __builtin_shuffle(a, b, low);
    b = __builtin_shuffle(a, b, high);
    a = first;
#endif
}

// The sums of four vectors' lanes.
template <class T>
inline void sums(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d, T* to) {
    exchange<T>(a, b, 1);
    exchange<T>(c, d, 1);
    a += b;  // even lanes hold what is left of a, odd ones of b
    c += d;
    exchange<T>(a, c, 2);
    a += c;
    T* lanes = reinterpret_cast<T*>(&a);
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));
    Four total, part;
    std::memcpy(&total, lanes, sizeof total);
    for (int k = 4; k < Simd<T>::lanes; k += 4) {
        std::memcpy(&part, lanes + k, sizeof part);
        total += part;
    }
    std::memcpy(to, &total, sizeof total);
}

#if defined(__AVX512F__)
#define INSTRUCTION(name, ...) \
    if constexpr (sizeof(T) == 4) return _mm512_##name##_ps(__VA_ARGS__); \
    else return _mm512_##name##_pd(__VA_ARGS__)
#else
#define INSTRUCTION(name, ...) \
    if constexpr (sizeof(T) == 4) return _mm256_##name##_ps(__VA_ARGS__); \
    else return _mm256_##name##_pd(__VA_ARGS__)
#endif

template <class T>
inline Vec<T> square_root(Vec<T> x) {
    INSTRUCTION(sqrt, x);
}

// x, but no more than the limit; NaN stays NaN: of two operands one of which is NaN the instruction gives the second.
template <class T>
inline Vec<T> at_most(Vec<T> x, Vec<T> limit) {
    INSTRUCTION(min, limit, x);
}

template <class T>
inline Vec<T> at_least(Vec<T> x, Vec<T> limit) {
    INSTRUCTION(max, limit, x);
}
#undef INSTRUCTION

template <class T>
inline Vec<T> clamp(Vec<T> x, Vec<T> low, Vec<T> high) {
    return at_most<T>(at_least<T>(x, low), high);
}

// exp(y) = power * (1 + fraction), |y| <= 87 in float32, 708 in float64: y = n ln 2 + r, |r| <= ln(2) / 2, power = 2^n and
// fraction = exp(r) - 1: in float32 r + r^2 p(r), p fitted for the least error, 4e-9 of exp(r); in float64 its Taylor series,
// whose first term left out is below half an ulp.
template <class T>
inline void exponential(Vec<T> y, Vec<T>& power, Vec<T>& fraction) {
    constexpr bool single = sizeof(T) == 4;
    constexpr T round = single ? T(0x1.8p23 + 127) : T(0x1.8p52 + 1023);  // adding it leaves n + bias in the low bits
    constexpr T ln2_high = single ? T(0x1.62e4p-1) : T(0x1.62e42fefap-1);
    constexpr T ln2_low = single ? T(0x1.7f7d1cp-20) : T(0x1.cf79abc9e3b3ap-40);
    const Vec<T> shifted = y * T(0x1.71547652b82fep0) + round, n = shifted - round;
    const Vec<T> r = (y - n * ln2_high) - n * ln2_low;
    constexpr int terms = single ? 6 : 13;
    constexpr double factors[][14] = {
        {0, 1, 0x1.fffffcp-2, 0x1.555492p-3, 0x1.5558f2p-5, 0x1.123a2p-7, 0x1.6a23dp-10},
        {0, 1, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
         1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800}};
    Vec<T> series = all(T(factors[!single][terms]));
#pragma GCC unroll 16
    for (int k = terms - 1; k >= 1; --k) series = series * r + T(factors[!single][k]);
    fraction = series * r;
    power = bits<Vec<T>>(Bits<T>(bits<Bits<T>>(shifted) << Simd<T>::mantissa));
}

template <class T>
inline Vec<T> magnitude(Vec<T> x) {
    using M = Bits<T>;
    return bits<Vec<T>>(M(bits<M>(x) & std::numeric_limits<typename Simd<T>::Word>::max()));
}

// exp(x), x held to where it is finite and normal.
template <class T>
inline Vec<T> exp(Vec<T> x) {
    constexpr T limit = sizeof(T) == 4 ? 87 : 708;
    Vec<T> power, fraction;
    exponential<T>(clamp<T>(x, all(-limit), all(limit)), power, fraction);
    return power + power * fraction;
}

// 1 / (1 + exp(-x)), 0 where exp(-x) might overflow.
template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
    const Vec<T> limit = all(T(sizeof(T) == 4 ? 87 : 708));
    Vec<T> power, fraction;
    exponential<T>(-clamp<T>(x, -limit, limit), power, fraction);
    const Vec<T> result = T(1) / (T(1) + (power + power * fraction));
    return x < -limit ? Vec<T>{} : result;
}

// (exp(2 |x|) - 1) / (exp(2 |x|) + 1) with the sign of x: relative accuracy near 0, never above 1.
template <class T>
inline Vec<T> tanh(Vec<T> x) {
    using M = Bits<T>;
    Vec<T> power, fraction;
    exponential<T>(at_most<T>(magnitude<T>(x) * T(2), all(T(40))), power, fraction);
    const Vec<T> expm1 = power * fraction + (power - T(1)), t = expm1 / (expm1 + T(2));
    const M sign = bits<M>(x) & std::numeric_limits<typename Simd<T>::Word>::min();
    return bits<Vec<T>>(M(bits<M>(t) | sign));
}

// ln(x) for normal x > 0: x = 2^k m, m in [sqrt(1/2), sqrt(2)), ln(m) = 2 artanh((m - 1) / (m + 1)) by its series.
template <class T>
inline Vec<T> log(Vec<T> x) {
    using M = Bits<T>;
    constexpr bool single = sizeof(T) == 4;
    const M least = bits<M>(all(T(0x1.6a09e667f3bcdp-1))), all_bits = bits<M>(x);
    const M k = (all_bits - least) >> Simd<T>::mantissa;
    const Vec<T> m = bits<Vec<T>>(M(all_bits - (k << Simd<T>::mantissa)));
    const Vec<T> f = (m - T(1)) / (m + T(1)), square = f * f;
    constexpr int terms = single ? 5 : 11;
    Vec<T> series = all(T(1) / T(2 * terms + 1));
#pragma GCC unroll 16
    for (int j = terms - 1; j >= 0; --j) series = series * square + T(1) / T(2 * j + 1);
    return T(2) * f * series + __builtin_convertvector(k, Vec<T>) * T(0x1.62e42fefa39efp-1);
}
