"""NVIDIA's perf_analyzer against the chat model: where it comes from, what it is fed, what its export says."""
