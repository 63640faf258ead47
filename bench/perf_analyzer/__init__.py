"""NVIDIA's perf_analyzer against every kind of model: where it comes from, what it is fed, what its export says."""
