// The left side of an encoder's products and the products themselves, one kind for each way to compute them. A kind
// takes values row by row, UNIT at a time, and multiplies some rows with one UNIT of weight rows.
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
    void put(int64_t row, int64_t column, const float* x) { a_.put(row, column, x); }

    // Rows [begin, end), begin a multiple of 32, times weight rows [unit * UNIT, ...), without their bias;
    // out: (end - begin, UNIT), with room for whole tiles.
    void multiply(Linear w, int64_t begin, int64_t end, int64_t unit, float* out) const {
        w.bias = nullptr;
        Output target{out - begin * UNIT, UNIT, false};
#if defined(HAS_AMX)
        if constexpr (FORMAT == INT8) {
            for (int64_t panel = 0; panel < UNIT / PANEL; panel += 2) {
                int64_t at = unit * UNIT / PANEL + panel;
                const int8_t* data = static_cast<const int8_t*>(w.data) + at * w.columns * PANEL;
                for (int64_t row = begin; row < end; row += 2 * TILE) {
                    if (end - row > TILE) tiles_of<FORMAT, 2, 2>(w, a_, end, row, at, data, target, panel * PANEL);
                    else tiles_of<FORMAT, 1, 2>(w, a_, end, row, at, data, target, panel * PANEL);
                }
            }
            return;
        }
#endif
        for (int64_t vector = 0; vector < UNIT / LANES; vector += 2)
            for (int64_t row = begin; row < end; row += TILE_ROWS)
                tile_of<FORMAT, 2, TILE_ROWS>(end - row, w, a_, row, unit * UNIT / LANES + vector, target, vector * LANES);
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

    void put(int64_t row, int64_t column, const float* x) {
        for (int64_t i = 0; i < UNIT; i += DEPTH)
            split<PARTS>(load(x + i), load(x + i + LANES), &values_[left_place(row, column + i, columns_, PARTS)]);
    }

    void multiply(const Linear& w, int64_t begin, int64_t end, int64_t unit, float* out) const {
        int64_t panel_halves = w.columns * PANEL * PARTS, depth = w.columns / DEPTH;
        const uint16_t* right = static_cast<const uint16_t*>(w.data) + unit * UNIT / PANEL * panel_halves;
        for (int64_t panel = 0; panel < UNIT / PANEL; panel += 2)
            for (int64_t row = begin; row < end; row += 2 * TILE)
                product<PARTS>(&values_[left_place(row, 0, columns_, PARTS)], end - row > TILE, right + panel * panel_halves, true, depth,
                               out + (row - begin) * UNIT + panel * PANEL, UNIT);
    }

private:
    int64_t columns_ = 0;
    std::vector<uint16_t> values_;
};
#endif

}  // namespace
