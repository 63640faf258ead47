"""Decides where downloaded and converted weights are kept; fetches none. Standard library only."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$ZHINAO_CACHE, or zhinao-mesh under the user's cache folder."""
    return Path(os.environ.get("ZHINAO_CACHE") or Path.home() / ".cache" / "zhinao-mesh").absolute()


def demo_checkpoint() -> Path:
    """Folder of the demo chat model; it is there completely or not at all."""
    return cache_folder() / "smollm2-135m-instruct"
