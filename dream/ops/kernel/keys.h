// Products with K: blocks of m = min(KEY_BLOCK, H) units that are mixed among themselves.
#pragma once

#include "scan.h"

// A block-diagonal matrix (H, H): K, or its transpose. Vectors are padded with zeros to whole blocks.
template <class T>
class BlockDiagonal {
  public:
    static constexpr long L = Simd<T>::lanes;

    BlockDiagonal(const T* K, long H, bool transposed)
        : units(H), size(std::min(KEY_BLOCK, H)), blocks((H + size - 1) / size), wide(padded<T>(size)) {
        if (!K) return;
        if (!transposed && H % size == 0 && wide == size) {
            matrix_ = K;
            return;
        }
        packed_ = Buffer<T>(blocks * size * wide);
        for (long g = 0; g < blocks; ++g)
            for (long i = 0; i < size && g * size + i < H; ++i)
                for (long j = 0; j < size && g * size + j < H; ++j)
                    packed_[(g * size + (transposed ? j : i)) * wide + (transposed ? i : j)] = K[(g * size + i) * size + j];
        matrix_ = packed_;
    }

    // y = start + x K; y may be start.
    void times(const T* x, const T* start, T* y) const {
        switch (wide / L) {
            case 1: return run<1>(x, start, y);
            case 2: return run<2>(x, start, y);
            case 3: return run<3>(x, start, y);
            default: return run<4>(x, start, y);
        }
    }

    // gradient (G m, wide) += x^T d, block by block; x need not be padded.
    void add_outer(const T* x, const T* d, T* gradient) const {
        for (long g = 0; g < blocks; ++g)
            for (long v = 0; v < wide; v += L) {
                const Vec<T> dv = load(d + g * wide + v);
                for (long i = 0; i < std::min(size, units - g * size); ++i) {
                    T* at = gradient + (g * size + i) * wide + v;
                    store(at, Vec<T>(load(at) + x[g * size + i] * dv));
                }
            }
    }

    long units, size, blocks, wide;  // H, m, G, and m in whole vectors

  private:
    template <int NV>
    void run(const T* x, const T* start, T* y) const {
        constexpr int together = std::max(1, 4 / NV);  // blocks, enough independent sums to hide the FMA's latency
        long g = 0;
        for (; g + together <= blocks; g += together) some<NV, together>(g, x, start, y);
        for (; g < blocks; ++g) some<NV, 1>(g, x, start, y);
    }

    template <int NV, int COUNT>
    void some(long g, const T* x, const T* start, T* y) const {
        Vec<T> sums[COUNT][NV];
        const T* rows = matrix_ + g * size * wide;
        x += g * size, start += g * wide, y += g * wide;
#pragma GCC unroll 4
        for (int b = 0; b < COUNT; ++b)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sums[b][v] = load(start + b * wide + v * L);
        for (long i = 0; i < size; ++i)
#pragma GCC unroll 4
            for (int b = 0; b < COUNT; ++b)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) sums[b][v] += x[b * size + i] * load(rows + (b * size + i) * wide + v * L);
#pragma GCC unroll 4
        for (int b = 0; b < COUNT; ++b)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) store(y + b * wide + v * L, sums[b][v]);
    }

    const T* matrix_ = nullptr;
    Buffer<T> packed_;
};

