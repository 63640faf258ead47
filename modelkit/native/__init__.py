"""The CPU fast path: a decoder step in C++, built at set-up when a compiler is there."""
