"""The way to the workers: Triton streams behind one small Protocol."""
