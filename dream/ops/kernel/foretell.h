// A head that follows a table by least squares: what it predicts at every row with the weights of that row, many rows at a time.
//
// With A and B the sums before a block of rows, after k of its rows they are, over g^k, A + sum_j c_j l_j l_j^T and
// B + sum_j c_j l_j y_j^T, c_j = g^-j. So with S = (A + e_k I)^-1, e_k = d_k / g^k, l all k rows and Y their targets, row q is
// predicted by
//
//     v + h^T (C^-1 + G)^-1 (Y - u),   G = l S l^T, h = l S q, u = l S (B + e_k P), v = q^T S (B + e_k P), C = diag(c)
//
// (Woodbury). One factorisation serves a block: with M = A + e I, e where d_0 would be halfway through it,
// S = M^-1 - (e_k - e) M^-2 + (e_k - e)^2 M^-3 - ..., whose terms fall at least as powers of |e_k - e| / e, since no eigenvalue of
// M is below e. A row takes as many as it needs for 1e-11, and a block ends before one that needs too many; for the first row
// e = e_1 needs one. So no bit of a prediction depends on a later row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "head.h"

class Foreteller {
   public:
    static constexpr int64_t most = 16, powers = 8;  // rows of a block, terms of the series

    // Features `z` (rows + lag, n), with a 1: row k + lag is predicted when row k has been learnt, if `learns` (rows) says so, from
    // targets y (rows, o). The sums are of the rows before; `prior` P (n, o).
    Foreteller(int64_t n, int64_t o, int64_t lag, double discount, double ridge, const double* z, const uint8_t* learns,
               const double* y, double* gram, double* moment, const double* prior)
        : n(n), o(o), lag(lag), discount(discount), ridge(ridge), z(z), learns(learns), y(y), gram(gram), moment(moment), prior(prior),
          pulls(std::any_of(prior, prior + n * o, [](double one) { return one != 0; })) {}

    // Predictions (rows, o); the sums move on. False where there are none: then the sums mean nothing.
    bool run(int64_t rows, double* predicted) {
        for (int64_t start = 0, size; start < rows; start += size) {
            size = plan(start, rows - start);
            if (!block(start, size, predicted + start * o)) return false;
            learn(start, size);
        }
        return std::all_of(predicted, predicted + rows * o, [](double one) { return std::isfinite(one); });
    }

   private:
    using V = Vec<double>;
    static constexpr int64_t lanes = Simd<double>::lanes;
    int64_t n, o, lag;
    double discount, ridge;
    const double* z;
    const uint8_t* learns;
    const double* y;
    double *gram, *moment;
    const double* prior;
    bool pulls;
    double pull[most], middle;  // e_k, e
    int64_t terms[most], longest;
    std::vector<double> work, products, mixed;

    // Rows of the next block, of at most `left`; and e, e_k and the number of terms of each of them.
    int64_t plan(int64_t start, int64_t left) {
        int64_t size = most;
        while (size > 1 && 1 - std::pow(discount, double(size)) > 0.05) size /= 2;
        double trace = 0, power = 1;
        for (int64_t i = 0; i < n; ++i) trace += gram[i * n + i];
        middle = (1 + ridge * (trace / double(n))) / std::pow(discount, double(size) / 2);
        longest = 1;
        for (int64_t k = 0; k < std::min(size, left); ++k) {
            const double* l = z + (start + k) * n;
            trace *= discount;
            power *= discount;
            if (learns[start + k])
                for (int64_t i = 0; i < n; ++i) trace += l[i] * l[i];
            pull[k] = (1 + ridge * (trace / double(n))) / power;
            const double ratio = std::abs(pull[k] - middle) / middle;
            terms[k] = 1;
            for (double rest = ratio; !(rest < 1e-11) && terms[k] <= powers; rest *= ratio) ++terms[k];
            if (terms[k] > powers) {
                if (k) return k;
                middle = pull[0];
                return terms[0] = 1;
            }
            longest = std::max(longest, terms[k]);
        }
        return std::min(size, left);
    }

    bool block(int64_t start, int64_t size, double* predicted) {
        // columns: rows that are learnt, those that are predicted and no such, B, P
        const int64_t apart = std::min(lag, size), seen = size + apart, sums = seen + (pulls ? 2 : 1) * o;
        work.resize((n + 1) * (padded<double>(n) + padded<double>(sums)));
        const System system(n, sums, work.data());
        for (int64_t i = 0; i < n; ++i) {
            double *row = system.row(i), *to = row + system.right;
            std::copy(gram + i * n + i, gram + (i + 1) * n, row + i);
            std::fill(row + n, row + system.right, 0.0);
            row[i] += middle;
            for (int64_t k = 0; k < size; ++k) to[k] = z[(start + k) * n + i];
            for (int64_t k = 0; k < apart; ++k) to[size + k] = z[(start + size + lag - apart + k) * n + i];
            std::copy(moment + i * o, moment + (i + 1) * o, to + seen);
            if (pulls) std::copy(prior + i * o, prior + (i + 1) * o, to + seen + o);
            std::fill(to + sums, row + system.stride, 0.0);
        }
        const int64_t width = system.stride - system.right, high = (seen + 3) / 4 * 4;
        products.assign(powers * high * width, 0.0);
        if (!system.factor()) return false;
        for (int64_t term = 0; term < longest; ++term) {
            if (term % 2) system.back();
            else if (term) system.forward();
            multiply(system, seen, width, products.data() + term * high * width);
        }
        for (int64_t k = 0; k < size; ++k) predict(start, k, size, apart, width, high, predicted + k * o);
        return true;
    }

    // Products of each of the first columns of what stands on the right with all of them, (seen, width).
    void multiply(const System& system, int64_t seen, int64_t width, double* to) const {
        for (int64_t a = 0; a < seen; a += 4)
            for (int64_t j = 0; j < width; j += lanes) {
                V sum0{}, sum1{}, sum2{}, sum3{};
                for (int64_t i = 0; i < n; ++i) {
                    const double* row = system.row(i) + system.right;
                    const V here = load(row + j);
                    sum0 += all(row[a]) * here;
                    sum1 += all(row[a + 1]) * here;
                    sum2 += all(row[a + 2]) * here;
                    sum3 += all(row[a + 3]) * here;
                }
                double* part = to + a * width + j;
                for (const V sum : {sum0, sum1, sum2, sum3}) store(part, sum), part += width;
            }
    }

    // The row that is predicted once k + 1 rows of a block have been learnt.
    void predict(int64_t start, int64_t k, int64_t size, int64_t apart, int64_t width, int64_t high, double* to) {
        const int64_t asked = k + apart, seen = size + apart, rows = k + 1;
        double factors[powers], factor = 1;
        for (int64_t term = 0; term < terms[k]; ++term, factor *= middle - pull[k]) factors[term] = factor;
        mixed.resize((rows + 1) * width);
        for (int64_t row = 0; row <= rows; ++row) {
            const double* from = products.data() + (row < rows ? row : asked) * width;
            double* mix = mixed.data() + row * width;
            for (int64_t j = 0; j < width; j += lanes) {
                V sum{};
                for (int64_t term = 0; term < terms[k]; ++term) sum += all(factors[term]) * load(from + term * high * width + j);
                store(mix + j, sum);
            }
        }
        // C^-1 + G = R^T R by columns of R, in place of G; h^T becomes (R^-T h)^T and then weights of what was learnt
        double* h = mixed.data() + rows * width;
        double inverse = 1;
        for (int64_t i = 0; i < rows; ++i) {
            inverse *= discount;
            double* own = mixed.data() + i * width;
            if (!learns[start + i]) {
                std::fill(own, own + i, 0.0);
                own[i] = 1, h[i] = 0;
                continue;
            }
            for (int64_t j = 0; j < i; ++j) {
                const double* other = mixed.data() + j * width;
                double sum = learns[start + j] ? own[j] : 0;
                for (int64_t l = 0; l < j; ++l) sum -= own[l] * other[l];
                own[j] = sum / other[j];
            }
            double sum = own[i] + inverse, left = h[i];
            for (int64_t l = 0; l < i; ++l) sum -= own[l] * own[l], left -= own[l] * h[l];
            own[i] = std::sqrt(sum);
            h[i] = left / own[i];
        }
        for (int64_t i = rows - 1; i >= 0; --i) {
            for (int64_t j = i + 1; j < rows; ++j) h[i] -= mixed[j * width + i] * h[j];
            h[i] /= mixed[i * width + i];
        }
        for (int64_t b = 0; b < o; ++b) {
            const auto of_sums = [&](const double* row) { return row[seen + b] + (pulls ? pull[k] * row[seen + o + b] : 0); };
            to[b] = of_sums(h);
            for (int64_t i = 0; i < rows; ++i)
                if (learns[start + i]) to[b] += h[i] * (y[(start + i) * o + b] - of_sums(mixed.data() + i * width));
        }
    }

    // The sums with the rows of a block.
    void learn(int64_t start, int64_t size) {
        const double faded = std::pow(discount, double(size));
        double weights[most], weight = 1;
        for (int64_t k = size - 1; k >= 0; --k, weight *= discount) weights[k] = learns[start + k] ? weight : 0;
        for (int64_t i = 0; i < n; ++i) {
            double factors[most];
            for (int64_t k = 0; k < size; ++k) factors[k] = weights[k] * z[(start + k) * n + i];
            const auto add = [&](double* to, int64_t width, const double* from, int64_t stride, int64_t first) {
                for (int64_t j = first; j < width; j += lanes) {
                    V sum = all(faded) * load(to + j, width - j);
                    for (int64_t k = 0; k < size; ++k) sum += all(factors[k]) * load(from + k * stride + j, width - j);
                    store(to + j, sum, width - j);
                }
            };
            add(gram + i * n, n, z + start * n, n, i / lanes * lanes);
            add(moment + i * o, o, y + start * o, o, 0);
        }
    }
};
