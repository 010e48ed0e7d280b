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

    // y = start + x K for some rows, strides between them ldx, 0 or ldy, and ldy; y may be start.
    void times(const T* x, long ldx, const T* start, long lds, T* y, long ldy, int rows) const {
        switch (wide / L) {
            case 1: return strip<1>(x, ldx, start, lds, y, ldy, rows);
            case 2: return strip<2>(x, ldx, start, lds, y, ldy, rows);
            case 3: return strip<3>(x, ldx, start, lds, y, ldy, rows);
            default: strip<4>(x, ldx, start, lds, y, ldy, rows);
        }
    }

    // gradient (G m, wide) += x^T d for `count` rows, block by block; x need not be padded.
    void add_outer(const T* const* x, const T* const* d, long count, T* gradient) const {
        for (long g = 0; g < blocks; ++g)
            for (long v = 0; v < wide; v += L) {
                const long left = std::min(size, units - g * size);
                T* to = gradient + g * size * wide + v;
                long i = 0;
                for (; i + ROWS <= left; i += ROWS) outer<ROWS>(x, d, count, g * size + i, g * wide + v, to + i * wide);
                for (; i < left; ++i) outer<1>(x, d, count, g * size + i, g * wide + v, to + i * wide);
            }
    }

    long units, size, blocks, wide;  // H, m, G, and m in whole vectors

  private:
    static constexpr int ROWS = TILE == 8 ? 16 : 8;  // of a gradient, whose sums are in registers at once

    template <int COUNT>
    void outer(const T* const* x, const T* const* d, long count, long row, long column, T* to) const {
        Vec<T> sums[COUNT];
#pragma GCC unroll 16
        for (int i = 0; i < COUNT; ++i) sums[i] = load(to + i * wide);
        for (long k = 0; k < count; ++k) {
            const Vec<T> dv = load(d[k] + column);
#pragma GCC unroll 16
            for (int i = 0; i < COUNT; ++i) sums[i] += x[k][row + i] * dv;
        }
#pragma GCC unroll 16
        for (int i = 0; i < COUNT; ++i) store(to + i * wide, sums[i]);
    }

    template <int NV>
    void strip(const T* x, long ldx, const T* start, long lds, T* y, long ldy, int rows) const {
        constexpr int most = std::max(1, TILE / NV);
        for (; rows >= most; rows -= most, x += most * ldx, start += most * lds, y += most * ldy)
            some<NV, most>(x, ldx, start, lds, y, ldy);
        for (; rows > 0; --rows, x += ldx, start += lds, y += ldy) some<NV, 1>(x, ldx, start, lds, y, ldy);
    }

    template <int NV, int MR>
    void some(const T* x, long ldx, const T* start, long lds, T* y, long ldy) const {
        constexpr int together = std::max(1, 4 / (NV * MR));  // blocks, enough independent sums to hide the FMA's latency
        long g = 0;
        for (; g + together <= blocks; g += together) block<NV, MR, together>(g, x, ldx, start, lds, y, ldy);
        for (; g < blocks; ++g) block<NV, MR, 1>(g, x, ldx, start, lds, y, ldy);
    }

    template <int NV, int MR, int COUNT>
    void block(long g, const T* x, long ldx, const T* start, long lds, T* y, long ldy) const {
        Vec<T> sums[MR][COUNT][NV];
        const T* rows = matrix_ + g * size * wide;
        x += g * size, start += g * wide, y += g * wide;
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
            for (int b = 0; b < COUNT; ++b)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) sums[m][b][v] = load(start + m * lds + b * wide + v * L);
        for (long i = 0; i < size; ++i)
#pragma GCC unroll 4
            for (int b = 0; b < COUNT; ++b)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) {
                    const Vec<T> row = load(rows + (b * size + i) * wide + v * L);
#pragma GCC unroll 8
                    for (int m = 0; m < MR; ++m) sums[m][b][v] += x[m * ldx + b * size + i] * row;
                }
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
            for (int b = 0; b < COUNT; ++b)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) store(y + m * ldy + b * wide + v * L, sums[m][b][v]);
    }

    const T* matrix_ = nullptr;
    Buffer<T> packed_;
};

