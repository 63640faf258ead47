"""Tensor code shared by workers and training: network, checkpoints, tokenizers; knows no gRPC and no Triton."""
