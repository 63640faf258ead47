"""Writes files so that a reader sees the old or the new content, never a part, and other users neither."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Put content under the path by a rename from a file beside it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.rename(path)
