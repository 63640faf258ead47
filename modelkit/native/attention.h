// Attention of the tokens of a step over keys and values in blocks. A context is taken in spans of SPAN tokens, each
// with a softmax of its own, merged in order: the same sums whether a token comes alone or in a long prompt, and
// whether its spans are computed by one thread or by several.
#pragma once
#include <limits>

#include "gemm.h"
#include "pool.h"

namespace {

constexpr int SPAN = 256, MAX_ROWS = 32;

// Tokens [token, token + count) of the step, neighbours in one sequence.
struct Tile {
    int64_t sequence, token, count;
};

// Softmax over one span so far: the highest score, the sum of exponentials, and the mix of values.
struct Partial {
    float highest, total;
    float* mix;
};

inline void merge(Partial& into, const Partial& from, int64_t head_dim) {
    float top = std::max(into.highest, from.highest);
    float kept = std::exp(into.highest - top), added = std::exp(from.highest - top);
    into.total = into.total * kept + from.total * added;
    into.highest = top;
    for (int64_t d = 0; d < head_dim; d += LANES)
        store(into.mix + d, fma(load(from.mix + d), all(added), mul(load(into.mix + d), all(kept))));
}

template <bool HALF>
inline F load_cached(const void* base, int64_t at) {
    if constexpr (HALF) return load_half(static_cast<const uint16_t*>(base) + at);
    return load(static_cast<const float*>(base) + at);
}

// out[m][0..2 LANES) += sum over k of left[m * left_stride + k] * right[k * right_stride + 0..2 LANES)
template <bool HALF, int M>
inline void small_product(const float* left, int64_t left_stride, const void* right, int64_t at, int64_t right_stride, int64_t depth, float* out, int64_t out_stride) {
    F sums[M][2];
    for (int m = 0; m < M; m++)
        for (int v = 0; v < 2; v++) sums[m][v] = load(out + m * out_stride + v * LANES);
    for (int64_t k = 0; k < depth; k++) {
        F r0 = load_cached<HALF>(right, at + k * right_stride), r1 = load_cached<HALF>(right, at + k * right_stride + LANES);
        for (int m = 0; m < M; m++) {
            F value = all(left[m * left_stride + k]);
            sums[m][0] = fma(value, r0, sums[m][0]);
            sums[m][1] = fma(value, r1, sums[m][1]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < 2; v++) store(out + m * out_stride + v * LANES, sums[m][v]);
}

template <bool HALF, int M>
inline void product_of(int64_t rows, const float* left, int64_t left_stride, const void* right, int64_t at, int64_t right_stride, int64_t depth, float* out, int64_t out_stride) {
    if constexpr (M > 1)
        if (rows < M) return product_of<HALF, M - 1>(rows, left, left_stride, right, at, right_stride, depth, out, out_stride);
    small_product<HALF, M>(left, left_stride, right, at, right_stride, depth, out, out_stride);
}

class Attention {
public:
    Attention(const Model& model, const Cache& cache, const Step& step) : model_(model), cache_(cache), step_(step) {
        group_ = model.num_heads / model.num_kv_heads;
        int64_t most = std::max<int64_t>(1, MAX_ROWS / group_), token = 0;
        first_span_.push_back(0);
        for (int64_t s = 0; s < step.num_sequences; s++) {
            int64_t tile_size = step.num_new[s] == 1 ? 1 : most;
            for (int64_t end = token + step.num_new[s]; token < end;) {
                Tile tile{s, token, std::min(tile_size, end - token)};
                token += tile.count;
                // a token alone has its spans computed side by side, a tile one after the other
                first_span_.push_back(first_span_.back() + (tile.count == 1 ? num_spans(tile) : 1));
                tiles_.push_back(tile);
            }
        }
        partials_.resize(static_cast<size_t>(first_span_.back() * group_ * model.num_kv_heads * (model.head_dim + 2)));
    }

    // k and v of every token into the cache; tokens [begin, end).
    void keep(int64_t layer, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
        if (cache_.is_half) keep_as<true>(layer, k, v, stride, begin, end);
        else keep_as<false>(layer, k, v, stride, begin, end);
    }

    // q (tokens, stride) becomes the mix of values; every thread calls it.
    void run(Pool& pool, int64_t layer, float* q, int64_t stride) {
        pool.each(first_span_.back() * model_.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
            for (int64_t item = begin; item < end; item++) {
                int64_t unit = item / model_.num_kv_heads, head = item % model_.num_kv_heads;
                int64_t tile = std::upper_bound(first_span_.begin(), first_span_.end(), unit) - first_span_.begin() - 1;
                if (cache_.is_half) work<true>(layer, q, stride, tile, unit, head);
                else work<false>(layer, q, stride, tile, unit, head);
            }
        });
        pool.each(static_cast<int64_t>(tiles_.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t tile = begin; tile < end; tile++)
                if (tiles_[tile].count == 1) finish_alone(q, stride, tile);
        });
    }

private:
    int64_t num_spans(const Tile& tile) const { return step_.positions[tile.token + tile.count - 1] / SPAN + 1; }

    int64_t block_at(int64_t layer, int64_t sequence, int64_t position, int64_t head) const {
        int64_t block = step_.block_tables[sequence * step_.max_blocks + position / cache_.block_len];
        return ((layer * cache_.num_blocks + block) * model_.num_kv_heads + head) * cache_.block_len * model_.head_dim;
    }

    template <bool HALF>
    void keep_as(int64_t layer, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
        int64_t depth = model_.head_dim, length = cache_.block_len;
        for (const Tile& tile : tiles_)
            for (int64_t t = std::max(begin, tile.token); t < std::min(end, tile.token + tile.count); t++)
                for (int64_t head = 0; head < model_.num_kv_heads; head++) {
                    int64_t base = block_at(layer, tile.sequence, step_.positions[t], head), slot = step_.positions[t] % length;
                    const float *key = k + t * stride + head * depth, *value = v + t * stride + head * depth;
                    for (int64_t d = 0; d < depth; d += LANES) {
                        if constexpr (HALF) {
                            uint16_t halves[LANES];
                            store_half(halves, load(key + d));
                            for (int i = 0; i < LANES; i++) static_cast<uint16_t*>(cache_.keys)[base + (d + i) * length + slot] = halves[i];
                            store_half(static_cast<uint16_t*>(cache_.values) + base + slot * depth + d, load(value + d));
                        } else {
                            for (int i = 0; i < LANES; i++) static_cast<float*>(cache_.keys)[base + (d + i) * length + slot] = key[d + i];
                            store(static_cast<float*>(cache_.values) + base + slot * depth + d, load(value + d));
                        }
                    }
                }
    }

    Partial partial(int64_t unit, int64_t kv_head, int64_t row) {
        int64_t at = (unit * model_.num_kv_heads + kv_head) * group_ + row;
        float* p = &partials_[static_cast<size_t>(at * (model_.head_dim + 2))];
        return {p[0], p[1], p + 2};
    }

    // One kv head of a tile: all spans for several tokens, one span for a token alone.
    template <bool HALF>
    void work(int64_t layer, float* q, int64_t stride, int64_t index, int64_t unit, int64_t head) {
        thread_local std::vector<float> queries, mixes, scores, merged;
        const Tile& tile = tiles_[index];
        int64_t rows = tile.count * group_, depth = model_.head_dim;
        Activations::grow(queries, rows * depth), Activations::grow(mixes, rows * depth), Activations::grow(merged, rows * depth);
        Activations::grow(scores, rows * SPAN);
        for (int64_t row = 0; row < rows; row++)
            std::memcpy(&queries[row * depth], q + (tile.token + row / group_) * stride + (head * group_ + row % group_) * depth, depth * sizeof(float));
        Partial span[MAX_ROWS], whole[MAX_ROWS];
        for (int64_t row = 0; row < rows; row++) {
            span[row] = {0, 0, &mixes[row * depth]};
            whole[row] = {-std::numeric_limits<float>::infinity(), 0, &merged[row * depth]};
        }
        if (tile.count == 1) {
            compute_span<HALF>(layer, tile, head, unit - first_span_[index], queries.data(), scores.data(), span);
            for (int64_t row = 0; row < rows; row++) {
                float* p = partial(unit, head, row).mix - 2;
                p[0] = span[row].highest, p[1] = span[row].total;
                std::memcpy(p + 2, span[row].mix, depth * sizeof(float));
            }
            return;
        }
        std::fill(merged.begin(), merged.begin() + rows * depth, 0.0f);
        for (int64_t s = 0; s < num_spans(tile); s++) {
            compute_span<HALF>(layer, tile, head, s, queries.data(), scores.data(), span);
            for (int64_t row = 0; row < rows; row++)
                if (step_.positions[tile.token + row / group_] >= s * SPAN) merge(whole[row], span[row], depth);
        }
        for (int64_t row = 0; row < rows; row++)
            finish(whole[row], q + (tile.token + row / group_) * stride + (head * group_ + row % group_) * depth);
    }

    // Scores, softmax and mix of the tile's rows over the tokens of one span that each may see.
    template <bool HALF>
    void compute_span(int64_t layer, const Tile& tile, int64_t head, int64_t s, const float* queries, float* scores, Partial* out) {
        int64_t rows = tile.count * group_, depth = model_.head_dim, length = cache_.block_len;
        int64_t first = s * SPAN, last = std::min<int64_t>(first + SPAN, step_.positions[tile.token + tile.count - 1] + 1);
        std::fill(scores, scores + rows * SPAN, 0.0f);
        for (int64_t t = first; t < last; t += length) {
            int64_t base = block_at(layer, tile.sequence, t, head);
            for (int64_t c = 0; c < length; c += 2 * LANES)
                for (int64_t row = 0; row < rows; row += TILE_ROWS)
                    product_of<HALF, TILE_ROWS>(std::min<int64_t>(TILE_ROWS, rows - row), queries + row * depth, depth, cache_.keys, base + c, length, depth,
                                                scores + row * SPAN + t - first + c, SPAN);
        }
        for (int64_t row = 0; row < rows; row++) {
            int64_t seen = std::min<int64_t>(last, step_.positions[tile.token + row / group_] + 1) - first;
            soften(scores + row * SPAN, std::max<int64_t>(seen, 0), last - first, out[row]);
            std::fill(out[row].mix, out[row].mix + depth, 0.0f);
        }
        for (int64_t t = first; t < last; t += length) {
            int64_t base = block_at(layer, tile.sequence, t, head), tokens = std::min(length, last - t);
            for (int64_t d = 0; d < depth; d += 2 * LANES)
                for (int64_t row = 0; row < rows; row += TILE_ROWS)
                    product_of<HALF, TILE_ROWS>(std::min<int64_t>(TILE_ROWS, rows - row), scores + row * SPAN + t - first, SPAN, cache_.values, base + d, depth,
                                                tokens, out[row].mix + d, depth);
        }
    }

    // Scores become exponentials relative to the highest of the first `seen`; those after them become 0.
    static void soften(float* scores, int64_t seen, int64_t width, Partial& out) {
        const float none = -std::numeric_limits<float>::infinity();
        int64_t padded = (width + LANES - 1) / LANES * LANES;
        std::fill(scores + seen, scores + padded, none);
        F top = all(none), total = zero();
        for (int64_t t = 0; t < padded; t += LANES) top = max(top, load(scores + t));
        out.highest = highest(top);
        for (int64_t t = 0; t < padded; t += LANES) store(scores + t, exp(sub(load(scores + t), all(out.highest))));
        std::fill(scores + seen, scores + padded, 0.0f);
        for (int64_t t = 0; t < padded; t += LANES) total = add(total, load(scores + t));
        out.total = sum(total);
    }

    void finish_alone(float* q, int64_t stride, int64_t index) {
        int64_t depth = model_.head_dim;
        for (int64_t head = 0; head < model_.num_kv_heads; head++)
            for (int64_t row = 0; row < group_; row++) {
                float* out = q + tiles_[index].token * stride + (head * group_ + row) * depth;
                Partial whole{-std::numeric_limits<float>::infinity(), 0, out};
                std::fill(out, out + depth, 0.0f);
                for (int64_t unit = first_span_[index]; unit < first_span_[index + 1]; unit++) merge(whole, partial(unit, head, row), depth);
                finish(whole, out);
            }
    }

    void finish(const Partial& whole, float* out) const {
        for (int64_t d = 0; d < model_.head_dim; d += LANES) store(out + d, div(load(whole.mix + d), all(whole.total)));
    }

    const Model& model_;
    const Cache& cache_;
    const Step& step_;
    int64_t group_;
    std::vector<Tile> tiles_;
    std::vector<int64_t> first_span_;  // a tile's first unit of work, and one more at the end
    std::vector<float> partials_;
};

}  // namespace
