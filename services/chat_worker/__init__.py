"""The worker that generates text with one decoder model."""
