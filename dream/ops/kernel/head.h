// Heads that follow a stream: sums of least squares, the weights that they give, and steps of gradient descent.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector.h"

// X of (A + d I) X = B + d P, for A (n, n) and the others (n, o): Cholesky, A + d I = R^T R, by rows of R and four at a time, with
// B + d P as further columns, which become R^-T (B + d P) and then X. `work` holds n + 1 rows of padded(n) + padded(o), the last
// one spare: A + d I from the diagonal on, then B + d P. Whether A + d I is positive definite.
inline bool solve_in(int64_t n, int64_t o, double* work, double* x) {
    using V = Vec<double>;
    constexpr int64_t lanes = Simd<double>::lanes, four = 4;
    const int64_t right = padded<double>(n), stride = right + padded<double>(o);
    std::fill(work + n * stride, work + (n + 1) * stride, 0.0);
    for (int64_t k = 0; k < n; k += four) {
        const double* first = work + k * stride;
        const int64_t end = std::min(k + four, n);
        for (int64_t i = k; i < end; ++i) {
            double* row = work + i * stride;
            for (const double* r = first; r < row; r += stride) {
                const V factor = all(r[i]);
                for (int64_t j = i / lanes * lanes; j < stride; j += lanes) store(row + j, load(row + j) - factor * load(r + j));
            }
            if (!(row[i] > 0)) return false;
            const V scale = all(1 / std::sqrt(row[i]));
            for (int64_t j = i / lanes * lanes; j < stride; j += lanes) store(row + j, load(row + j) * scale);
        }
        const double *a = first, *b = a + stride, *c = b + stride, *d = c + stride;
        for (int64_t i = end; i < n; i += 2) {  // there are four rows, or none is left; two others, the last with the spare one
            double *row = work + i * stride, *next = row + stride;
            const V ai = all(a[i]), bi = all(b[i]), ci = all(c[i]), di = all(d[i]);
            const V aj = all(a[i + 1]), bj = all(b[i + 1]), cj = all(c[i + 1]), dj = all(d[i + 1]);
            for (int64_t j = i / lanes * lanes; j < stride; j += lanes) {
                const V va = load(a + j), vb = load(b + j), vc = load(c + j), vd = load(d + j);
                store(row + j, load(row + j) - ai * va - bi * vb - ci * vc - di * vd);
                store(next + j, load(next + j) - aj * va - bj * vb - cj * vc - dj * vd);
            }
        }
    }
    for (int64_t k = (n - 1) / four * four; k >= 0; k -= four) {
        const double *a = work + k * stride, *b = a + stride, *c = b + stride, *d = c + stride;
        const int64_t end = std::min(k + four, n);
        for (int64_t at = right; at < stride; at += lanes) {
            if (end < n) {
                V va = load(a + at), vb = load(b + at), vc = load(c + at), vd = load(d + at);
                for (int64_t j = end; j < n; ++j) {
                    const V solved = load(work + j * stride + at);
                    va -= all(a[j]) * solved;
                    vb -= all(b[j]) * solved;
                    vc -= all(c[j]) * solved;
                    vd -= all(d[j]) * solved;
                }
                double* to = work + k * stride + at;
                for (const V v : {va, vb, vc, vd}) store(to, v), to += stride;
            }
            for (int64_t i = end - 1; i >= k; --i) {
                double* row = work + i * stride;
                V sum = load(row + at);
                for (int64_t j = i + 1; j < end; ++j) sum -= all(row[j]) * load(work + j * stride + at);
                store(row + at, sum / all(row[i]));
            }
        }
    }
    for (int64_t i = 0; i < n; ++i) std::copy(work + i * stride + right, work + i * stride + right + o, x + i * o);
    return true;
}

// Put A, B and P into `work`, d = 1 + ridge mean(diag A); see `solve_in`.
inline bool solve(int64_t n, int64_t o, const double* gram, const double* moment, const double* prior, double ridge, double* work,
                  double* x) {
    const int64_t right = padded<double>(n), stride = right + padded<double>(o);
    double trace = 0;
    for (int64_t i = 0; i < n; ++i) trace += gram[i * n + i];
    const double pull = 1 + ridge * (trace / double(n));
    for (int64_t i = 0; i < n; ++i) {
        double* row = work + i * stride;
        std::copy(gram + i * n, gram + (i + 1) * n, row);
        std::fill(row + n, row + stride, 0.0);
        row[i] += pull;
        for (int64_t j = 0; j < o; ++j) row[right + j] = moment[i * o + j] + pull * prior[i * o + j];
    }
    return solve_in(n, o, work, x);
}

// A head that follows a stream by least squares: its sums with one row more, A' = g A + z z^T (n, n), of which what lies before
// the diagonal means nothing, and B' = g B + z y^T (n, o), and the weights (n, o) that they give, see `solve`.
struct Follower {
    int64_t n, o;
    double discount, ridge;

    // put(i, j, left, numbers of A' from j on) for every row i from before its diagonal on.
    template <class Put>
    void sums(const double* z, const double* gram, Put put) const {
        constexpr int64_t lanes = Simd<double>::lanes;
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = i / lanes * lanes; j < n; j += lanes)
                put(i, j, n - j, all(discount) * load(gram + i * n + j, n - j) + all(z[i]) * load(z + j, n - j));
    }

    // The weights; false where there are none that are finite.
    bool weights(const double* z, const double* y, const double* gram, const double* moment, const double* prior, double* work,
                 double* x) const {
        const int64_t right = padded<double>(n), stride = right + padded<double>(o);
        sums(z, gram, [&](int64_t i, int64_t j, int64_t, Vec<double> numbers) { store(work + i * stride + j, numbers); });
        double trace = 0;
        for (int64_t i = 0; i < n; ++i) trace += work[i * stride + i];
        const double pull = 1 + ridge * (trace / double(n));
        for (int64_t i = 0; i < n; ++i) {
            double* row = work + i * stride;
            row[i] += pull;
            std::fill(row + right + o, row + stride, 0.0);
            for (int64_t j = 0; j < o; ++j)
                row[right + j] = (discount * moment[i * o + j] + z[i] * y[j]) + pull * prior[i * o + j];
        }
        if (!solve_in(n, o, work, x)) return false;
        return std::all_of(x, x + n * o, [](double one) { return std::isfinite(one); });
    }

    void add(const double* z, const double* y, double* gram, double* moment) const {
        sums(z, gram, [&](int64_t i, int64_t j, int64_t left, Vec<double> numbers) { store(gram + i * n + j, numbers, left); });
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < o; ++j) moment[i * o + j] = discount * moment[i * o + j] + z[i] * y[j];
    }
};

// Gradient steps of softmax regression, in turn for each window of rows from starts[k] to before stops[k]: weight (o, f) and bias
// (o) less lr times the slopes of the mean cross-entropy of values (., f) and classes. `slopes` holds o numbers for each row of a
// window.
template <class T>
void descend(int64_t windows, const int64_t* starts, const int64_t* stops, int64_t steps, int64_t f, int64_t o, double lr,
             const T* values, const int64_t* classes, T* weight, T* bias, T* slopes) {
    constexpr int64_t lanes = Simd<T>::lanes;
    for (int64_t turn = 0; turn < windows * steps; ++turn) {
        const int64_t start = starts[turn / steps], stop = stops[turn / steps];
        T* slope = slopes;
        for (int64_t row = start; row < stop; ++row, slope += o) {
            for (int64_t k = 0; k < o; ++k) {
                Vec<T> product{};
                for (int64_t j = 0; j < f; j += lanes)
                    product += load(weight + k * f + j, f - j) * load(values + row * f + j, f - j);
                slope[k] = bias[k] + sum<T>(product);
            }
            const T most = *std::max_element(slope, slope + o);
            T total = 0;
            for (int64_t k = 0; k < o; ++k) total += slope[k] = std::exp(slope[k] - most);
            for (int64_t k = 0; k < o; ++k) slope[k] = (slope[k] / total - T(k == classes[row])) / T(stop - start);
        }
        slope = slopes;
        for (int64_t row = start; row < stop; ++row, slope += o)
            for (int64_t k = 0; k < o; ++k) {
                const T size = T(lr) * slope[k];
                for (int64_t j = 0; j < f; j += lanes) {
                    T* w = weight + k * f + j;
                    store(w, load(w, f - j) - all(size) * load(values + row * f + j, f - j), f - j);
                }
                bias[k] -= size;
            }
    }
}
