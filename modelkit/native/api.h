// What Python hands over: plain structs of pointers and counts, mirrored field by field in library.py.
#pragma once
#include <cstdint>

extern "C" {

enum Format : int64_t { FP32, FP16, BF16, INT8, INT4 };

// A weight matrix in panels of 16 rows (see packing.py); rows and columns are those of the padded matrix.
struct Linear {
    const void* data;
    const uint16_t* scales;  // INT8, INT4: fp16, (panels, blocks, 16)
    const uint16_t* minima;  // INT4: fp16, the same shape
    const float* bias;       // (rows,) or null
    int64_t rows, columns, format;
};

struct Layer {
    const float *input_norm, *post_norm;
    Linear qkv, o, gate_up, down;
};

struct Model {
    int64_t num_layers, hidden_size, num_heads, num_kv_heads, head_dim;
    double norm_eps;
    const float* frequencies;  // (head_dim / 2,)
    const void* embed;         // (vocab, hidden_size)
    int64_t embed_format;      // FP32, FP16 or BF16
    const float* norm;
    const Layer* layers;
    Linear head;
};

// keys: (blocks, layers, kv_heads, head_dim, block_len); values: (blocks, layers, kv_heads, block_len, head_dim).
struct Cache {
    void *keys, *values;
    int64_t block_len, is_half;
};

struct Step {
    int64_t num_tokens, num_sequences, max_blocks, num_rows;
    const int64_t *token_ids, *positions;
    const int32_t *num_new, *context_lens, *block_tables;
    const int64_t* rows;
    float* logits;  // (num_rows, head.rows)
};

// One layer's attention alone, for tests: q (tokens, heads, head_dim), k and v (tokens, kv_heads, head_dim), turned
// already; the result replaces q.
struct Heads {
    float *q, *k, *v;
    int64_t layer;
};

// One choice for each row of logits, (num_rows, stride) of which vocab count. temperatures: 0 takes the best, the first
// of equals, of NaN the first; a row whose best is not finite is not drawn from. top_k: 0 keeps all; top_p: 1 does.
struct Choice {
    const float* logits;
    int64_t num_rows, vocab, stride;
    const float *temperatures, *min_p;
    const int64_t* top_k;
    const double* top_p;
    const uint64_t *seeds, *positions;  // the key of the row's only random number
    int64_t* token_ids;
    float* highest;  // the best tokens' logits
};
}
