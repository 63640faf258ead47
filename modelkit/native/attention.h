// Attention of the tokens of a step over keys and values in blocks. A context is taken in spans of SPAN tokens, each
// with a softmax of its own, merged in order: the same sums whether a token comes alone or in a long prompt, and
// whether its spans are computed by one thread or by several.
#pragma once
#include <limits>

#include "kv.h"
#include "pool.h"

namespace {

// Tokens [token, token + count) of the step, neighbours in one sequence. A token alone has its spans computed side by
// side, the first of them as item first_item.
struct Tile {
    int64_t sequence, token, count, first_item;
};

// What one thread computes at a time: one kv head of a tile, and of a token alone one span. is_first: of the items
// that read the same keys and values.
struct Item {
    int64_t tile, head, span;
    bool is_first;
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
        int64_t token = 0;
        for (int64_t s = 0; s < step.num_sequences; token += step.num_new[s], s++)
            step.num_new[s] == 1 ? take_alone(s, token) : take_many(s, token);
        partials_.resize(items_.size() * group_ * (model.head_dim + 2));
    }

    // k and v of every token into the cache; tokens [begin, end).
    void keep(int64_t layer, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
        if (cache_.is_half) keep_as<Half>(layer, k, v, stride, begin, end);
        else keep_as<Full>(layer, k, v, stride, begin, end);
    }

    // q (tokens, stride) becomes the mix of values, but for tokens that finish() ends; every thread calls it.
    void run(Pool& pool, int64_t layer, float* q, int64_t stride) {
        pool.each(items_.size(), 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) {
                if (cache_.is_half) work<Half>(layer, q, stride, i);
                else work<Full>(layer, q, stride, i);
            }
        });
    }

    // After run: merges the spans of tokens [begin, end) that came alone.
    void finish(float* q, int64_t stride, int64_t begin, int64_t end) {
        for (const Tile& tile : tiles_)
            if (tile.first_item >= 0 && tile.token >= begin && tile.token < end) finish_alone(q, stride, tile);
    }

private:
    void take_alone(int64_t sequence, int64_t token) {
        tiles_.push_back({sequence, token, 1, static_cast<int64_t>(items_.size())});
        for (int64_t span = 0; span < num_spans(tiles_.back()); span++)
            for (int64_t head = 0; head < model_.num_kv_heads; head++) items_.push_back({last_tile(), head, span, true});
    }

    // Head by head: what a thread has read of one is near when its next tile comes.
    void take_many(int64_t sequence, int64_t token) {
        int64_t most = std::max<int64_t>(1, MAX_ROWS / group_), first = tiles_.size(), end = token + step_.num_new[sequence];
        for (; token < end; token += most) tiles_.push_back({sequence, token, std::min(most, end - token), -1});
        for (int64_t head = 0; head < model_.num_kv_heads; head++)
            for (int64_t tile = first; tile <= last_tile(); tile++) items_.push_back({tile, head, 0, tile == first});
    }

    int64_t last_tile() const { return static_cast<int64_t>(tiles_.size()) - 1; }

    int64_t num_spans(const Tile& tile) const { return step_.positions[tile.token + tile.count - 1] / SPAN + 1; }

    Block block_at(int64_t layer, int64_t sequence, int64_t position, int64_t head) const {
        int64_t number = step_.block_tables[sequence * step_.max_blocks + position / cache_.block_len];
        int64_t size = cache_.block_len * model_.head_dim * (cache_.is_half ? 2 : 4);
        int64_t at = ((number * model_.num_layers + layer) * model_.num_kv_heads + head) * size;
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

    Partial partial(int64_t item, int64_t row) {
        float* p = &partials_[static_cast<size_t>((item * group_ + row) * (model_.head_dim + 2))];
        return {p[0], p[1], p + 2};
    }

    template <class Kind>
    void work(int64_t layer, float* q, int64_t stride, int64_t number) {
        thread_local Lines<float> queries, mixes, scores, merged;
        const Item& item = items_[number];
        const Tile& tile = tiles_[item.tile];
        int64_t rows = tile.count * group_, depth = model_.head_dim, head = item.head;
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
        if (tile.first_item >= 0) {
            compute_span<Kind>(layer, item, item.span, prepared, scores.data(), span);
            for (int64_t row = 0; row < rows; row++) {
                float* p = partial(number, row).mix - 2;
                p[0] = span[row].highest, p[1] = span[row].total;
                std::memcpy(p + 2, span[row].mix, depth * sizeof(float));
            }
            return;
        }
        std::fill(merged.begin(), merged.begin() + rows * depth, 0.0f);
        for (int64_t s = 0; s < num_spans(tile); s++) {
            compute_span<Kind>(layer, item, s, prepared, scores.data(), span);
            int64_t before = std::max<int64_t>(0, s * SPAN - step_.positions[tile.token]) * group_;  // rows that end before the span
            merge(whole + before, span + before, rows - before, depth);
        }
        for (int64_t row = 0; row < rows; row++)
            finish(whole[row], q + (tile.token + row / group_) * stride + (head * group_ + row % group_) * depth);
    }

    // Scores, softmax and mix of the tile's rows over the tokens of one span that each may see.
    template <class Kind>
    void compute_span(int64_t layer, const Item& item, int64_t s, typename Kind::Queries queries, float* scores, Partial* out) {
        const Tile& tile = tiles_[item.tile];
        int64_t rows = tile.count * group_, length = cache_.block_len;
        int64_t first = s * SPAN, last = std::min<int64_t>(first + SPAN, step_.positions[tile.token + tile.count - 1] + 1);
        Block blocks[SPAN / 32];
        for (int64_t t = first; t < last; t += length) blocks[(t - first) / length] = block_at(layer, tile.sequence, t, item.head);
        for (int64_t t = first; t < last; t += length) {
            const Block& block = blocks[(t - first) / length];
            if (item.is_first) {
                fetch(block.values);
                if (t + length < last) fetch((&block)[1].keys);
            }
            Kind::score(block, queries, rows, scores + t - first);
        }
        for (int64_t row = 0; row < rows; row++) {
            int64_t seen = std::min<int64_t>(last, step_.positions[tile.token + row / group_] + 1) - first;
            if (seen > 0) Kind::soften(scores + row * SPAN, seen, (last - first + 31) / 32 * 32, out[row]);
        }
        Kind::mix(blocks, scores, rows, last - first, out[0].mix);
    }

    // Blocks lie anywhere: the processor does not see the next one coming.
    void fetch(const void* block) const {
        int64_t bytes = cache_.block_len * model_.head_dim * (cache_.is_half ? 2 : 4);
        for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(block) + i, 0, 2);
    }

    void finish_alone(float* q, int64_t stride, const Tile& tile) {
        int64_t depth = model_.head_dim;
        for (int64_t head = 0; head < model_.num_kv_heads; head++) {
            Partial whole[MAX_ROWS], span[MAX_ROWS];
            float* out = q + tile.token * stride + head * group_ * depth;
            std::fill(out, out + group_ * depth, 0.0f);
            for (int64_t row = 0; row < group_; row++) whole[row] = {-std::numeric_limits<float>::infinity(), 0, out + row * depth};
            for (int64_t s = 0; s < num_spans(tile); s++) {
                for (int64_t row = 0; row < group_; row++) span[row] = partial(tile.first_item + s * model_.num_kv_heads + head, row);
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
    std::vector<Item> items_;
    Lines<float> partials_;
};

}  // namespace
