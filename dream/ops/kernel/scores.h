// Anomaly scores: rows relative to the past of their columns, the measures of a row, their tails, and alarms. The equations are
// those of lightning_modules/anomaly/scores.py, whose constants come with the call.
//
// Shapes: T rows, N streams, C columns, K measures. What is read and found is (T, N, ...); what streams carry is (N, ...), and
// moved on in place. The columns of a stream are taken in whole vectors, the last with lanes that mean nothing, so that its
// numbers are the same to the last bit whatever lies beside it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "vector.h"

namespace scores {
using V = Vec<double>;
using M = Bits<double>;
constexpr int64_t lanes = Simd<double>::lanes;
constexpr double infinity = std::numeric_limits<double>::infinity(), unknown = std::numeric_limits<double>::quiet_NaN();
constexpr double nepers = 2.302585092994045684;  // ln(10)

inline V smaller(V a, V b) { return b < a ? b : a; }  // a where one is NaN
inline V larger(V a, V b) { return b > a ? b : a; }
inline V counted(M flags) { return flags ? all(1.0) : V{}; }

// ln(1 + y), y >= 0, accurate to y itself where it is small.
inline V log1p(V y) {
    const V u = all(1.0) + y, lost = u - all(1.0);
    return lost == V{} ? y : log<double>(u) * (y / lost);
}

// Levels, then differences of values (T, N, C), and of forecasts of them (null: none), relative to the past of each column.
struct Scale {
    int64_t rows, streams, columns;
    double memory, level_limit, difference_limit;
    const uint8_t* learning;  // (T, N) where the scales learn
    const double *values, *forecasts;
    double *number, *last, *level, *mean, *var;  // 2 C, C, C, 2 C and 2 C for each stream; the number of values known so far
    double *x, *expected, *levels;               // found; the last (T, N, C), of the last known values

    void run() const {
        for (int64_t at = 0; at < rows * streams; ++at)
            for (int64_t j = 0; j < columns; j += lanes) read(at, at % streams, j, columns - j);
    }

    // Columns from j on of the row `at` places after the first stream's first.
    void read(int64_t at, int64_t stream, int64_t j, int64_t left) const {
        const int64_t here = at * columns + j, found = at * 2 * columns + j;
        const int64_t own = stream * columns + j, both = stream * 2 * columns + j;
        const V value = load(values + here, left), past = load(last + own, left);
        const M begun = load(number + both, left) > V{};
        if (forecasts) {
            const V forecast = load(forecasts + here, left), change = forecast - (begun ? past : forecast);
            store(expected + found, relative(forecast, both, left, level_limit), left);
            store(expected + found + columns, relative(change, both + columns, left, difference_limit), left);
        }
        const V change = value - (begun ? past : value), now = relative(value, both, left, level_limit);
        store(x + found, now, left);
        store(x + found + columns, relative(change, both + columns, left, difference_limit), left);
        const V known = value == value ? now : load(level + own, left);
        store(levels + here, known, left);
        store(level + own, known, left);
        store(last + own, magnitude<double>(value) == all(infinity) ? past : value, left);
        learn(value, both, left, learning[at]);
        learn(change, both + columns, left, learning[at]);
    }

    V relative(V value, int64_t own, int64_t left, double limit) const {
        const V spread = load(var + own, left), unit = spread == V{} ? all(infinity) : square_root<double>(spread);
        return smaller(larger((value - load(mean + own, left)) / unit, all(-limit)), all(limit));
    }

    void learn(V value, int64_t own, int64_t left, bool learns) const {
        const M seen = magnitude<double>(value) < all(infinity);
        const V before = load(number + own, left), usual = load(mean + own, left);
        const V rate = learns ? counted(seen) * larger(all(1 / memory), all(1.0) / (before + all(1.0))) : V{};
        const V away = seen ? value - usual : V{}, moved = rate * away;
        store(mean + own, usual + moved, left);
        store(var + own, (all(1.0) - rate) * (moved * away + load(var + own, left)), left);
        store(number + own, before + counted(seen), left);
    }
};

struct Constants {
    double decades, burst_rows, drift_rows, share, prior, clip, warm_up;
};

// Scores and alarms (T, N) of rows, from x and its prediction (T, N, 2 C), and deviation and surprise of the layer (T, N, 2).
struct Score {
    int64_t rows, streams, columns, kinds, width, gap_most;
    double memory;
    const Constants* constants;
    const int64_t* measures;  // (kinds) which count, in their order: error, burst, level, drift, deviation, surprise
    const uint8_t* learning;  // (T, N) where the tails learn
    const double *x, *prediction, *gate;
    double *burst, *drift;                                    // C for each stream
    double *number, *mean, *quantile, *count, *sum, *squares;  // K = width for each stream
    int64_t* row;                                             // (N) rows so far
    const int64_t* gap;                                       // (N)
    double* recent;                                           // (N, gap_most) decades of the last `gap` rows
    double *score, *alarm;                                    // found
    int64_t* cause;                                           // (N) measure that the last score came from

    void run() const {
        std::vector<double> seen(padded<double>(width) + lanes);
        for (int64_t at = 0; at < rows * streams; ++at) {
            const int64_t stream = at % streams;
            measure(at, stream, seen.data());
            for (int64_t j = 0; j < width; j += lanes) improbable(seen.data() + j, stream * width + j, width - j, learning[at]);
            const double* most = std::max_element(seen.data(), seen.data() + width);
            cause[stream] = most - seen.data();
            score[at] = std::min(*most / constants->decades, 1.0);
            alarm[at] = climax(*most, stream);
        }
    }

    // The measures of a row that count, NaN where one is missing.
    void measure(int64_t at, int64_t stream, double* to) const {
        bool any = false;
        for (int64_t j = 0; j < columns; j += lanes) {
            const int64_t left = columns - j, found = at * 2 * columns + j, own = stream * columns + j;
            const V level = load(x + found, left), change = load(x + found + columns, left);
            const M known = level == level, both = change == change;
            const V first = known ? level - load(prediction + found, left) : V{};
            const V second = both ? change - load(prediction + found + columns, left) : V{};
            const V parts = counted(known) + counted(both);
            const V error = square_root<double>((first * first + second * second) / larger(parts, all(1.0)));
            const V held = load(burst + own, left), level_held = load(drift + own, left);
            const V burst_ = known ? held + (error - held) / all(constants->burst_rows) : held;
            const V drift_ = known ? level_held + (level - level_held) / all(constants->drift_rows) : level_held;
            store(burst + own, burst_, left);
            store(drift + own, drift_, left);
            const V kinds_[] = {error, burst_, magnitude<double>(level), magnitude<double>(drift_)};
            double* part = to + j;
            for (int64_t k = 0; k < kinds; ++k) {
                if (measures[k] < 4) store(part, known ? kinds_[measures[k]] : all(unknown), left);
                part += measures[k] < 4 ? columns : 1;
            }
            for (int64_t k = 0; k < std::min(left, lanes); ++k) any |= known[k] != 0;
        }
        for (int64_t k = 0; k < kinds; ++k) {
            if (measures[k] >= 4) *to = any ? gate[at * 2 + measures[k] - 4] : unknown;
            to += measures[k] < 4 ? columns : 1;
        }
    }

    // Put -log10 of the tail probability of each of some measures in its place; the tails learn.
    void improbable(double* seen, int64_t own, int64_t left, bool learns_) const {
        const Constants& s = *constants;
        const V given = load(seen, left), one = all(1.0);
        const M measured = given == given, learns = learns_ ? measured : M{};
        const V a = measured ? given : V{}, before = load(number + own, left);
        const V usual = load(mean + own, left), level = load(quantile + own, left);
        const V much = load(count + own, left), total = load(sum + own, left), square = load(squares + own, left);
        const V excess = a - level;
        const M above = excess > V{};

        const V weight = much + all(s.prior), mid = (total + all(s.prior) * usual) / weight;
        const V spread = larger((square + all(2 * s.prior) * (usual * usual)) / weight - mid * mid, all(1e-12));
        const V shape = larger(all(0.5) * (one - mid * mid / spread), V{});
        const V beyond = larger(excess, V{}) / larger(mid * (one - shape), all(1e-9));
        const M heavy = shape > all(1e-9);
        const V bent = log1p(shape * beyond) / (heavy ? shape : one);
        const double rarest = -std::log10(s.share);
        const V tail = (heavy ? bent : beyond) / all(nepers) + all(rarest);
        const V below = all(rarest) * smaller(a / larger(level, all(1e-9)), one);
        const M counts_yet = before >= all(s.warm_up);
        store(seen, measured && counts_yet ? (above ? tail : below) : V{}, left);

        const V rate = counted(learns) * larger(all(1 / memory), one / (before + one));
        const V mean_ = usual + rate * (a - usual), size = rate * mean_ / all(s.share);
        const V part = smaller(larger((excess + all(0.5) * size) / larger(size, all(1e-30)), V{}), one);
        const V moved = level + size * (part - all(s.share));
        const M begins = learns && before < all(10.0);
        store(mean + own, mean_, left);
        store(quantile + own, begins ? larger(level, a) : larger(moved, V{}), left);
        const V counts = learns && before >= all(std::floor(s.warm_up / 2)) ? part : V{};
        const V clipped = smaller(larger(excess, V{}), all(s.clip) * larger(total / larger(much, one), mean_));
        const double most = s.share * memory;
        const V full = smaller(larger(much - all(most - 1), V{}), one), kept = one - counts * full / all(most);
        store(count + own, much * kept + counts, left);
        store(sum + own, total * kept + counts * clipped, left);
        store(squares + own, square * kept + counts * clipped * clipped, left);
        store(number + own, before + counted(learns), left);
    }

    // Alarm of a row with so many decades, 0 unless they are more than those of all rows that are recent.
    double climax(double decades, int64_t stream) const {
        double* own = recent + stream * gap_most;
        const bool highest = decades > *std::max_element(own, own + gap_most);
        const int64_t number_ = ++row[stream];
        own[number_ % gap[stream]] = decades;
        if (!highest) return 0;
        const double rarity = decades - 0.5 * std::log10(std::max(double(number_), constants->warm_up));
        return std::min(std::max(rarity / constants->decades, 0.0), 1.0);
    }
};
}  // namespace scores
