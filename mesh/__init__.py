"""The local mesh: real Triton, Envoy and gateway processes on one machine; knows no tensors."""
