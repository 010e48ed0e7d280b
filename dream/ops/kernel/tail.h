// What the tails of anomaly scores learn of excesses.
#pragma once

#include <algorithm>
#include <cstdint>

// Number, sum and sum of squares (3, k) of the excesses of k measures over their quantiles, `now`, moved on by `rows` rows of
// excesses (rows, k) where `counts` is set; before each row they are written to `found` (3, rows, k). One excess is at most
// `clip` times the usual one, the larger of their mean and of `mean` (rows, k); what lies back more than `most` excesses fades.
inline void excesses(int64_t rows, int64_t k, double most, double clip, const double* excess, const uint8_t* counts,
                     const double* mean, double* now, double* found) {
    double *count = now, *total = now + k, *squares = total + k;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t j = 0; j < k; ++j) {
            const int64_t at = row * k + j;
            found[at] = count[j], found[rows * k + at] = total[j], found[2 * rows * k + at] = squares[j];
            if (!counts[at]) continue;
            const double usual = std::max(total[j] / std::max(count[j], 1.0), mean[at]);
            const double one = std::min(excess[at], clip * usual), kept = count[j] >= most ? 1 - 1 / most : 1;
            count[j] = count[j] * kept + 1;
            total[j] = total[j] * kept + one;
            squares[j] = squares[j] * kept + one * one;
        }
}
