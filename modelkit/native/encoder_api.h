// What Python hands over to encode rows: plain structs of pointers and counts, mirrored field by field in encoder.py.
#pragma once
#include "api.h"

extern "C" {

struct Norm {
    const float *weight, *bias;
};

// Weight rows and columns are filled up to whole UNITs.
struct EncoderLayer {
    Linear qkv, o, up, down;
    Norm attention_norm, output_norm;
};

struct EncoderModel {
    int64_t num_layers, hidden_size, num_heads, head_dim;
    double norm_eps;
    const float *words, *positions, *types;
    Norm norm;
    const EncoderLayer* layers;
    int64_t format;
};

// Rows of tokens one after the other. pooling: as Pooling of sentence.py.
struct EncoderRows {
    int64_t num_rows, pooling;
    const int32_t *token_ids, *lengths, *second_from;
    float* vectors;  // (num_rows, hidden_size)
};
}
