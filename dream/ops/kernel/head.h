// Heads that follow a stream: sums of least squares, the weights that they give, and steps of gradient descent.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector.h"

// Working memory of a system of n equations with o right-hand sides: its symmetric matrix M from the diagonal on, which becomes R,
// M = R^T R, and beside it the right-hand sides. Rows are taken four at a time; one more is spare. What lies before the diagonal is
// never read as a part of R.
struct System {
    using V = Vec<double>;
    static constexpr int64_t lanes = Simd<double>::lanes, four = 4;
    int64_t n, o, right = padded<double>(n), stride = right + padded<double>(o);
    double* work;  // (n + 1, stride)

    System(int64_t n, int64_t o, double* work) : n(n), o(o), work(work) {
        std::fill(work + n * stride, work + (n + 1) * stride, 0.0);
    }

    double* row(int64_t i) const { return work + i * stride; }

    // Cholesky by rows of R; right-hand sides b become R^-T b. Whether M is positive definite.
    bool factor() const {
        for (int64_t k = 0; k < n; k += four) {
            const int64_t end = std::min(k + four, n);
            for (int64_t i = k; i < end; ++i) {
                double* here = row(i);
                for (const double* r = row(k); r < here; r += stride) subtract(here, all(r[i]), r, i / lanes * lanes);
                if (!(here[i] > 0)) return false;
                const V scale = all(1 / std::sqrt(here[i]));
                for (int64_t j = i / lanes * lanes; j < stride; j += lanes) store(here + j, load(here + j) * scale);
            }
            for (int64_t i = end; i < n; i += 2) eliminate(k, i, i / lanes * lanes);
        }
        return true;
    }

    // b becomes R^-T b.
    void forward() const {
        for (int64_t k = 0; k < n; k += four) {
            const int64_t end = std::min(k + four, n);
            for (int64_t i = k; i < end; ++i) {
                double* here = row(i);
                for (const double* r = row(k); r < here; r += stride) subtract(here, all(r[i]), r, right);
                const V scale = all(1 / here[i]);
                for (int64_t j = right; j < stride; j += lanes) store(here + j, load(here + j) * scale);
            }
            for (int64_t i = end; i < n; i += 2) eliminate(k, i, right);
        }
    }

    // b becomes R^-1 b.
    void back() const {
        for (int64_t k = (n - 1) / four * four; k >= 0; k -= four) {
            const double *a = row(k), *b = a + stride, *c = b + stride, *d = c + stride;
            const int64_t end = std::min(k + four, n);
            for (int64_t at = right; at < stride; at += lanes) {
                if (end < n) {
                    V va = load(a + at), vb = load(b + at), vc = load(c + at), vd = load(d + at);
                    for (int64_t j = end; j < n; ++j) {
                        const V solved = load(row(j) + at);
                        va -= all(a[j]) * solved;
                        vb -= all(b[j]) * solved;
                        vc -= all(c[j]) * solved;
                        vd -= all(d[j]) * solved;
                    }
                    double* to = row(k) + at;
                    for (const V v : {va, vb, vc, vd}) store(to, v), to += stride;
                }
                for (int64_t i = end - 1; i >= k; --i) {
                    V sum = load(row(i) + at);
                    for (int64_t j = i + 1; j < end; ++j) sum -= all(row(i)[j]) * load(row(j) + at);
                    store(row(i) + at, sum / all(row(i)[i]));
                }
            }
        }
    }

    void read(double* x) const {
        for (int64_t i = 0; i < n; ++i) std::copy(row(i) + right, row(i) + right + o, x + i * o);
    }

   private:
    void subtract(double* to, V factor, const double* from, int64_t start) const {
        for (int64_t j = start; j < stride; j += lanes) store(to + j, load(to + j) - factor * load(from + j));
    }

    // Rows i and i + 1, the last with the spare one, less four rows from k on, which are finished.
    void eliminate(int64_t k, int64_t i, int64_t start) const {
        const double *a = row(k), *b = a + stride, *c = b + stride, *d = c + stride;
        double *here = row(i), *next = here + stride;
        const V ai = all(a[i]), bi = all(b[i]), ci = all(c[i]), di = all(d[i]);
        const V aj = all(a[i + 1]), bj = all(b[i + 1]), cj = all(c[i + 1]), dj = all(d[i + 1]);
        for (int64_t j = start; j < stride; j += lanes) {
            const V va = load(a + j), vb = load(b + j), vc = load(c + j), vd = load(d + j);
            store(here + j, load(here + j) - ai * va - bi * vb - ci * vc - di * vd);
            store(next + j, load(next + j) - aj * va - bj * vb - cj * vc - dj * vd);
        }
    }
};

// X of (A + d I) X = B + d P with d = 1 + ridge mean(diag A), for A (n, n) and the others (n, o). Whether A + d I is positive
// definite.
inline bool solve(int64_t n, int64_t o, const double* gram, const double* moment, const double* prior, double ridge, double* work,
                  double* x) {
    const System system(n, o, work);
    double trace = 0;
    for (int64_t i = 0; i < n; ++i) trace += gram[i * n + i];
    const double pull = 1 + ridge * (trace / double(n));
    for (int64_t i = 0; i < n; ++i) {
        double* row = system.row(i);
        std::copy(gram + i * n, gram + (i + 1) * n, row);
        std::fill(row + n, row + system.stride, 0.0);
        row[i] += pull;
        for (int64_t j = 0; j < o; ++j) row[system.right + j] = moment[i * o + j] + pull * prior[i * o + j];
    }
    if (!system.factor()) return false;
    system.back();
    system.read(x);
    return true;
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
        const System system(n, o, work);
        const int64_t right = system.right;
        sums(z, gram, [&](int64_t i, int64_t j, int64_t, Vec<double> numbers) { store(system.row(i) + j, numbers); });
        double trace = 0;
        for (int64_t i = 0; i < n; ++i) trace += system.row(i)[i];
        const double pull = 1 + ridge * (trace / double(n));
        for (int64_t i = 0; i < n; ++i) {
            double* row = system.row(i);
            row[i] += pull;
            std::fill(row + right + o, row + system.stride, 0.0);
            for (int64_t j = 0; j < o; ++j)
                row[right + j] = (discount * moment[i * o + j] + z[i] * y[j]) + pull * prior[i * o + j];
        }
        if (!system.factor()) return false;
        system.back();
        system.read(x);
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
