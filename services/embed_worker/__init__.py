"""One embedding model inside Triton."""
