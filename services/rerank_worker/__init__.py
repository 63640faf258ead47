"""One reranking model inside Triton."""
