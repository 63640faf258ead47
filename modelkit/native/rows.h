// Attention of the tokens of one row over all of the same row; knows no cache.
#pragma once
#include <limits>

#include "halves.h"

namespace {

// Exponentials of a row of scores, of which `count` are real and the others, up to a whole number of vectors, become
// nothing; scores are replaced. Returns what divides them.
inline float soften(float* scores, int64_t count) {
    int64_t whole = count / LANES * LANES;
    for (int64_t i = count; i % LANES; i++) scores[i] = -std::numeric_limits<float>::infinity();
    F top = all(-std::numeric_limits<float>::infinity()), total = zero();
    for (int64_t i = 0; i < count; i += LANES) top = max(top, load(scores + i));
    top = all(highest(top));
    for (int64_t i = 0; i < whole; i += LANES) {
        F e = exp(sub(load(scores + i), top));
        total = add(total, e);
        store(scores + i, e);
    }
    if (whole < count) {
        float last[LANES];
        store(last, exp(sub(load(scores + whole), top)));
        for (int64_t i = count - whole; i < LANES; i++) last[i] = 0;
        total = add(total, load(last));
        store(scores + whole, load(last));
    }
    return sum(total);
}

// One head of a row of `count` tokens: heads (count, stride) holds its queries, and `key_at` and `value_at` further on
// its keys and values; out: (count, out_stride).
struct Head {
    const float* heads;
    int64_t stride, key_at, value_at, count, head_dim;
    float* out;
    int64_t out_stride;
};

// The plain way: as many queries at a time as vectors hold.
template <int PARTS>
struct PlainAttention {
    Lines<float> keys, scores;  // keys: (head_dim, width)

    void run(const Head& h) {
        int64_t width = (h.count + LANES - 1) / LANES * LANES;
        Activations::grow(keys, h.head_dim * width), Activations::grow(scores, width);
        for (int64_t d = 0; d < h.head_dim; d++)
            for (int64_t t = 0; t < width; t++) keys[d * width + t] = t < h.count ? h.heads[t * h.stride + h.key_at + d] : 0;
        float scale = 1 / std::sqrt(static_cast<float>(h.head_dim));
        for (int64_t t = 0; t < h.count; t++) {
            for (int64_t i = 0; i < width; i += LANES) {
                F s = zero();
                for (int64_t d = 0; d < h.head_dim; d++) s = fma(load(&keys[d * width + i]), all(h.heads[t * h.stride + d] * scale), s);
                store(&scores[i], s);
            }
            F part = all(1 / soften(scores.data(), h.count));
            for (int64_t d = 0; d < h.head_dim; d += LANES) {
                F mix = zero();
                for (int64_t i = 0; i < h.count; i++) mix = fma(load(h.heads + i * h.stride + h.value_at + d), all(scores[i]), mix);
                store(h.out + t * h.out_stride + d, mul(mix, part));
            }
        }
    }
};

#if defined(HAS_AMX)
// On the matrix unit, 32 queries at a time.
template <int PARTS>
struct TiledAttention {
    Lines<uint16_t> queries, keys, values, weights;
    Lines<float> scores, mix;

    void run(const Head& h) {
        int64_t width = (h.count + DEPTH - 1) / DEPTH * DEPTH, depth = h.head_dim / DEPTH;
        reserve(width, h.head_dim);
        for (int64_t t = 0; t < width; t += TILE) pack_keys(h, t);
        for (int64_t t = 0; t < width; t += DEPTH) pack_values(h, t, width);
        for (int64_t first = 0; first < h.count; first += 2 * TILE) {
            int64_t num = std::min<int64_t>(2 * TILE, h.count - first);
            bool two = num > TILE;
            pack_queries(h, first, num);
            for (int64_t t = 0; t < width; t += 2 * TILE)
                product<PARTS>(queries.data(), two, &keys[t * h.head_dim * PARTS], true, depth, &scores[t], width);
            float parts[2 * TILE];
            for (int64_t i = 0; i < num; i++) parts[i] = weigh(&scores[i * width], i, h.count, width);
            for (int64_t d = 0; d < h.head_dim; d += 2 * TILE)
                product<PARTS>(weights.data(), two, &values[d * width * PARTS], true, width / DEPTH, &mix[d], h.head_dim);
            for (int64_t i = 0; i < num; i++)
                for (int64_t d = 0; d < h.head_dim; d += LANES)
                    store(h.out + (first + i) * h.out_stride + d, mul(load(&mix[i * h.head_dim + d]), all(parts[i])));
        }
    }

private:
    void reserve(int64_t width, int64_t head_dim) {
        for (auto* v : {&keys, &values}) Activations::grow(*v, width * head_dim * PARTS);
        Activations::grow(queries, 2 * TILE * head_dim * PARTS), Activations::grow(weights, 2 * TILE * width * PARTS);
        Activations::grow(scores, 2 * TILE * width), Activations::grow(mix, 2 * TILE * head_dim);
    }

    static const float* token(const Head& h, int64_t t, int64_t at) { return h.heads + t * h.stride + at; }

    // 16 keys as tiles of a right side: their pairs of components turned.
    void pack_keys(const Head& h, int64_t first) {
        alignas(64) uint16_t halves[PARTS * HALF_TILE];
        for (int64_t d = 0; d < h.head_dim; d += DEPTH) {
            std::memset(halves, 0, sizeof halves);
            for (int64_t t = first; t < std::min<int64_t>(h.count, first + TILE); t++) {
                const float* k = token(h, t, h.key_at + d);
                split<PARTS>(load(k), load(k + LANES), halves + (t - first) * DEPTH);
            }
            for (int part = 0; part < PARTS; part++) {
                __m512i rows[TILE];
                for (int i = 0; i < TILE; i++) rows[i] = _mm512_load_si512(halves + part * HALF_TILE + i * DEPTH);
                transpose(rows);
                uint16_t* out = &keys[(first / TILE * (h.head_dim / DEPTH) + d / DEPTH) * PARTS * HALF_TILE + part * HALF_TILE];
                for (int i = 0; i < TILE; i++) _mm512_storeu_si512(out + i * DEPTH, rows[i]);
            }
        }
    }

    // 32 values as tiles of a right side whose rows are their components: two tokens interleaved.
    void pack_values(const Head& h, int64_t first, int64_t width) {
        const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        alignas(64) uint16_t halves[2 * HALF_TILE];
        for (int64_t d = 0; d < h.head_dim; d += TILE) {
            uint16_t* out = &values[(d / TILE * (width / DEPTH) + first / DEPTH) * PARTS * HALF_TILE];
            for (int64_t i = 0; i < TILE; i++) {
                int64_t t = first + 2 * i;
                F even = t < h.count ? load(token(h, t, h.value_at + d)) : zero(), odd = t + 1 < h.count ? load(token(h, t + 1, h.value_at + d)) : zero();
                split<PARTS>(even, odd, halves);
                for (int part = 0; part < PARTS; part++)
                    _mm512_storeu_si512(out + part * HALF_TILE + i * DEPTH, _mm512_permutexvar_epi16(interleave, _mm512_load_si512(halves + part * HALF_TILE)));
            }
        }
    }

    void pack_queries(const Head& h, int64_t first, int64_t num) {
        F scale = all(1 / std::sqrt(static_cast<float>(h.head_dim)));
        for (int64_t i = 0; i < num; i++)
            for (int64_t d = 0; d < h.head_dim; d += DEPTH) {
                const float* q = token(h, first + i, d);
                split<PARTS>(mul(load(q), scale), mul(load(q + LANES), scale), &queries[left_place(i, d, h.head_dim, PARTS)]);
            }
    }

    // Scores of one query become its weights of the values; returns what they are to be multiplied with.
    float weigh(float* row, int64_t i, int64_t count, int64_t width) {
        float total = soften(row, count);
        for (int64_t t = (count + LANES - 1) / LANES * LANES; t < width; t += LANES) store(row + t, zero());
        for (int64_t t = 0; t < width; t += DEPTH) split<PARTS>(load(row + t), load(row + t + LANES), &weights[left_place(i, t, width, PARTS)]);
        return 1 / total;
    }
};
template <int PARTS>
using RowAttention = TiledAttention<PARTS>;
#else
template <int PARTS>
using RowAttention = PlainAttention<PARTS>;
#endif

}  // namespace
