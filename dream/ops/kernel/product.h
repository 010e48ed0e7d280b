// y = a B for a few rows of a and a constant B that is packed once: panels of up to PANEL vectors of columns, each panel
// contiguous in k, so that a step streams B through the cache in order and keeps its sums in registers.
#pragma once

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "vector.h"

#if defined(__AVX512F__)
constexpr int TILE = 8;  // rows whose sums are in registers at once: TILE * PANEL of 32
#else
constexpr int TILE = 4;  // of 16
#endif
constexpr int PANEL = 3;

// Memory of a thread that its last calls have let go of: the next call of the same sizes finds it mapped and warm.
class Pool {
  public:
    static constexpr size_t most = size_t(32) << 20;  // bytes

    void* take(size_t size) {
        for (size_t k = free_.size(); k-- > 0;)
            if (free_[k].first == size) {
                void* found = free_[k].second;
                free_.erase(free_.begin() + k);
                held_ -= size;
                return found;
            }
        return ::operator new(size, std::align_val_t(64));
    }
    void give(void* memory, size_t size) noexcept {
        if (size > most) return ::operator delete(memory, std::align_val_t(64));
        while (held_ + size > most) drop();  // the oldest first
        try {
            free_.emplace_back(size, memory);
            held_ += size;
        } catch (const std::bad_alloc&) {
            ::operator delete(memory, std::align_val_t(64));
        }
    }
    ~Pool() {
        while (!free_.empty()) drop();
    }

  private:
    void drop() {
        held_ -= free_.front().first;
        ::operator delete(free_.front().second, std::align_val_t(64));
        free_.erase(free_.begin());
    }
    std::vector<std::pair<size_t, void*>> free_;
    size_t held_ = 0;
};
inline thread_local Pool pool;

// Zeroed memory, aligned for vectors.
template <class T>
class Buffer {
  public:
    explicit Buffer(size_t n = 0) : size_((n * sizeof(T) + 63) / 64 * 64) {
        if (n == 0) return;
        data_ = static_cast<T*>(pool.take(size_));
        std::memset(data_, 0, size_);
    }
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Buffer() {
        if (data_) pool.give(data_, size_);
    }
    operator T*() const { return data_; }

  private:
    T* data_ = nullptr;
    size_t size_ = 0;
};

// B (depth, width), both in whole vectors; what is not placed is 0.
template <class T>
class Packed {
  public:
    Packed() = default;
    Packed(long depth, long width) : depth(depth), width(width), data_(depth * width) {}

    // Put a matrix (rows, columns), element (r, c) at source[r * down + c * across], at row k0 and column n0.
    void place(const T* source, long rows, long columns, long down, long across, long k0, long n0) {
        for (long n = n0, end; n < n0 + columns; n = end) {
            const long start = n / step * step, wide = std::min(step, width - start);
            end = std::min(start + step, n0 + columns);
            for (long r = 0; r < rows; ++r) {
                T* to = data_ + start * depth + (k0 + r) * wide + (n - start);
                const T* from = source + r * down + (n - n0) * across;
                for (long c = 0; c < end - n; ++c) to[c] = from[c * across];
            }
        }
    }

    // y (rows, width) = a (rows, depth) B; strides between rows are lda and ldy.
    void times(const T* a, long lda, T* y, long ldy, int rows) const {
        for (long n = 0; n < width; n += step) {
            const T* panel = data_ + n * depth;
            switch ((width - n) / Simd<T>::lanes) {
                case 1: strip<1>(a, lda, panel, y + n, ldy, rows); break;
                case 2: strip<2>(a, lda, panel, y + n, ldy, rows); break;
                default: strip<PANEL>(a, lda, panel, y + n, ldy, rows);
            }
        }
    }

    long depth = 0, width = 0;

  private:
    static constexpr long step = PANEL * Simd<T>::lanes;

    template <int NR>
    void strip(const T* a, long lda, const T* panel, T* y, long ldy, int rows) const {
        for (; rows >= TILE; rows -= TILE, a += TILE * lda, y += TILE * ldy) tile<TILE, NR>(a, lda, panel, y, ldy);
        switch (rows) {
            case 1: return tile<1, NR>(a, lda, panel, y, ldy);
            case 2: return tile<2, NR>(a, lda, panel, y, ldy);
            case 3: return tile<3, NR>(a, lda, panel, y, ldy);
            case 4: return tile<std::min(4, TILE), NR>(a, lda, panel, y, ldy);
            case 5: return tile<std::min(5, TILE), NR>(a, lda, panel, y, ldy);
            case 6: return tile<std::min(6, TILE), NR>(a, lda, panel, y, ldy);
            case 7: return tile<std::min(7, TILE), NR>(a, lda, panel, y, ldy);
        }
    }

    template <int MR, int NR>
    void tile(const T* a, long lda, const T* panel, T* y, long ldy) const {
        constexpr int lanes = Simd<T>::lanes;
        constexpr int chains = std::max(1, std::min(4, 12 / (MR * NR)));  // enough independent sums to hide the FMA's latency
        Vec<T> sums[chains][MR][NR] = {};
        long k = 0;
        auto advance = [&](int chain) __attribute__((always_inline)) {
            Vec<T> b[NR];
#pragma GCC unroll 8
            for (int n = 0; n < NR; ++n) b[n] = load(panel + k * NR * lanes + n * lanes);
#pragma GCC unroll 8
            for (int m = 0; m < MR; ++m)
#pragma GCC unroll 8
                for (int n = 0; n < NR; ++n) sums[chain][m][n] += a[m * lda + k] * b[n];
            ++k;
        };
        while (k + chains <= depth) {
#pragma GCC unroll 4
            for (int chain = 0; chain < chains; ++chain) advance(chain);
        }
        while (k < depth) advance(0);
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m)
#pragma GCC unroll 8
            for (int n = 0; n < NR; ++n) {
                Vec<T> total = sums[0][m][n];
#pragma GCC unroll 4
                for (int chain = 1; chain < chains; ++chain) total += sums[chain][m][n];
                store(y + m * ldy + n * lanes, total);
            }
    }

    Buffer<T> data_;
};

// The same product by the matrices where they are: for a call too short to pay for packing. Rows of B lie across 1.
template <class T>
class Loose {
  public:
    Loose(long depth, long width) : depth(depth), width(width) {}

    void place(const T* source, long rows, long columns, long down, long across, long k0, long n0) {
        (void)across;
        parts_.push_back({source, rows, columns, down, k0, n0});
    }

    void times(const T* a, long lda, T* y, long ldy, int rows) const {
        for (int row = 0; row < rows; ++row, a += lda, y += ldy) {
            for (const Part& part : parts_) {
                long n = 0;
                for (; n + 8 * lanes <= part.columns; n += 8 * lanes) strip<8>(part, a, y, n);
                for (; n + 4 * lanes <= part.columns; n += 4 * lanes) strip<4>(part, a, y, n);
                for (; n < part.columns; n += lanes) strip<1>(part, a, y, n);
            }
        }
    }

    long depth, width;

  private:
    static constexpr long lanes = Simd<T>::lanes;
    struct Part {
        const T* source;
        long rows, columns, down, k0, n0;
    };

    template <int NR>
    static void strip(const Part& part, const T* a, T* y, long n) {
        constexpr int chains = 8 / NR;
        Vec<T> sums[chains][NR] = {};
        const long left = NR == 1 ? part.columns - n : NR * lanes;
        const T* source = part.source + n;
        long k = 0;
        for (; k + chains <= part.rows; k += chains)
#pragma GCC unroll 8
            for (int chain = 0; chain < chains; ++chain)
#pragma GCC unroll 8
                for (int m = 0; m < NR; ++m)
                    sums[chain][m] += a[part.k0 + k + chain] * load(source + (k + chain) * part.down + m * lanes, left - m * lanes);
        for (; k < part.rows; ++k)
#pragma GCC unroll 8
            for (int m = 0; m < NR; ++m) sums[0][m] += a[part.k0 + k] * load(source + k * part.down + m * lanes, left - m * lanes);
#pragma GCC unroll 8
        for (int m = 0; m < NR; ++m) {
            Vec<T> total = sums[0][m];
#pragma GCC unroll 8
            for (int chain = 1; chain < chains; ++chain) total += sums[chain][m];
            store(y + part.n0 + n + m * lanes, total);
        }
    }

    std::vector<Part> parts_;
};

// G (columns of a, width) += sum over k of a_k^T b_k, for `count` rows a_k and b_k where they lie: a gradient from the rows
// that a segment has just left in the cache. width is in whole vectors, and `down` from one row of G to the next.
template <class T>
class Outer {
  public:
    Outer(const T* const* a, const T* const* b, long count) : a_(a), b_(b), count_(count) {}

    // b0: the first column of b that takes part.
    void add(T* G, long columns, long width, long down, long b0 = 0) const {
        constexpr long step = PANEL * Simd<T>::lanes;
        for (long n = 0; n < width; n += step)
            switch ((width - n) / Simd<T>::lanes) {
                case 1: strip<1>(G + n, columns, down, b0 + n); break;
                case 2: strip<2>(G + n, columns, down, b0 + n); break;
                default: strip<PANEL>(G + n, columns, down, b0 + n);
            }
    }

  private:
    template <int NR>
    void strip(T* G, long columns, long down, long n) const {
        long m = 0;
        for (; m + TILE <= columns; m += TILE) tile<TILE, NR>(G + m * down, m, down, n);
        for (; m < columns; ++m) tile<1, NR>(G + m * down, m, down, n);
    }

    template <int MR, int NR>
    void tile(T* G, long m, long down, long n) const {
        constexpr int lanes = Simd<T>::lanes;
        Vec<T> sums[MR][NR];
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < NR; ++j) sums[i][j] = load(G + i * down + j * lanes);
        for (long k = 0; k < count_; ++k) {
            const T *a = a_[k] + m, *b = b_[k] + n;
            Vec<T> right[NR];
#pragma GCC unroll 8
            for (int j = 0; j < NR; ++j) right[j] = load(b + j * lanes);
#pragma GCC unroll 8
            for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
                for (int j = 0; j < NR; ++j) sums[i][j] += a[i] * right[j];
        }
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < NR; ++j) store(G + i * down + j * lanes, sums[i][j]);
    }

    const T *const *a_, *const *b_;
    long count_;
};
