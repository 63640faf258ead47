"""What the gateway and the workers agree on; knows no tensors and no HTTP framework."""
