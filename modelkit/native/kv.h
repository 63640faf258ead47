// How keys and values lie in a block of the cache, and the two products of attention over one block. Keys lie
// transposed, so that a vector holds the scores of neighbouring tokens; values lie as they come, so that it holds
// neighbouring components. Every sum is taken in one order, whatever rows are computed beside it.
#pragma once
#include <limits>

#include "amx.h"

namespace {

constexpr int MAX_ROWS = 32, SPAN = 256;

// A block of one layer and kv head: key and value are its (head_dim, length) and (length, head_dim) numbers.
struct Block {
    void *keys, *values;
    int64_t length, depth;
};

// Softmax over one span: the highest score, the sum of exponentials, and the mix of values.
struct Partial {
    float highest, total;
    float* mix;
};

// Hides the scores after the first `seen`; returns the highest of those.
inline float highest_of(float* scores, int64_t seen, int64_t width) {
    std::fill(scores + seen, scores + width, -std::numeric_limits<float>::infinity());
    F first = load(scores), second = load(scores + LANES);
    for (int64_t t = 2 * LANES; t < width; t += 2 * LANES) first = max(first, load(scores + t)), second = max(second, load(scores + t + LANES));
    return highest(max(first, second));
}

// out (rows, out_stride) += left (rows, left_stride) times right (depth, right_stride), 2 * LANES columns of it.
template <class Load, int M>
inline void add_product_of(int64_t rows, const float* left, int64_t left_stride, Load right, int64_t right_stride, int64_t depth, float* out, int64_t out_stride) {
    if constexpr (M > 1)
        if (rows < M) return add_product_of<Load, M - 1>(rows, left, left_stride, right, right_stride, depth, out, out_stride);
    F sums[M][2];
    for (int m = 0; m < M; m++)
        for (int v = 0; v < 2; v++) sums[m][v] = load(out + m * out_stride + v * LANES);
    for (int64_t k = 0; k < depth; k++) {
        F first = right(k * right_stride), second = right(k * right_stride + LANES);
        for (int m = 0; m < M; m++) {
            F value = all(left[m * left_stride + k]);
            sums[m][0] = fma(value, first, sums[m][0]);
            sums[m][1] = fma(value, second, sums[m][1]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < 2; v++) store(out + m * out_stride + v * LANES, sums[m][v]);
}

template <class Load>
inline void add_products(int64_t rows, const float* left, int64_t left_stride, Load right, int64_t right_stride, int64_t depth, float* out, int64_t out_stride) {
    for (int64_t row = 0; row < rows; row += TILE_ROWS)
        add_product_of<Load, TILE_ROWS>(std::min<int64_t>(TILE_ROWS, rows - row), left + row * left_stride, left_stride, right, right_stride, depth,
                                        out + row * out_stride, out_stride);
}

// Numbers of type T, read by load_some and written by store_some, computed with in fp32.
template <class T>
struct Plain {
    using Queries = const float*;
    static Queries prepare(const float* queries, int64_t, int64_t) { return queries; }

    static F load_some(const void* base, int64_t at) {
        if constexpr (sizeof(T) == 2) return load_half(static_cast<const T*>(base) + at);
        else return load(static_cast<const T*>(base) + at);
    }

    static void store_some(T* p, F x) {
        if constexpr (sizeof(T) == 2) store_half(p, x);
        else store(p, x);
    }

    static void keep(const Block& block, int64_t slot, const float* key, const float* value) {
        T lanes[LANES];
        for (int64_t d = 0; d < block.depth; d += LANES) {
            store_some(lanes, load(key + d));
            for (int i = 0; i < LANES; i++) static_cast<T*>(block.keys)[(d + i) * block.length + slot] = lanes[i];
            store_some(static_cast<T*>(block.values) + slot * block.depth + d, load(value + d));
        }
    }

    // scores (rows, SPAN) of all tokens of a block.
    static void score(const Block& block, Queries queries, int64_t rows, float* scores) {
        for (int64_t row = 0; row < rows; row++) std::fill(scores + row * SPAN, scores + row * SPAN + block.length, 0.0f);
        for (int64_t t = 0; t < block.length; t += 2 * LANES)
            add_products(rows, queries, block.depth, [&](int64_t at) { return load_some(block.keys, t + at); }, block.length, block.depth, scores + t, SPAN);
    }

    // The first `seen` scores become exponentials relative to the highest; those after them, up to width, become 0.
    static void soften(float* scores, int64_t seen, int64_t width, Partial& out) {
        F top = all(out.highest = highest_of(scores, seen, width)), total = zero();
        for (int64_t t = 0; t < width; t += LANES) {
            F weight = exp(sub(load(scores + t), top));
            total = add(total, weight);  // those not seen are 1e-38, which changes no sum that holds a 1
            store(scores + t, weight);
        }
        std::fill(scores + seen, scores + width, 0.0f);
        out.total = sum(total);
    }

    // mix (rows, depth) = weights (rows, SPAN) of a span's tokens times their values.
    static void mix(const Block* blocks, const float* weights, int64_t rows, int64_t tokens, float* mix) {
        int64_t length = blocks[0].length, depth = blocks[0].depth;
        std::fill(mix, mix + rows * depth, 0.0f);
        for (int64_t t = 0; t < tokens; t += length)
            for (int64_t d = 0; d < depth; d += 2 * LANES)
                add_products(rows, weights + t, SPAN, [&](int64_t at) { return load_some(blocks[t / length].values, d + at); }, depth,
                             std::min(length, tokens - t), mix + d, depth);
    }
};

#if defined(HAS_AMX)
// bfloat16 for the matrix unit: neighbouring components of a key, and neighbouring tokens of a value, lie in pairs.
struct Tiled {
    using Queries = const uint16_t*;

    static Queries prepare(const float* queries, int64_t rows, int64_t depth) {
        thread_local Lines<uint16_t> halves;
        Activations::grow(halves, MAX_ROWS * depth);
        for (int64_t i = 0; i < rows * depth; i += LANES) store_bfloat(&halves[i], load(queries + i));
        return halves.data();
    }

    static void keep(const Block& block, int64_t slot, const float* key, const float* value) {
        uint16_t lanes[LANES];
        for (int64_t d = 0; d < block.depth; d += LANES) {
            store_bfloat(lanes, load(key + d));
            for (int i = 0; i < LANES; i += 2) std::memcpy(static_cast<uint16_t*>(block.keys) + (d + i) * block.length + 2 * slot, lanes + i, 4);
            store_bfloat(lanes, load(value + d));
            uint16_t* pairs = static_cast<uint16_t*>(block.values) + slot / 2 * 2 * block.depth + slot % 2;
            for (int i = 0; i < LANES; i++) pairs[2 * (d + i)] = lanes[i];
        }
    }

    static void score(const Block& block, Queries queries, int64_t rows, float* scores) {
        if (rows > TILE) score_rows<2>(block, queries, scores);
        else score_rows<1>(block, queries, scores);
    }

    // The exponentials take the first half of the scores' place, as bfloat16.
    static void soften(float* scores, int64_t seen, int64_t width, Partial& out) {
        out.highest = highest_of(scores, seen, width);
        F log2e = all(1.44269504f), top = all(out.highest * -1.44269504f), total = zero();
        for (int64_t t = 0; t < width; t += 2 * LANES) {
            F first = power_of_2(fma(load(scores + t), log2e, top)), second = power_of_2(fma(load(scores + t + LANES), log2e, top));
            total = add(total, add(first, second));
            _mm512_storeu_si512(scores + t / 2, (__m512i)_mm512_cvtne2ps_pbh(second, first));
        }
        out.total = sum(total);
    }

    static void mix(const Block* blocks, const float* weights, int64_t rows, int64_t tokens, float* mix) {
        const auto* left = reinterpret_cast<const uint16_t*>(weights);
        thread_local Lines<uint16_t> last;
        int64_t length = blocks[0].length, depth = blocks[0].depth, full = tokens / (2 * TILE) * 2 * TILE;
        auto values = [&](int64_t t) { return static_cast<const uint16_t*>(blocks[t / length].values) + t % length * depth; };
        if (full < tokens) {  // what lies behind the last token may be no number, and 0 times that is none
            last.assign(2 * TILE * depth, 0);
            int64_t whole = (tokens - full) / 2 * 2 * depth;
            std::memcpy(last.data(), values(full), whole * sizeof(uint16_t));
            if (tokens % 2) for (int64_t d = 0; d < depth; d++) last[whole + 2 * d] = values(full)[whole + 2 * d];
        }
        auto values_or_last = [&](int64_t t) { return t < full ? values(t) : last.data(); };
        if (rows > TILE) mix_rows<2>(left, values_or_last, depth, tokens, mix);
        else mix_rows<1>(left, values_or_last, depth, tokens, mix);
    }

private:
    template <int R>
    static void score_rows(const Block& block, Queries queries, float* scores) {
        for (int64_t t = 0; t < block.length; t += 2 * TILE) {
            zero_sums<R, 2>();
            for (int64_t d = 0; d < block.depth; d += 2 * TILE)
                add_halves<R>(queries + d, 2 * block.depth, static_cast<const uint16_t*>(block.keys) + d * block.length + 2 * t, 4 * block.length);
            store_sums<R, 2>(scores + t, 4 * SPAN, 4 * TILE, 4 * SPAN * TILE);
        }
    }

    template <int R, class Values>
    static void mix_rows(const uint16_t* weights, Values values, int64_t depth, int64_t tokens, float* mix) {
        for (int64_t d = 0; d < depth; d += 2 * TILE) {
            zero_sums<R, 2>();
            for (int64_t t = 0; t < tokens; t += 2 * TILE) add_halves<R>(weights + t, 4 * SPAN, values(t) + 2 * d, 4 * depth);
            store_sums<R, 2>(mix + d, 4 * depth, 4 * TILE, 4 * depth * TILE);
        }
    }
};
using Half = Tiled;
#else
using Half = Plain<uint16_t>;
#endif
using Full = Plain<float>;

}  // namespace
