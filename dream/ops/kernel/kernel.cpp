// The C interface: one scan forward, or backward, its blocks of samples shared among threads, and what moves a head. No exception
// leaves it.
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "backward.h"
#include "foretell.h"
#include "forward.h"
#include "head.h"
#include "scores.h"

using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);

// Run work() in up to `threads` threads: torch's own pool where `team` is its GOMP_parallel, so that its idle threads don't
// spin beside ours; else threads that end with the call.
template <class Work>
void parallel(Work& work, int64_t threads, Team team) {
    if (threads == 1) return work();
    const auto enter = [](void* shared) { (*static_cast<Work*>(shared))(); };
    if (team) return team(enter, &work, unsigned(threads), 0);
    std::vector<std::thread> others;
    others.reserve(threads - 1);
    try {
        for (int64_t k = 1; k < threads; ++k) others.emplace_back(enter, &work);
    } catch (const std::exception&) {  // fewer, then: work is shared as it goes
    }
    work();
    for (auto& other : others) other.join();
}

// compute(room, share, first, samples) for every block of samples. A share is some neighbouring blocks, so that threads do not
// write to the same cache lines, and the same ones whichever thread takes it, so that sums over a share do not depend on chance.
// 0, or 1 where memory or threads were short.
template <class T, class Room, class Weights, class Compute>
int run(const Scan<T>& s, const Weights& weights, int64_t shares, Team team, Compute compute) {
    const Blocks<T> blocks(s);
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    auto work = [&] {
        try {
            Room room(s, weights, blocks.size);
            for (int64_t share; (share = next.fetch_add(1)) < shares;)
                for (long block = share * blocks.count / shares; block < (share + 1) * blocks.count / shares; ++block) {
                    const long first = block * blocks.size;
                    compute(room, share, first, int(std::min(blocks.size, s.samples - first)));
                }
        } catch (const std::bad_alloc&) {
            failed = 1;
        }
    };
    parallel(work, shares, team);
    return failed;
}

template <class T>
int64_t shares_of(const Scan<T>& s) {
    return std::clamp<int64_t>(Blocks<T>(s).count, 1, s.threads);
}

template <class T, template <class> class Matrix>
int run_forward(const Scan<T>& s, Team team) {
    const ForwardWeights<T, Matrix> weights(s);
    return run<T, ForwardRoom<T>>(s, weights, shares_of(s), team, [&](auto& room, int64_t, long first, int samples) {
        Forward<T, ForwardWeights<T, Matrix>>(s, weights, room, first, samples).run();
    });
}

template <class T>
int run_forward(const Scan<T>& s, Team team) try {
    return s.samples * s.steps == 1 ? run_forward<T, Loose>(s, team) : run_forward<T, Packed>(s, team);
} catch (const std::exception&) {
    return 1;
}

template <class T>
int run_backward(const Scan<T>& s, Team team) try {
    const BackwardWeights<T> weights(s);
    std::vector<Gradients<T>> gradients;
    for (int64_t share = 0; share < shares_of(s); ++share) gradients.emplace_back(s, weights);
    const int failed = run<T, BackwardRoom<T>>(
        s, weights, int64_t(gradients.size()), team,
        [&](auto& room, int64_t share, long first, int samples) {
            Backward<T>(s, weights, room, gradients[share], first, samples).run();
        });
    for (size_t share = 1; share < gradients.size(); ++share) gradients[0].add(gradients[share], s);
    gradients[0].write(s);
    return failed;
} catch (const std::exception&) {
    return 1;
}

template <class T>
void apply(int function, const T* x, T* y, int64_t n) {
    for (int64_t k = 0; k < n; k += Simd<T>::lanes) {
        const Vec<T> v = load(x + k, n - k);
        store(y + k, function == 0 ? tanh<T>(v) : function == 1 ? sigmoid<T>(v) : function == 2 ? log<T>(v) : exp<T>(v), n - k);
    }
}

extern "C" {
const char* dream_schema() { return SCHEMA; }
// 0, or 1 where memory was short.
int dream_forward_f32(const Scan<float>* s, Team team) { return run_forward(*s, team); }
int dream_forward_f64(const Scan<double>* s, Team team) { return run_forward(*s, team); }
int dream_backward_f32(const Scan<float>* s, Team team) { return run_backward(*s, team); }
int dream_backward_f64(const Scan<double>* s, Team team) { return run_backward(*s, team); }
// tanh, sigmoid, log, exp (0 to 3) of n numbers, for the tests.
void dream_apply_f32(int function, const float* x, float* y, int64_t n) { apply(function, x, y, n); }
void dream_apply_f64(int function, const double* x, double* y, int64_t n) { apply(function, x, y, n); }
// `count` systems one after another, see `solve`; 0, or 1 where one has no solution.
int dream_solve_f64(int64_t count, int64_t n, int64_t o, const double* gram, const double* moment, const double* prior,
                    double ridge, double* work, double* x) {
    for (int64_t k = 0; k < count; ++k)
        if (!solve(n, o, gram + k * n * n, moment + k * n * o, prior + k * n * o, ridge, work, x + k * n * o)) return 1;
    return 0;
}
// One row more of each of `streams` streams, of `lanes` heads each: their sums, at the addresses `gram` and `moment`, move on where
// `solved` says that there are weights, x (streams, lanes, n, o).
void dream_follow_f64(int64_t streams, int64_t lanes, int64_t n, int64_t o, double discount, double ridge, const double* z,
                      const double* y, double* const* gram, double* const* moment, const double* const* prior, double* x,
                      uint8_t* solved, double* work) {
    const Follower head{n, o, discount, ridge};
    for (int64_t k = 0; k < streams; ++k, z += lanes * n, y += lanes * o, x += lanes * n * o) {
        solved[k] = 1;
        for (int64_t l = 0; l < lanes; ++l)
            solved[k] &= head.weights(z + l * n, y + l * o, gram[k] + l * n * n, moment[k] + l * n * o, prior[k] + l * n * o, work,
                                      x + l * n * o);
        for (int64_t l = 0; l < lanes && solved[k]; ++l)
            head.add(z + l * n, y + l * o, gram[k] + l * n * n, moment[k] + l * n * o);
    }
}
// Predictions (lanes, rows, o) of `lanes` heads, see `Foreteller`: 0, 1 where there are none, 2 where memory was short.
int dream_foretell_f64(int64_t lanes, int64_t rows, int64_t n, int64_t o, int64_t lag, double discount, double ridge, const double* z,
                       const uint8_t* learns, const double* y, double* gram, double* moment, const double* prior,
                       double* predicted) try {
    for (int64_t l = 0; l < lanes; ++l) {
        Foreteller head(n, o, lag, discount, ridge, z + l * (rows + lag) * n, learns + l * rows, y + l * rows * o, gram + l * n * n,
                        moment + l * n * o, prior + l * n * o);
        if (!head.run(rows, predicted + l * rows * o)) return 1;
    }
    return 0;
} catch (const std::exception&) {
    return 2;
}
void dream_descend_f32(int64_t windows, const int64_t* starts, const int64_t* stops, int64_t steps, int64_t f, int64_t o,
                       double lr, const float* values, const int64_t* classes, float* weight, float* bias, float* slopes) {
    descend(windows, starts, stops, steps, f, o, lr, values, classes, weight, bias, slopes);
}
void dream_descend_f64(int64_t windows, const int64_t* starts, const int64_t* stops, int64_t steps, int64_t f, int64_t o,
                       double lr, const double* values, const int64_t* classes, double* weight, double* bias, double* slopes) {
    descend(windows, starts, stops, steps, f, o, lr, values, classes, weight, bias, slopes);
}
void dream_scale_f64(int64_t rows, int64_t streams, int64_t columns, double memory, double level_limit, double difference_limit,
                     const uint8_t* learning, const double* values, const double* forecasts, double* number, double* last,
                     double* level, double* mean, double* var, double* x, double* expected, double* levels) {
    scores::Scale{rows, streams, columns, memory, level_limit, difference_limit, learning, values, forecasts,
                  number, last, level, mean, var, x, expected, levels}
        .run();
}
// 0, or 1 where memory was short.
int dream_score_f64(int64_t rows, int64_t streams, int64_t columns, int64_t kinds, int64_t width, int64_t most, double memory,
                    const scores::Constants* constants, const int64_t* measures, const uint8_t* learning, const double* x,
                    const double* prediction, const double* gate, double* burst, double* drift, double* number, double* mean,
                    double* quantile, double* count, double* sum, double* squares, int64_t* row, const int64_t* gap,
                    double* recent, double* score, double* alarm, int64_t* cause) try {
    scores::Score{rows, streams, columns, kinds, width, most, memory, constants, measures, learning, x, prediction, gate,
                  burst, drift, number, mean, quantile, count, sum, squares, row, gap, recent, score, alarm, cause}
        .run();
    return 0;
} catch (const std::exception&) {
    return 1;
}
}
