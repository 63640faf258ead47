// Chooses a token from each row of logits: the best, or one drawn after temperature, min-p, top-k and top-p; each row
// alone, whatever is beside it.
#include <algorithm>
#include <cfloat>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
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
    void read(const float* logits, int64_t vocab, float highest, float temperature, float min_p) {
        weights_.assign((vocab + BLOCK - 1) / BLOCK * BLOCK, -std::numeric_limits<float>::infinity());
        std::copy(logits, logits + vocab, weights_.begin());
        F best = all(highest);
        F coldness = all(1 / temperature);
        for (size_t i = 0; i < weights_.size(); i += LANES)
            store(&weights_[i], exp(mul(sub(load(&weights_[i]), best), coldness)));
        drop_below(std::max(min_p, std::exp(-87.0f)));  // exp() ends there: less is nothing
    }

    // Keep the heaviest tokens while those before measure less than the limit, and all as light as the last of them,
    // which is known to weigh at least `least`.
    template <class Measure>
    void keep(double limit, float least, Measure measure) {
        std::span<const float> heavy = gather(std::max(least, FLT_MIN));
        std::fill(sums_, sums_ + NUM_BUCKETS, 0.0);
        for (float weight : heavy) sums_[bucket(weight)] += measure(weight);
        double heavier = 0, before = 0;
        int reached = NUM_BUCKETS - 1;
        for (int b = NUM_BUCKETS - 1; b >= 0 && heavier < limit; b--) {
            if (sums_[b] == 0) continue;
            reached = b, before = heavier;
            heavier += sums_[b];
        }
        inside_.clear();
        for (float weight : heavy)
            if (bucket(weight) == reached) inside_.push_back(weight);
        std::sort(inside_.begin(), inside_.end(), std::greater<>());
        float lightest = inside_.front();
        for (size_t i = 0; i < inside_.size() && before < limit; i++) {
            lightest = inside_[i];
            before += measure(lightest);
        }
        drop_below(lightest);
    }

    // Keep the heaviest tokens that have this share of all weight.
    void keep_share(double share) {
        double whole = total(), limit = share * whole;
        // So light a token is not needed: all of them together weigh half of what may be left out.
        double least = (whole - limit) / (2 * static_cast<double>(weights_.size()));
        keep(limit, static_cast<float>(least), [](float weight) { return double{weight}; });
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
    // The weights of at least `least`, in order; most vectors hold none.
    std::span<const float> gather(float least) {
        heavy_.resize(weights_.size());
        size_t count = 0;
        for (size_t i = 0; i < weights_.size(); i += 4 * LANES) {
            F upper = max(load(&weights_[i]), load(&weights_[i + LANES])), lower = max(load(&weights_[i + 2 * LANES]), load(&weights_[i + 3 * LANES]));
            if (highest(max(upper, lower)) < least) continue;
            for (size_t j = i; j < i + 4 * LANES; j++) {
                heavy_[count] = weights_[j];
                count += weights_[j] >= least;
            }
        }
        return {heavy_.data(), count};
    }

    void drop_below(float floor) {
        for (float& weight : weights_) weight = weight < floor ? 0.0f : weight;
    }

    std::vector<float> weights_, heavy_, inside_;
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

int64_t draw(const Choice& task, int64_t r, float highest) {
    thread_local Row row;
    row.read(task.logits + r * task.stride, task.vocab, highest, task.temperatures[r], task.min_p[r]);
    if (task.top_k[r] > 0) row.keep(static_cast<double>(task.top_k[r]), 0, [](float) { return 1.0; });
    if (task.top_p[r] < 1) row.keep_share(task.top_p[r]);
    return row.invert(uniform(task.seeds[r], task.positions[r]));
}

// The first of a row's highest tokens; of a row that holds NaN, the first of those.
int64_t best(const float* logits, int64_t vocab) {
    const int64_t whole = vocab / BLOCK * BLOCK;
    int64_t at = 0;
    float top = -std::numeric_limits<float>::infinity();
    F numbers = zero();  // is no number once one of them is none
    for (int64_t begin = 0; begin < whole; begin += BLOCK) {
        F block = all(top);
        for (int64_t i = begin; i < begin + BLOCK; i += LANES) {
            F x = load(logits + i);
            block = max(block, x);
            numbers = add(numbers, min(all(1), max(all(-1), x)));
        }
        if (float found = highest(block); found > top) top = found, at = begin;
    }
    bool is_broken = std::isnan(sum(numbers));
    for (int64_t i = whole; i < vocab; i++) {
        if (logits[i] > top) top = logits[i], at = i;
        is_broken = is_broken || std::isnan(logits[i]);
    }
    if (is_broken) return std::find_if(logits, logits + vocab, [](float x) { return std::isnan(x); }) - logits;
    return std::find(logits + at, logits + vocab, top) - logits;
}

// The row is near while it is searched and then drawn from.
void choose(const Choice& task, int64_t r) {
    const float* logits = task.logits + r * task.stride;
    int64_t token_id = best(logits, task.vocab);
    task.highest[r] = logits[token_id];
    bool draws = task.temperatures[r] > 0 && std::isfinite(task.highest[r]);
    task.token_ids[r] = draws ? draw(task, r, task.highest[r]) : token_id;
}

}  // namespace

extern "C" void zhinao_choose(const Choice* task) {
    if (task->num_rows == 1) return choose(*task, 0);  // waking others takes longer
    Pool& pool = Pool::get();
    pool.run([&] {
        pool.each(task->num_rows, 1, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++) choose(*task, r);
        });
    });
}
