"""What workers of every kind share around their model: batches by tokens, Triton, metrics, traces; knows no tensors."""
