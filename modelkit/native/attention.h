// Attention of the tokens of a step over keys and values in blocks. A context is taken in spans of SPAN tokens, each
// with a softmax of its own, merged in order: the same sums whether a token comes alone or in a long prompt, and
// whether its spans are computed by one thread or by several.
#pragma once
#include <limits>

#include "kv.h"
#include "pool.h"

namespace {

// Tokens [token, token + count) of the step, neighbours in one sequence.
struct Tile {
    int64_t sequence, token, count;
};

// Takes one more span into what rows of neighbouring queries have of theirs.
inline void merge(Partial* into, const Partial* from, int64_t rows, int64_t head_dim) {
    float kept[MAX_ROWS] = {}, added[MAX_ROWS] = {};
    for (int64_t row = 0; row < rows; row++) {
        float top = std::max(into[row].highest, from[row].highest);
        kept[row] = into[row].highest - top, added[row] = from[row].highest - top;
        into[row].highest = top;
    }
    for (int64_t row = 0; row < rows; row += LANES) store(kept + row, exp(load(kept + row))), store(added + row, exp(load(added + row)));
    for (int64_t row = 0; row < rows; row++) {
        into[row].total = into[row].total * kept[row] + from[row].total * added[row];
        for (int64_t d = 0; d < head_dim; d += LANES)
            store(into[row].mix + d, fma(load(from[row].mix + d), all(added[row]), mul(load(into[row].mix + d), all(kept[row]))));
    }
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
        if (cache_.is_half) keep_as<Half>(layer, k, v, stride, begin, end);
        else keep_as<Full>(layer, k, v, stride, begin, end);
    }

    // q (tokens, stride) becomes the mix of values, but for tokens that finish() ends; every thread calls it.
    void run(Pool& pool, int64_t layer, float* q, int64_t stride) {
        pool.each(first_span_.back() * model_.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
            for (int64_t item = begin; item < end; item++) {
                int64_t unit = item / model_.num_kv_heads, head = item % model_.num_kv_heads;
                int64_t tile = std::upper_bound(first_span_.begin(), first_span_.end(), unit) - first_span_.begin() - 1;
                if (cache_.is_half) work<Half>(layer, q, stride, tile, unit, head);
                else work<Full>(layer, q, stride, tile, unit, head);
            }
        });
    }

    // After run: merges the spans of tokens [begin, end) that came alone.
    void finish(float* q, int64_t stride, int64_t begin, int64_t end) {
        for (size_t tile = 0; tile < tiles_.size(); tile++)
            if (tiles_[tile].count == 1 && tiles_[tile].token >= begin && tiles_[tile].token < end) finish_alone(q, stride, tile);
    }

private:
    int64_t num_spans(const Tile& tile) const { return step_.positions[tile.token + tile.count - 1] / SPAN + 1; }

    Block block_at(int64_t layer, int64_t sequence, int64_t position, int64_t head) const {
        int64_t number = step_.block_tables[sequence * step_.max_blocks + position / cache_.block_len];
        int64_t size = cache_.block_len * model_.head_dim * (cache_.is_half ? 2 : 4);
        int64_t at = ((layer * cache_.num_blocks + number) * model_.num_kv_heads + head) * size;
        return {static_cast<char*>(cache_.keys) + at, static_cast<char*>(cache_.values) + at, cache_.block_len, model_.head_dim};
    }

    template <class Kind>
    void keep_as(int64_t layer, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
        for (const Tile& tile : tiles_)
            for (int64_t t = std::max(begin, tile.token); t < std::min(end, tile.token + tile.count); t++)
                for (int64_t head = 0; head < model_.num_kv_heads; head++) {
                    int64_t position = step_.positions[t], at = t * stride + head * model_.head_dim;
                    Kind::keep(block_at(layer, tile.sequence, position, head), position % cache_.block_len, k + at, v + at);
                }
    }

    Partial partial(int64_t unit, int64_t kv_head, int64_t row) {
        int64_t at = (unit * model_.num_kv_heads + kv_head) * group_ + row;
        float* p = &partials_[static_cast<size_t>(at * (model_.head_dim + 2))];
        return {p[0], p[1], p + 2};
    }

    // One kv head of a tile: all spans for several tokens, one span for a token alone.
    template <class Kind>
    void work(int64_t layer, float* q, int64_t stride, int64_t index, int64_t unit, int64_t head) {
        thread_local Lines<float> queries, mixes, scores, merged;
        const Tile& tile = tiles_[index];
        int64_t rows = tile.count * group_, depth = model_.head_dim;
        for (auto* rows_of : {&queries, &mixes, &merged}) Activations::grow(*rows_of, MAX_ROWS * depth);
        Activations::grow(scores, MAX_ROWS * SPAN);
        for (int64_t row = 0; row < rows; row++)
            std::memcpy(&queries[row * depth], q + (tile.token + row / group_) * stride + (head * group_ + row % group_) * depth, depth * sizeof(float));
        Partial span[MAX_ROWS], whole[MAX_ROWS];
        for (int64_t row = 0; row < rows; row++) {
            span[row] = {0, 0, &mixes[row * depth]};
            whole[row] = {-std::numeric_limits<float>::infinity(), 0, &merged[row * depth]};
        }
        auto prepared = Kind::prepare(queries.data(), rows, depth);
        if (tile.count == 1) {
            compute_span<Kind>(layer, tile, head, unit - first_span_[index], prepared, scores.data(), span);
            for (int64_t row = 0; row < rows; row++) {
                float* p = partial(unit, head, row).mix - 2;
                p[0] = span[row].highest, p[1] = span[row].total;
                std::memcpy(p + 2, span[row].mix, depth * sizeof(float));
            }
            return;
        }
        std::fill(merged.begin(), merged.begin() + rows * depth, 0.0f);
        for (int64_t s = 0; s < num_spans(tile); s++) {
            compute_span<Kind>(layer, tile, head, s, prepared, scores.data(), span);
            int64_t before = std::max<int64_t>(0, s * SPAN - step_.positions[tile.token]) * group_;  // rows that end before the span
            merge(whole + before, span + before, rows - before, depth);
        }
        for (int64_t row = 0; row < rows; row++)
            finish(whole[row], q + (tile.token + row / group_) * stride + (head * group_ + row % group_) * depth);
    }

    // Scores, softmax and mix of the tile's rows over the tokens of one span that each may see.
    template <class Kind>
    void compute_span(int64_t layer, const Tile& tile, int64_t head, int64_t s, typename Kind::Queries queries, float* scores, Partial* out) {
        int64_t rows = tile.count * group_, length = cache_.block_len;
        int64_t first = s * SPAN, last = std::min<int64_t>(first + SPAN, step_.positions[tile.token + tile.count - 1] + 1);
        Block blocks[SPAN / 32];
        for (int64_t t = first; t < last; t += length) {
            Block& block = blocks[(t - first) / length] = block_at(layer, tile.sequence, t, head);
            Kind::score(block, queries, rows, scores + t - first);
        }
        for (int64_t row = 0; row < rows; row++) {
            int64_t seen = std::min<int64_t>(last, step_.positions[tile.token + row / group_] + 1) - first;
            if (seen > 0) Kind::soften(scores + row * SPAN, seen, (last - first + 31) / 32 * 32, out[row]);
        }
        Kind::mix(blocks, scores, rows, last - first, out[0].mix);
    }

    void finish_alone(float* q, int64_t stride, int64_t index) {
        int64_t depth = model_.head_dim;
        for (int64_t head = 0; head < model_.num_kv_heads; head++) {
            Partial whole[MAX_ROWS], span[MAX_ROWS];
            float* out = q + tiles_[index].token * stride + head * group_ * depth;
            std::fill(out, out + group_ * depth, 0.0f);
            for (int64_t row = 0; row < group_; row++) whole[row] = {-std::numeric_limits<float>::infinity(), 0, out + row * depth};
            for (int64_t unit = first_span_[index]; unit < first_span_[index + 1]; unit++) {
                for (int64_t row = 0; row < group_; row++) span[row] = partial(unit, head, row);
                merge(whole, span, group_, depth);
            }
            for (int64_t row = 0; row < group_; row++) finish(whole[row], whole[row].mix);
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
    Lines<float> partials_;
};

}  // namespace
