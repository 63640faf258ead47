// Encodes rows with BERT's network. Compiled once for each instruction set, as the decoder is.
#include <exception>

#include "encoder_api.h"
#include "pool.h"
#include "products.h"
#include "rows.h"

namespace {

constexpr int64_t NEAR_SUMS = 256 * UNIT;  // of a product, which stay in a core's cache until they are used

// x * Phi(x), within 3e-7, as Abramowitz and Stegun 7.1.26 has the error function.
inline F gelu(F x) {
    F size = abs(x), t = div(all(1), fma(size, all(0.3275911f * 0.70710678f), all(1)));
    F p = all(1.061405429f);
    for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = fma(p, t, all(c));
    F tail = mul(mul(all(0.5f), mul(p, t)), exp(mul(mul(x, x), all(-0.5f))));  // Phi(-|x|)
    return sub(max(x, zero()), mul(size, tail));
}

// Kind: of products.h.
template <class Kind>
class Encoder {
public:
    void run(const EncoderModel& model, const EncoderRows& rows) {
        model_ = &model, rows_ = &rows, width_ = model.hidden_size, inner_width_ = model.layers[0].up.rows;
        starts_.assign(1, 0);
        for (int64_t r = 0; r < rows.num_rows; r++) starts_.push_back(starts_.back() + rows.lengths[r]);
        num_tokens_ = starts_.back();
        Activations::grow(hidden_, num_tokens_ * width_);
        Activations::grow(heads_, num_tokens_ * 3 * width_);
        const EncoderLayer& layer = model.layers[0];
        normed_.reserve(layer.qkv, num_tokens_), mixed_.reserve(layer.o, num_tokens_), inner_.reserve(layer.down, num_tokens_);
        Pool& pool = Pool::get();
        pool.run([&] {
            TileShapes shapes;
            pool.each(rows.num_rows, 1, [this](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; r++) embed(r);
            });
            for (int64_t i = 0; i < model.num_layers; i++) layer_of(pool, model.layers[i]);
            pool.each(rows.num_rows, 1, [this](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; r++) gather(r);
            });
        });
    }

private:
    void embed(int64_t r) {
        for (int64_t t = starts_[r]; t < starts_[r + 1]; t++) {
            int64_t position = t - starts_[r], type = position >= rows_->second_from[r];
            const float *word = model_->words + rows_->token_ids[t] * width_, *place = model_->positions + position * width_;
            for (int64_t i = 0; i < width_; i += LANES)
                store(&hidden_[t * width_ + i], add(add(load(word + i), load(model_->types + type * width_ + i)), load(place + i)));
            normalise(model_->norm, t);
        }
    }

    void layer_of(Pool& pool, const EncoderLayer& layer) {
        int64_t heads_width = 3 * width_;
        multiply(pool, layer.qkv, normed_, UNIT, [=, this](int64_t t, int64_t column, const float* x) { std::memcpy(&heads_[t * heads_width + column], x, UNIT * sizeof(float)); });
        int64_t portion = mixed_.portion(), portions = width_ / portion;
        pool.each(rows_->num_rows * portions, 1, [=, this](int64_t begin, int64_t end) {
            for (int64_t item = begin; item < end; item++) attend(item / portions, item % portions * portion);
        });
        auto add_to_hidden = [this](int64_t t, int64_t column, const float* x) {
            float* out = &hidden_[t * width_ + column];
            for (int64_t i = 0; i < UNIT; i += LANES) store(out + i, add(load(out + i), load(x + i)));
        };
        multiply(pool, layer.o, mixed_, UNIT, add_to_hidden);
        normalise_all(pool, layer.attention_norm);
        multiply(pool, layer.up, normed_, inner_.portion(), [this](int64_t t, int64_t column, float* x) {
            for (int64_t i = 0; i < inner_.portion(); i += LANES) store(x + i, gelu(load(x + i)));
            inner_.put(t, column, x);
        });
        multiply(pool, layer.down, inner_, UNIT, add_to_hidden);
        normalise_all(pool, layer.output_norm);
    }

    // done(token, column, values) takes `portion` values of a token's product and bias at a time.
    template <class Done>
    void multiply(Pool& pool, const Linear& w, const Kind& left, int64_t portion, Done done) {
        int64_t portions = w.rows / portion, row_block = NEAR_SUMS / portion / 32 * 32, blocks = (num_tokens_ + row_block - 1) / row_block;
        pool.each(blocks * portions, 1, [&](int64_t begin, int64_t end) {
            alignas(64) thread_local float out[NEAR_SUMS];
            for (int64_t item = begin; item < end; item++) {
                Rows rows{item / portions * row_block, std::min(num_tokens_, (item / portions + 1) * row_block)};
                int64_t column = item % portions * portion;
                left.multiply(w, rows, column / PANEL, (column + portion) / PANEL, {out, portion, false});
                for (int64_t t = rows.begin; t < rows.end; t++) {
                    float* x = out + (t - rows.begin) * portion;
                    for (int64_t i = 0; i < portion; i += LANES) store(x + i, add(load(x + i), load(w.bias + column + i)));
                    done(t, column, x);
                }
            }
        });
    }

    void attend(int64_t r, int64_t column) {
        thread_local RowAttention<Kind::PARTS> attention;
        thread_local Lines<float> mixed;
        int64_t count = rows_->lengths[r], portion = mixed_.portion();
        Activations::grow(mixed, count * portion);
        for (int64_t i = 0; i < portion; i += model_->head_dim)
            attention.run({&heads_[starts_[r] * 3 * width_ + column + i], 3 * width_, width_, 2 * width_, count, model_->head_dim, &mixed[i], portion});
        for (int64_t t = 0; t < count; t++) mixed_.put(starts_[r] + t, column, &mixed[t * portion]);
    }

    void normalise_all(Pool& pool, const Norm& norm) {
        pool.each(num_tokens_, 8, [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; t++) normalise(norm, t);
        });
    }

    // LayerNorm of a token's hidden state, in place, and as the next left side.
    void normalise(const Norm& norm, int64_t t) {
        float* x = &hidden_[t * width_];
        F total = zero(), squares = zero();
        for (int64_t i = 0; i < width_; i += LANES) total = add(total, load(x + i));
        F mean = all(sum(total) / static_cast<float>(width_));
        for (int64_t i = 0; i < width_; i += LANES) squares = fma(sub(load(x + i), mean), sub(load(x + i), mean), squares);
        F scale = all(1 / std::sqrt(sum(squares) / static_cast<float>(width_) + static_cast<float>(model_->norm_eps)));
        for (int64_t i = 0; i < width_; i += LANES)
            store(x + i, fma(mul(sub(load(x + i), mean), scale), load(norm.weight + i), load(norm.bias + i)));
        for (int64_t i = 0; i < width_; i += normed_.portion()) normed_.put(t, i, x + i);
    }

    // Pooling of a row: its first token, the mean of all, or the highest of each component.
    void gather(int64_t r) {
        float* out = rows_->vectors + r * width_;
        const float* first = &hidden_[starts_[r] * width_];
        int64_t count = rows_->pooling == 0 ? 1 : rows_->lengths[r];
        for (int64_t i = 0; i < width_; i += LANES) {
            F kept = load(first + i);
            for (int64_t t = 1; t < count; t++) kept = rows_->pooling == 1 ? add(kept, load(first + t * width_ + i)) : max(kept, load(first + t * width_ + i));
            store(out + i, rows_->pooling == 1 ? mul(kept, all(1 / static_cast<float>(count))) : kept);
        }
    }

    const EncoderModel* model_ = nullptr;
    const EncoderRows* rows_ = nullptr;
    int64_t width_ = 0, inner_width_ = 0, num_tokens_ = 0;
    std::vector<int64_t> starts_;
    Lines<float> hidden_, heads_;
    Kind normed_, mixed_, inner_;
};

template <class Kind>
void encode(const EncoderModel& model, const EncoderRows& rows) {
    static Encoder<Kind> encoder;  // keeps its memory for the next rows
    encoder.run(model, rows);
}

}  // namespace

extern "C" {

// Returns 0, or 1 if there was not enough memory.
int zhinao_encode(const EncoderModel* model, const EncoderRows* rows) {
    try {
        if (model->format == INT8) encode<Panels<INT8>>(*model, *rows);
#if defined(HAS_AMX)
        else if (model->format == BF16) encode<Halves<1>>(*model, *rows);
        else encode<Halves<2>>(*model, *rows);
#else
        else if (model->format == BF16) encode<Panels<BF16>>(*model, *rows);
        else encode<Panels<FP32>>(*model, *rows);
#endif
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

// Whether FP32 and BF16 weights are wanted as halves.h has them.
int zhinao_wants_halves() {
#if defined(HAS_AMX)
    return 1;
#else
    return 0;
#endif
}
}
