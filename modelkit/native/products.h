// The left side of an encoder's products and the products themselves, one kind for each way to compute them. A kind
// takes values row by row, portion() at a time, and multiplies some rows with some panels of weights.
#pragma once
#include "gemm.h"
#include "halves.h"

namespace {

// Weights as the decoder has them; activations are floats, or for INT8 weights integers.
template <Format FORMAT>
class Panels {
public:
    static constexpr int PARTS = 1;
    void reserve(const Linear& weights, int64_t num_rows) { a_.reserve(weights, num_rows); }
    int64_t portion() const { return a_.portion(); }
    void put(int64_t row, int64_t column, const float* x) { a_.put(row, column, x); }

    // Rows, the first a multiple of 16, times panels [first, last), without their bias; out has room for whole tiles.
    void multiply(Linear w, Rows rows, int64_t first, int64_t last, const Output& out) const {
        w.bias = nullptr;
#if defined(HAS_AMX)
        if constexpr (FORMAT == INT8) return multiply_tiles<FORMAT>(w, a_, rows, first, last, out);
#endif
        multiply_as<FORMAT>(w, a_, rows, first, last, out);
    }

private:
    Activations a_;
};

#if defined(HAS_AMX)
// Weights and activations as one or two halves each.
template <int COUNT>
class Halves {
public:
    static constexpr int PARTS = COUNT;

    void reserve(const Linear& weights, int64_t num_rows) {
        columns_ = weights.columns;
        Activations::grow(values_, (num_rows + 31) / 32 * 32 * columns_ * PARTS);
    }

    int64_t portion() const { return UNIT; }

    void put(int64_t row, int64_t column, const float* x) {
        for (int64_t i = 0; i < UNIT; i += DEPTH)
            split<PARTS>(load(x + i), load(x + i + LANES), &values_[left_place(row, column + i, columns_, PARTS)]);
    }

    void multiply(const Linear& w, Rows rows, int64_t first, int64_t last, const Output& out) const {
        int64_t panel_halves = w.columns * PANEL * PARTS, depth = w.columns / DEPTH;
        const uint16_t* right = static_cast<const uint16_t*>(w.data);
        for (int64_t panel = first; panel < last; panel += 2)
            for (int64_t row = rows.begin; row < rows.end; row += 2 * TILE)
                product<PARTS>(&values_[left_place(row, 0, columns_, PARTS)], rows.end - row > TILE, right + panel * panel_halves, true, depth,
                               out.values + (row - rows.begin) * out.stride + (panel - first) * PANEL, out.stride);
    }

private:
    int64_t columns_ = 0;
    Lines<uint16_t> values_;
};
#endif

}  // namespace
