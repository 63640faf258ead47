// Products of floats on the matrix unit, which only multiplies bfloat16: a float is taken as the sum of PARTS halves,
// two of which hold its first 16 bits, and a product as the sum of those of its halves, less the smallest.
// Source: Henry, Tang and Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
// Computations (2019).
#pragma once
#include "amx.h"

#if defined(HAS_AMX)

namespace {

constexpr int64_t DEPTH = 32, HALF_TILE = TILE * DEPTH;  // columns, and halves, of a tile

// 32 floats as PARTS rows of halves, HALF_TILE apart.
template <int PARTS>
inline void split(F first, F second, uint16_t* out) {
    __m512bh high = _mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(out, (__m512i)high);
    if constexpr (PARTS == 2) {
        F first_left = sub(first, load_bfloat(out)), second_left = sub(second, load_bfloat(out + LANES));
        _mm512_storeu_si512(out + HALF_TILE, (__m512i)_mm512_cvtne2ps_pbh(second_left, first_left));
    }
}

// Tiles of the left side come by rows: (row / 16, column / 32, part, 16, 32). Those of the right side, whose rows are
// the products' columns, by pairs of columns: (row / 16, column / 32, part, 16 pairs, 16 rows, 2).
inline int64_t left_place(int64_t row, int64_t column, int64_t columns, int parts) {
    return (row / TILE * (columns / DEPTH) + column / DEPTH) * parts * HALF_TILE + row % TILE * DEPTH + column % DEPTH;
}

template <int R, int P>
inline void add_tiles() {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (P == 2) _tile_dpbf16ps(1, 4, 7);
    if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (R == 2 && P == 2) _tile_dpbf16ps(3, 5, 7);
}

template <int R>
inline void load_left(const uint16_t* left, int64_t next) {
    _tile_loadd(4, left, 2 * DEPTH);
    if constexpr (R == 2) _tile_loadd(5, left + next, 2 * DEPTH);
}

template <int P>
inline void load_right(const uint16_t* right, int64_t next) {
    _tile_loadd(6, right, 2 * DEPTH);
    if constexpr (P == 2) _tile_loadd(7, right + next, 2 * DEPTH);
}

// R tiles of rows times P tiles of rows of the other side, over `depth` tiles of columns; out: (16 R, stride) floats.
template <int PARTS, int R, int P>
inline void product_of(const uint16_t* left, const uint16_t* right, int64_t depth, float* out, int64_t stride) {
    int64_t next = depth * PARTS * HALF_TILE;
    zero_sums<R, P>();
    for (int64_t k = 0; k < depth; k++, left += PARTS * HALF_TILE, right += PARTS * HALF_TILE) {
        load_left<R>(left, next), load_right<P>(right, next);
        add_tiles<R, P>();
        if constexpr (PARTS == 2) {
            load_left<R>(left + HALF_TILE, next);
            add_tiles<R, P>();
            load_left<R>(left, next), load_right<P>(right + HALF_TILE, next);
            add_tiles<R, P>();
        }
    }
    store_sums<R, P>(out, stride * 4, TILE * 4, stride * 4 * TILE);
}

template <int PARTS>
inline void product(const uint16_t* left, bool two_left, const uint16_t* right, bool two_right, int64_t depth, float* out, int64_t stride) {
    if (two_left && two_right) product_of<PARTS, 2, 2>(left, right, depth, out, stride);
    else if (two_left) product_of<PARTS, 2, 1>(left, right, depth, out, stride);
    else if (two_right) product_of<PARTS, 1, 2>(left, right, depth, out, stride);
    else product_of<PARTS, 1, 1>(left, right, depth, out, stride);
}

// Turns 16 rows of 16 values of 32 bits.
inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++) {
            t[8 * half + i] = _mm512_shuffle_i32x4(r[8 * half + i], r[8 * half + i + 4], 0x88);
            t[8 * half + i + 4] = _mm512_shuffle_i32x4(r[8 * half + i], r[8 * half + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[(i & 3) + (i >> 2) * 4] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[(i & 3) + (i >> 2) * 4 + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

}  // namespace
#endif
