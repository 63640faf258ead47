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

// Columns that share a scale, of weights and of activations alike; see packing.py.
inline int64_t block_of(int64_t format, int64_t columns) {
    if (format == INT4) return 32;
    for (int64_t block : {256, 192, 128})
        if (columns % block == 0) return block;
    return UNIT;
}
constexpr int MOST_BLOCK = 256;

#if defined(__AMX_INT8__)
constexpr bool TILED = true;
#else
constexpr bool TILED = false;
#endif

template <int N>
inline F butterfly(F x) {  // sums in the lanes without bit N, differences in those with it
    float signs[LANES];
    for (int i = 0; i < LANES; i++) signs[i] = i & N ? -1.0f : 1.0f;
    return fma(x, load(signs), swap<N>(x));
}

// UNIT values times the Walsh-Hadamard matrix, whose inverse is itself over UNIT.
inline void rotate(const float* x, float* out) {
    constexpr int COUNT = UNIT / LANES;
    F v[COUNT];
    for (int i = 0; i < COUNT; i++) {
        v[i] = butterfly<2>(butterfly<1>(load(x + i * LANES)));
        if constexpr (LANES > 4) v[i] = butterfly<4>(v[i]);
        if constexpr (LANES > 8) v[i] = butterfly<8>(v[i]);
    }
    for (int n = 1; n < COUNT; n *= 2)
        for (int i = 0; i < COUNT; i++) {
            if (i & n) continue;
            F first = v[i], second = v[i + n];
            v[i] = add(first, second), v[i + n] = sub(first, second);
        }
    for (int i = 0; i < COUNT; i++) store(out + i * LANES, v[i]);
}

// The left side of a product, (rows, columns): floats, or for INT8 and INT4 weights int8 in blocks as long as the
// weights', each with its scale, the sum of its integers, and that sum scaled; for INT8 rotated as the weights are. The
// matrix unit wants the integers in tiles of 16 rows by 64 columns, one after the other.
struct Activations {
    int64_t columns = 0, block = UNIT, blocks = 0;  // of a row
    Format format = FP32;
    Lines<float> values, scales, totals;
    Lines<int8_t> bytes;
    Lines<int32_t> sums;

    // The matrix unit reads whole tiles: up to 15 rows more than there are.
    void reserve(const Linear& weights, int64_t num_rows) {
        format = static_cast<Format>(weights.format), columns = weights.columns, block = block_of(format, columns);
        blocks = columns / block;
        size_t size = static_cast<size_t>((num_rows + 31) / 32 * 32 * columns), num_scales = size / block;
        if (format < INT8) grow(values, size);
        else grow(bytes, size), grow(scales, num_scales), grow(totals, num_scales), grow(sums, num_scales);
    }

    template <class T>
    static void grow(Lines<T>& v, size_t size) {
        if (v.size() < size) v.resize(size);
    }

    // How many columns put takes.
    int64_t portion() const { return format == INT8 ? block : UNIT; }

    // Take columns [column, column + portion()) of a row.
    void put(int64_t row, int64_t column, const float* x) {
        if (format < INT8) std::memcpy(&values[row * columns + column], x, UNIT * sizeof(float));
        else if (format == INT8) put_rotated(row, column, x);
        else for (int64_t i = 0; i < UNIT; i += 32) quantise<32>(row, column + i, x + i, 1);
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
    void put_rotated(int64_t row, int64_t column, const float* x) {
        alignas(64) float turned[MOST_BLOCK];
        for (int64_t i = 0; i < block; i += UNIT) rotate(x + i, turned + i);
        switch (block / UNIT) {
            case 1: return quantise<64>(row, column, turned, 1.0f / 8);
            case 2: return quantise<128>(row, column, turned, 1.0f / 8);
            case 3: return quantise<192>(row, column, turned, 1.0f / 8);
            default: return quantise<256>(row, column, turned, 1.0f / 8);
        }
    }

    // factor: what the values are to be multiplied with.
    template <int BLOCK>
    void quantise(int64_t row, int64_t column, const float* x, float factor) {
        F largest = zero(), total = zero();
        for (int64_t i = 0; i < BLOCK; i += LANES) largest = max(largest, abs(load(x + i)));
        float size = highest(largest);
        F inverse = all(size > 0 ? 127 / size : 0);
        for (int64_t i = 0; i < BLOCK; i += LANES) {
            F whole = round(mul(load(x + i), inverse));
            total = add(total, whole);
            store_bytes(&bytes[place(row, column + i)], whole);
        }
        int64_t index = scale_place(row, column / BLOCK);
        float exact = sum(total), scale = size / 127 * factor;
        scales[index] = scale, totals[index] = scale * exact, sums[index] = static_cast<int32_t>(exact);
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

// The same with integer weights: exact within a block, then scaled.
template <Format FORMAT, int M, int V>
inline void dot_blocks(const Linear& w, const Activations& a, int64_t row, int64_t vector, F (&out)[M][V]) {
    constexpr int GROUP = 4 * PANEL, STEP = FORMAT == INT4 ? 32 : UNIT, STEP_BYTES = STEP * PANEL / (FORMAT == INT4 ? 2 : 1);
    const char* p[V];
    for (int v = 0; v < V; v++) p[v] = panel_data(w, vector + v, w.columns / STEP * STEP_BYTES, 4);
    for (int64_t b = 0; b < a.blocks; b++) {
        int64_t at = a.scale_place(row, b);
        I acc[M][V];
        for (int m = 0; m < M; m++)
            for (int v = 0; v < V; v++) acc[m][v] = FORMAT == INT8 ? begin8(a.sums[at + m * a.scale_stride()]) : begin4();
        for (int64_t column = b * a.block; column < (b + 1) * a.block; column += STEP) {
            const int8_t* x = &a.bytes[a.place(row, column)];
            if constexpr (M <= 2)  // little is computed with each weight: ask for those to come
                for (int v = 0; v < V; v++)
                    for (int i = 0; i < STEP_BYTES; i += 64) __builtin_prefetch(p[v] + i + 4096);
            if constexpr (FORMAT == INT8) {
#pragma GCC unroll 16
                for (int g = 0; g < STEP / 4; g++) {
                    W weights[V];
                    for (int v = 0; v < V; v++) weights[v] = weights8(reinterpret_cast<const int8_t*>(p[v] + g * GROUP));
                    for (int m = 0; m < M; m++)
                        for (int v = 0; v < V; v++) acc[m][v] = dot8(acc[m][v], weights[v], x + m * a.row_stride() + 4 * g);
                }
            } else {
#pragma GCC unroll 4
                for (int g = 0; g < 4; g++) {  // a byte holds a weight of group g and one of group g + 4
                    W low[V], high[V];
                    for (int v = 0; v < V; v++) weights4(reinterpret_cast<const uint8_t*>(p[v] + g * GROUP), low[v], high[v]);
                    for (int m = 0; m < M; m++)
                        for (int v = 0; v < V; v++) {
                            acc[m][v] = dot4(acc[m][v], low[v], x + m * a.row_stride() + 4 * g);
                            acc[m][v] = dot4(acc[m][v], high[v], x + m * a.row_stride() + 4 * g + 16);
                        }
                }
            }
            for (int v = 0; v < V; v++) p[v] += STEP_BYTES;
        }
        for (int v = 0; v < V; v++) {
            int64_t scale_at = ((vector + v) / PARTS * a.blocks + b) * PANEL + (vector + v) % PARTS * LANES;
            F scale = load_half(w.scales + scale_at);
            for (int m = 0; m < M; m++) {
                F whole = FORMAT == INT8 ? end8(acc[m][v]) : end4(acc[m][v]);
                out[m][v] = fma(mul(whole, all(a.scales[at + m * a.scale_stride()])), scale, out[m][v]);
                if constexpr (FORMAT == INT4) out[m][v] = fma(load_half(w.minima + scale_at), all(a.totals[at + m * a.scale_stride()]), out[m][v]);
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
