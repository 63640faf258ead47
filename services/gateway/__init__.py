"""The front of the mesh: OpenAI REST and typed gRPC in, Triton streams out; it holds no tensors."""
