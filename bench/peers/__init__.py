"""Engines that bench.chat measures, each in an environment of its own; nothing here imports another part of bench."""
