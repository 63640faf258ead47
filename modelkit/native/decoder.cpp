// One step of the decoder. Compiled once for each instruction set into a library of its own, so that no function
// made for one processor is ever linked into the code for another.
#include <exception>

#include "attention.h"

namespace {

[[maybe_unused]] constexpr int64_t FEW_ROWS = 8;  // up to here vectors are faster than the matrix unit
constexpr int64_t NEAR_ROWS = 64;   // whose gate and up, and those of a rest, stay in a core's cache until they meet

// Rows of activations times panels [first, last) of the weights; out begins at the first panel's column.
inline void multiply(const Linear& w, const Activations& a, Rows rows, int64_t first, int64_t last, const Output& out) {
#if defined(HAS_AMX)
    bool many = rows.end > FEW_ROWS;  // the last few of many too
    if (many && w.format == INT8) return multiply_tiles<INT8>(w, a, rows, first, last, out);
    if (many && w.format == INT4) return multiply_tiles<INT4>(w, a, rows, first, last, out);
#endif
    switch (w.format) {
        case FP32: return multiply_as<FP32>(w, a, rows, first, last, out);
        case FP16: return multiply_as<FP16>(w, a, rows, first, last, out);
        case BF16: return multiply_as<BF16>(w, a, rows, first, last, out);
        case INT8: return multiply_as<INT8>(w, a, rows, first, last, out);
        default: return multiply_as<INT4>(w, a, rows, first, last, out);
    }
}

struct Scratch {
    Lines<float> hidden, heads, cosines, sines;
    Activations normed, mixed, inner, last;
};

class Decoder {
public:
    Decoder(const Model& model, const Cache& cache, const Step& step, Scratch& scratch)
        : model_(model), cache_(cache), step_(step), s_(scratch), attention_(model, cache, step), pool_(Pool::get()) {
        const Layer& layer = model.layers[0];
        width_ = layer.qkv.columns;
        heads_width_ = layer.qkv.rows;
        token_grain_ = std::clamp<int64_t>(step.num_tokens / 4, 1, 8);
        Activations::grow(s_.hidden, step.num_tokens * width_);
        Activations::grow(s_.heads, step.num_tokens * heads_width_);
        Activations::grow(s_.cosines, step.num_tokens * model.head_dim / 2);
        Activations::grow(s_.sines, step.num_tokens * model.head_dim / 2);
        s_.normed.reserve(layer.qkv, step.num_tokens);
        s_.mixed.reserve(layer.o, step.num_tokens);
        s_.inner.reserve(layer.down, step.num_tokens);
        s_.last.reserve(model.head, step.num_rows);
    }

    void run() {
        pool_.run([this] {
            TileShapes shapes;
            pool_.each(step_.num_tokens, 8, [this](int64_t begin, int64_t end) { begin_tokens(begin, end); });
            for (int64_t index = 0; index < model_.num_layers; index++) attend(index), feed(model_.layers[index]);
            pool_.each(step_.num_rows, 1, [this](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; i++) norm(&s_.hidden[step_.rows[i] * width_], model_.norm, s_.last, i);
            });
            pool_.each(model_.head.rows / PANEL, 4, [this](int64_t begin, int64_t end) {
                multiply(model_.head, s_.last, {0, step_.num_rows}, begin, end, {step_.logits + begin * PANEL, model_.head.rows, false});
            });
        });
    }

    // Attention of one layer over heads that are given; see Heads.
    void attend_only(const Heads& heads) {
        int64_t q_stride = model_.num_heads * model_.head_dim, kv_stride = model_.num_kv_heads * model_.head_dim;
        float scale = 1 / std::sqrt(static_cast<float>(model_.head_dim));
        for (int64_t i = 0; i < step_.num_tokens * q_stride; i++) heads.q[i] *= scale;
        pool_.run([&] {
            TileShapes shapes;
            pool_.each(step_.num_tokens, 1, [&](int64_t begin, int64_t end) { attention_.keep(heads.layer, heads.k, heads.v, kv_stride, begin, end); });
            attention_.run(pool_, heads.layer, heads.q, q_stride);
            pool_.each(step_.num_tokens, 1, [&](int64_t begin, int64_t end) { attention_.finish(heads.q, q_stride, begin, end); });
        });
    }

private:
    void begin_tokens(int64_t begin, int64_t end) {
        int64_t half = model_.head_dim / 2;
        for (int64_t t = begin; t < end; t++) {
            float* out = &s_.hidden[t * width_];
            std::fill(out, out + width_, 0.0f);
            for (int64_t i = 0; i < model_.hidden_size; i++) {
                int64_t at = step_.token_ids[t] * model_.hidden_size + i;
                uint16_t bits = model_.embed_format == FP32 ? 0 : static_cast<const uint16_t*>(model_.embed)[at];
                uint32_t wide = static_cast<uint32_t>(bits) << 16;
                if (model_.embed_format == FP32) out[i] = static_cast<const float*>(model_.embed)[at];
                else if (model_.embed_format == FP16) out[i] = half_to_float(bits);
                else std::memcpy(&out[i], &wide, 4);
            }
            for (int64_t i = 0; i < half; i++) {
                float angle = static_cast<float>(step_.positions[t]) * model_.frequencies[i];
                s_.cosines[t * half + i] = std::cos(angle), s_.sines[t * half + i] = std::sin(angle);
            }
        }
    }

    void norm(const float* x, const float* weight, Activations& out, int64_t row) {
        F squares = zero();
        for (int64_t i = 0; i < width_; i += LANES) squares = fma(load(x + i), load(x + i), squares);
        float scale = 1 / std::sqrt(sum(squares) / static_cast<float>(model_.hidden_size) + static_cast<float>(model_.norm_eps));
        float portion[MOST_BLOCK];
        for (int64_t column = 0; column < width_; column += out.portion()) {
            for (int64_t i = 0; i < out.portion(); i += LANES)
                store(portion + i, mul(load(weight + column + i), mul(load(x + column + i), all(scale))));
            out.put(row, column, portion);
        }
    }

    void norm_all(const float* weight) {
        pool_.each(step_.num_tokens, token_grain_, [=, this](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; t++) norm(&s_.hidden[t * width_], weight, s_.normed, t);
        });
    }

    void attend(int64_t index) {
        const Layer& layer = model_.layers[index];
        norm_all(layer.input_norm);
        pool_.each(heads_width_ / PANEL, 2, [&](int64_t begin, int64_t end) {
            multiply(layer.qkv, s_.normed, {0, step_.num_tokens}, begin, end, {&s_.heads[begin * PANEL], heads_width_, false});
        });
        int64_t q_width = model_.num_heads * model_.head_dim, kv_width = model_.num_kv_heads * model_.head_dim;
        pool_.each(step_.num_tokens, token_grain_, [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; t++) turn(t);
            attention_.keep(index, &s_.heads[q_width], &s_.heads[q_width + kv_width], heads_width_, begin, end);
        });
        attention_.run(pool_, index, s_.heads.data(), heads_width_);
        pool_.each(step_.num_tokens, token_grain_, [&](int64_t begin, int64_t end) {
            attention_.finish(s_.heads.data(), heads_width_, begin, end);
            for (int64_t t = begin; t < end; t++)
                for (int64_t i = 0; i < layer.o.columns; i += s_.mixed.portion()) s_.mixed.put(t, i, &s_.heads[t * heads_width_ + i]);
        });
        add_product(layer.o, s_.mixed);
    }

    // Rotary embedding of a token's queries and keys; queries take attention's scale along.
    void turn(int64_t t) {
        int64_t half = model_.head_dim / 2;
        const float *cosines = &s_.cosines[t * half], *sines = &s_.sines[t * half];
        float scale = 1 / std::sqrt(static_cast<float>(model_.head_dim));
        for (int64_t head = 0; head < model_.num_heads + model_.num_kv_heads; head++) {
            float *x = &s_.heads[t * heads_width_ + head * 2 * half], factor = head < model_.num_heads ? scale : 1;
            for (int64_t i = 0; i < half; i++) {
                float a = x[i], b = x[i + half];
                x[i] = (a * cosines[i] - b * sines[i]) * factor;
                x[i + half] = (b * cosines[i] + a * sines[i]) * factor;
            }
        }
    }

    // SwiGLU: eight panels hold the gate of 64 inner values and then their up.
    void feed(const Layer& layer) {
        norm_all(layer.post_norm);
        int64_t portion = s_.inner.portion(), panels = 2 * portion / PANEL;
        int64_t row_blocks = std::max<int64_t>(1, step_.num_tokens / NEAR_ROWS);
        pool_.each(layer.gate_up.rows / (2 * portion) * row_blocks, 1, [&](int64_t begin, int64_t end) {
            thread_local Lines<float> both;
            Activations::grow(both, 2 * NEAR_ROWS * 2 * MOST_BLOCK);
            for (int64_t item = begin; item < end; item++) {
                int64_t b = item / row_blocks, row_block = item % row_blocks;
                Rows rows{row_block * NEAR_ROWS, row_block + 1 < row_blocks ? (row_block + 1) * NEAR_ROWS : step_.num_tokens};
                multiply(layer.gate_up, s_.normed, rows, panels * b, panels * (b + 1), {both.data(), 2 * portion, false});
                for (int64_t t = rows.begin; t < rows.end; t++) gate(&both[(t - rows.begin) * 2 * portion], t, b * portion);
            }
        });
        add_product(layer.down, s_.inner);
    }

    void gate(const float* both, int64_t t, int64_t column) {
        float portion[MOST_BLOCK];
        for (int64_t first = 0; first < s_.inner.portion(); first += UNIT, both += 2 * UNIT)
            for (int i = 0; i < UNIT; i += LANES) {
                F x = load(both + i);
                store(portion + first + i, mul(fast_div(x, add(all(1), exp(sub(zero(), x)))), load(both + UNIT + i)));
            }
        s_.inner.put(t, column, portion);
    }

    void add_product(const Linear& weights, const Activations& a) {
        pool_.each(weights.rows / PANEL, 2, [&](int64_t begin, int64_t end) {
            multiply(weights, a, {0, step_.num_tokens}, begin, end, {&s_.hidden[begin * PANEL], width_, true});
        });
    }

    const Model& model_;
    const Cache& cache_;
    const Step& step_;
    Scratch& s_;
    Attention attention_;
    Pool& pool_;
    int64_t width_, heads_width_;
    int64_t token_grain_;  // tokens one thread takes together: neighbours' scales, keys and values share cache lines
};

Scratch scratch;

}  // namespace

template <class Work>
int guarded(Work work) {
    try {
        work();
        return 0;
    } catch (const std::exception&) {  // no memory for the step's buffers; inside of the job nothing may throw
        return 1;
    }
}

extern "C" {

// To be called first. Returns 0, or 1 if the kernel does not let this process use what the library is made for.
int zhinao_open(int threads) {
    Pool::resize(threads);
    return allow_tiles() ? 0 : 1;
}

// Returns 0, or 1 if there was not enough memory.
int zhinao_step(const Model* model, const Cache* cache, const Step* step) {
    return guarded([=] { Decoder(*model, *cache, *step, scratch).run(); });
}

int zhinao_attend(const Model* model, const Cache* cache, const Step* step, const Heads* heads) {
    return guarded([=] { Decoder(*model, *cache, *step, scratch).attend_only(*heads); });
}
}
