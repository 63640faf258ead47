"""The `zhinao` command; knows the local mesh and its public API, and no tensors."""
