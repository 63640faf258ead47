// Draws a token from each row of logits after temperature, min-p, top-k and top-p; each row alone, whatever is beside it.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "api.h"
#include "pool.h"
#include "simd.h"

namespace {

constexpr int BLOCK = 256;                                     // tokens whose weights are added up together
constexpr int BUCKET_SHIFT = 19;                               // leaves sign, exponent and 4 bits of a weight's fraction
constexpr int NUM_BUCKETS = (0x3f800000 >> BUCKET_SHIFT) + 1;  // those bits of 1.0, the heaviest weight

int bucket(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return static_cast<int>(bits >> BUCKET_SHIFT);
}

// The weights of one row beside its heaviest, which is 1; 0 for what is filtered out.
class Row {
public:
    void read(const float* logits, int64_t vocab, float temperature, float min_p) {
        weights_.assign((vocab + BLOCK - 1) / BLOCK * BLOCK, -std::numeric_limits<float>::infinity());
        std::copy(logits, logits + vocab, weights_.begin());
        F best = load(weights_.data());
        for (size_t i = LANES; i < weights_.size(); i += LANES) best = max(best, load(&weights_[i]));
        best = all(highest(best));
        for (size_t i = 0; i < weights_.size(); i += LANES)
            store(&weights_[i], exp(div(sub(load(&weights_[i]), best), all(temperature))));
        drop_below(std::max(min_p, std::exp(-87.0f)));  // exp() ends there: less is nothing
    }

    // Keep the heaviest tokens while those before measure less than the limit, and all as light as the last of them.
    template <class Measure>
    void keep(double limit, Measure measure) {
        std::fill(sums_, sums_ + NUM_BUCKETS, 0.0);
        for (float weight : weights_)
            if (weight > 0) sums_[bucket(weight)] += measure(weight);
        double heavier = 0, before = 0;
        int reached = NUM_BUCKETS - 1;
        for (int b = NUM_BUCKETS - 1; b >= 0 && heavier < limit; b--) {
            if (sums_[b] == 0) continue;
            reached = b, before = heavier;
            heavier += sums_[b];
        }
        inside_.clear();
        for (float weight : weights_)
            if (weight > 0 && bucket(weight) == reached) inside_.push_back(weight);
        std::sort(inside_.begin(), inside_.end(), std::greater<>());
        float lightest = inside_.front();
        for (size_t i = 0; i < inside_.size() && before < limit; i++) {
            lightest = inside_[i];
            before += measure(lightest);
        }
        drop_below(lightest);
    }

    double total() {
        double total = 0;
        block_sums_.clear();
        for (size_t i = 0; i < weights_.size(); i += BLOCK) {
            F block = zero();
            for (int j = 0; j < BLOCK; j += LANES) block = add(block, load(&weights_[i + j]));
            block_sums_.push_back(sum(block));
            total += block_sums_.back();
        }
        return total;
    }

    // The token at which the distribution function, in the order of token ids, exceeds a number in [0, 1).
    int64_t invert(double number) {
        double target = number * total(), before = 0;
        size_t block = 0;
        for (size_t b = 0; b < block_sums_.size(); b++) {
            if (block_sums_[b] == 0) continue;
            block = b;
            if (before + block_sums_[b] > target) break;
            before += block_sums_[b];
        }
        int64_t token_id = 0;
        for (size_t i = block * BLOCK; i < (block + 1) * BLOCK; i++) {
            if (weights_[i] == 0) continue;
            token_id = static_cast<int64_t>(i);  // of some weight, however sums are rounded
            before += weights_[i];
            if (before > target) break;
        }
        return token_id;
    }

private:
    void drop_below(float floor) {
        for (float& weight : weights_) weight = weight < floor ? 0.0f : weight;
    }

    std::vector<float> weights_, inside_;
    std::vector<double> block_sums_;
    double sums_[NUM_BUCKETS];
};

// The random number in [0, 1) of one position of one seed: the first of numpy's Philox with that key and counter.
// Source: Salmon et al., 2011, Philox-4x64-10.
double uniform(uint64_t seed, uint64_t position) {
    uint64_t c[4] = {position + 1, position == UINT64_MAX, 0, 0}, key[2] = {seed, 0};
    for (int round = 0; round < 10; round++) {
        unsigned __int128 first = static_cast<unsigned __int128>(0xD2E7470EE14C6C93u) * c[0];
        unsigned __int128 second = static_cast<unsigned __int128>(0xCA5A826395121157u) * c[2];
        uint64_t next[4] = {static_cast<uint64_t>(second >> 64) ^ c[1] ^ key[0], static_cast<uint64_t>(second),
                            static_cast<uint64_t>(first >> 64) ^ c[3] ^ key[1], static_cast<uint64_t>(first)};
        std::copy(next, next + 4, c);
        key[0] += 0x9E3779B97F4A7C15u;
        key[1] += 0xBB67AE8584CAA73Bu;
    }
    return static_cast<double>(c[0] >> 11) * 0x1p-53;
}

int64_t draw(const Draw& task, int64_t r) {
    thread_local Row row;
    row.read(task.logits + r * task.stride, task.vocab, task.temperatures[r], task.min_p[r]);
    if (task.top_k[r] > 0) row.keep(static_cast<double>(task.top_k[r]), [](float) { return 1.0; });
    if (task.top_p[r] < 1) row.keep(task.top_p[r] * row.total(), [](float weight) { return double{weight}; });
    return row.invert(uniform(task.seeds[r], task.positions[r]));
}

}  // namespace

extern "C" void zhinao_draw(const Draw* task) {
    Pool& pool = Pool::get();
    pool.run([&] {
        pool.each(task->num_rows, 1, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++) task->token_ids[r] = draw(*task, r);
        });
    });
}
