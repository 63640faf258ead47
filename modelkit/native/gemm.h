// Products of activations with packed weights. Each result is summed in one order, whatever else is computed beside
// it: a row's values do not depend on its batch.
#pragma once
#include <algorithm>
#include <new>
#include <vector>

#include "api.h"
#include "simd.h"

namespace {

// Memory that starts with a cache line: a vector or tile row that lies across two is read at half the speed.
template <class T>
struct LineAllocator {
    using value_type = T;
    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), LINE)); }
    void deallocate(T* p, size_t) { ::operator delete(p, LINE); }
    bool operator==(const LineAllocator&) const = default;
    static constexpr std::align_val_t LINE{64};
};
template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

constexpr int PANEL = 16, UNIT = 64, PARTS = PANEL / LANES;

// Columns of activations that share a scale.
constexpr int block_of(int64_t format) { return format == INT4 ? 32 : UNIT; }

// Blocks of activations whose weights share a scale; see packing.py.
constexpr int MOST_BLOCKS = 4;
inline int64_t blocks_per_scale(int64_t format, int64_t columns) {
    if (format == INT4) return 1;
    for (int64_t count : {4, 3, 2})
        if (columns % (count * UNIT) == 0) return count;
    return 1;
}

#if defined(__AMX_INT8__)
constexpr bool TILED = true;
#else
constexpr bool TILED = false;
#endif

// The left side of a product, (rows, columns): floats, or for INT8 and INT4 weights int8 in blocks as long as the
// weights', each with its scale, the sum of its integers, and that sum scaled. The matrix unit wants the integers in
// tiles of 16 rows by 64 columns, one after the other.
struct Activations {
    int64_t columns = 0, block = UNIT, blocks = 0;  // of a row
    bool quantised = false;
    Lines<float> values, scales, totals;
    Lines<int8_t> bytes;
    Lines<int32_t> sums;

    // The matrix unit reads whole tiles: up to 15 rows more than there are.
    void reserve(const Linear& weights, int64_t num_rows) {
        columns = weights.columns, block = block_of(weights.format), quantised = weights.format >= INT8;
        blocks = columns / block;
        size_t size = static_cast<size_t>((num_rows + 15) / 16 * 16 * columns), num_scales = size / block;
        if (!quantised) grow(values, size);
        if (quantised) grow(bytes, size), grow(scales, num_scales), grow(totals, num_scales), grow(sums, num_scales);
    }

    template <class T>
    static void grow(Lines<T>& v, size_t size) {
        if (v.size() < size) v.resize(size);
    }

    // Take UNIT values as columns [column, column + UNIT) of a row.
    void put(int64_t row, int64_t column, const float* x) {
        int64_t at = row * columns + column;
        if (!quantised) std::memcpy(&values[at], x, UNIT * sizeof(float));
        else if (block == UNIT) quantise<UNIT>(row, column, x);
        else for (int64_t i = 0; i < UNIT; i += UNIT / 2) quantise<UNIT / 2>(row, column + i, x + i);
    }

    // Where the integer of a row and column is; rows of one tile, or all rows, are row_stride() apart.
    int64_t place(int64_t row, int64_t column) const {
        if constexpr (!TILED) return row * columns + column;
        return (row / 16 * columns / 64 + column / 64) * 1024 + row % 16 * 64 + column % 64;
    }
    int64_t row_stride() const { return TILED ? 64 : columns; }

    // Where the scale and the totals of a row's block are; rows of one tile, or all rows, are scale_stride() apart.
    int64_t scale_place(int64_t row, int64_t b) const {
        return TILED ? (row / 16 * blocks + b) * 16 + row % 16 : row * blocks + b;
    }
    int64_t scale_stride() const { return TILED ? 1 : blocks; }

private:
    template <int BLOCK>
    void quantise(int64_t row, int64_t column, const float* x) {
        int64_t at = place(row, column);
        F largest = zero(), total = zero();
        for (int64_t i = 0; i < BLOCK; i += LANES) largest = max(largest, abs(load(x + i)));
        float size = highest(largest);
        F inverse = all(size > 0 ? 127 / size : 0);
        for (int64_t i = 0; i < BLOCK; i += LANES) {
            F whole = round(mul(load(x + i), inverse));
            total = add(total, whole);
            store_bytes(&bytes[at + i], whole);
        }
        int64_t index = scale_place(row, column / BLOCK);
        float exact = sum(total);
        scales[index] = size / 127, totals[index] = size / 127 * exact, sums[index] = static_cast<int32_t>(exact);
    }
};

inline const char* panel_data(const Linear& w, int64_t vector, int64_t panel_bytes, int lane_bytes) {
    return static_cast<const char*>(w.data) + vector / PARTS * panel_bytes + vector % PARTS * LANES * lane_bytes;
}

template <Format FORMAT>
inline F load_weights(const char* p) {
    if constexpr (FORMAT == FP32) return load(reinterpret_cast<const float*>(p));
    if constexpr (FORMAT == FP16) return load_half(reinterpret_cast<const uint16_t*>(p));
    return load_bfloat(reinterpret_cast<const uint16_t*>(p));
}

// Sums of M rows with V vectors of weight rows, floating point weights.
template <Format FORMAT, int M, int V>
inline void dot_floats(const Linear& w, const Activations& a, int64_t row, int64_t vector, F (&out)[M][V]) {
    constexpr int BYTES = FORMAT == FP32 ? 4 : 2;
    const char* p[V];
    for (int v = 0; v < V; v++) p[v] = panel_data(w, vector + v, w.columns * PANEL * BYTES, BYTES);
    const float* x = &a.values[row * a.columns];
#pragma GCC unroll 4
    for (int64_t k = 0; k < w.columns; k++) {
        F weights[V];
        for (int v = 0; v < V; v++) weights[v] = load_weights<FORMAT>(p[v] + k * PANEL * BYTES);
        for (int m = 0; m < M; m++) {
            F value = all(x[m * a.columns + k]);
            for (int v = 0; v < V; v++) out[m][v] = fma(weights[v], value, out[m][v]);
        }
    }
}

// The same with integer weights: exact within a block, then scaled as the activations are, and in larger blocks as the
// weights are.
template <Format FORMAT, int M, int V>
inline void dot_blocks(const Linear& w, const Activations& a, int64_t row, int64_t vector, F (&out)[M][V]) {
    constexpr int BLOCK = block_of(FORMAT), GROUP = 4 * PANEL, BLOCK_BYTES = BLOCK * PANEL / (FORMAT == INT4 ? 2 : 1);
    int64_t blocks = w.columns / BLOCK, per_scale = blocks_per_scale(FORMAT, w.columns);
    const char* p[V];
    for (int v = 0; v < V; v++) p[v] = panel_data(w, vector + v, blocks * BLOCK_BYTES, 4);
    for (int64_t first = 0; first < blocks; first += per_scale) {
        F parts[M][V];
        for (int m = 0; m < M; m++)
            for (int v = 0; v < V; v++) parts[m][v] = zero();
        for (int64_t b = first; b < first + per_scale; b++) {
            const int8_t* x = &a.bytes[a.place(row, b * BLOCK)];
            int64_t at = a.scale_place(row, b);
            if constexpr (M <= 2)  // little is computed with each weight: ask for those to come
                for (int v = 0; v < V; v++)
                    for (int i = 0; i < BLOCK_BYTES; i += 64) __builtin_prefetch(p[v] + b * BLOCK_BYTES + i + 4096);
            I acc[M][V];
            for (int m = 0; m < M; m++)
                for (int v = 0; v < V; v++) acc[m][v] = FORMAT == INT8 ? begin8(a.sums[at + m * a.scale_stride()]) : begin4();
            if constexpr (FORMAT == INT8) {
#pragma GCC unroll 16
                for (int g = 0; g < BLOCK / 4; g++) {
                    W weights[V];
                    for (int v = 0; v < V; v++) weights[v] = weights8(reinterpret_cast<const int8_t*>(p[v] + b * BLOCK_BYTES + g * GROUP));
                    for (int m = 0; m < M; m++)
                        for (int v = 0; v < V; v++) acc[m][v] = dot8(acc[m][v], weights[v], x + m * a.row_stride() + 4 * g);
                }
            } else {
#pragma GCC unroll 4
                for (int g = 0; g < 4; g++) {  // a byte holds a weight of group g and one of group g + 4
                    W low[V], high[V];
                    for (int v = 0; v < V; v++) weights4(reinterpret_cast<const uint8_t*>(p[v] + b * BLOCK_BYTES + g * GROUP), low[v], high[v]);
                    for (int m = 0; m < M; m++)
                        for (int v = 0; v < V; v++) {
                            acc[m][v] = dot4(acc[m][v], low[v], x + m * a.row_stride() + 4 * g);
                            acc[m][v] = dot4(acc[m][v], high[v], x + m * a.row_stride() + 4 * g + 16);
                        }
                }
            }
            for (int m = 0; m < M; m++)
                for (int v = 0; v < V; v++) {
                    F whole = FORMAT == INT8 ? end8(acc[m][v]) : end4(acc[m][v]);
                    parts[m][v] = fma(whole, all(a.scales[at + m * a.scale_stride()]), parts[m][v]);
                }
        }
        for (int v = 0; v < V; v++) {
            int64_t scale_at = ((vector + v) / PARTS * blocks + first) / per_scale * PANEL + (vector + v) % PARTS * LANES;
            F scale = load_half(w.scales + scale_at);
            for (int m = 0; m < M; m++) {
                out[m][v] = fma(parts[m][v], scale, out[m][v]);
                if constexpr (FORMAT == INT4) out[m][v] = fma(load_half(w.minima + scale_at), all(a.totals[a.scale_place(row, first) + m * a.scale_stride()]), out[m][v]);
            }
        }
    }
}

// Rows [begin, end) of the activations; begin is at the start of a tile of 16.
struct Rows {
    int64_t begin, end;
};

// Where a product goes: (rows, stride) from the first of these rows on; with accumulate it is added to what is there.
struct Output {
    float* values;
    int64_t stride;
    bool accumulate;
};

template <Format FORMAT, int M, int V>
void tile(const Linear& w, const Activations& a, int64_t row, int64_t vector, const Output& out, int64_t column) {
    F sums[M][V];
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) sums[m][v] = w.bias ? load(w.bias + (vector + v) * LANES) : zero();
    if constexpr (FORMAT >= INT8) dot_blocks<FORMAT, M, V>(w, a, row, vector, sums);
    else dot_floats<FORMAT, M, V>(w, a, row, vector, sums);
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) {
            float* p = out.values + m * out.stride + column + v * LANES;
            store(p, out.accumulate ? add(load(p), sums[m][v]) : sums[m][v]);
        }
}

template <Format FORMAT, int V, int M>
void tile_of(int64_t rows, const Linear& w, const Activations& a, int64_t row, int64_t vector, const Output& out, int64_t column) {
    if constexpr (M > 1)
        if (rows < M) return tile_of<FORMAT, V, M - 1>(rows, w, a, row, vector, out, column);
    tile<FORMAT, M, V>(w, a, row, vector, out, column);
}

template <Format FORMAT>
void multiply_as(const Linear& w, const Activations& a, Rows rows, int64_t first, int64_t last, const Output& out) {
    // what stays in a core's cache while the panels pass by
    const int64_t row_block = FORMAT >= INT8 ? 512 : 96;
    int64_t begin = first * PARTS, end = last * PARTS;
    for (int64_t top = rows.begin; top < rows.end; top += row_block) {
        int64_t bottom = std::min(rows.end, top + row_block);
        for (int64_t v = begin; v < end;) {
            int64_t left = end - v, width = rows.end - rows.begin <= 2 && left >= 4 ? 4 : left >= 2 ? 2 : 1, column = (v - begin) * LANES;
            int64_t tiles = (bottom - top + TILE_ROWS - 1) / TILE_ROWS;
            for (int64_t row = top; tiles > 0; tiles--) {
                int64_t count = (bottom - row + tiles - 1) / tiles;  // even tiles: each reads the weights once more
                Output at{out.values + (row - rows.begin) * out.stride, out.stride, out.accumulate};
                if (width == 4) tile_of<FORMAT, 4, 2>(count, w, a, row, v, at, column);
                else if (width == 2) tile_of<FORMAT, 2, TILE_ROWS>(count, w, a, row, v, at, column);
                else tile_of<FORMAT, 1, TILE_ROWS>(count, w, a, row, v, at, column);
                row += count;
            }
            v += width;
        }
    }
}

}  // namespace
