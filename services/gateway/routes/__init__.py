"""One file per group of HTTP endpoints."""
