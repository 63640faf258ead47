"""Decides where downloaded and converted weights are kept; fetches none. Standard library only."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

# By kind of worker. A chat model reranks too: by the likelihood of the query given the document.
_DEMOS: Final[Mapping[str, str]] = MappingProxyType(
    {"chat": "smollm2-135m-instruct", "embed": "all-minilm-l6-v2", "rerank": "smollm2-135m-instruct"}
)


def cache_folder() -> Path:
    """$ZHINAO_CACHE, or zhinao-mesh under the user's cache folder."""
    return Path(os.environ.get("ZHINAO_CACHE") or Path.home() / ".cache" / "zhinao-mesh").absolute()


def demo_checkpoint(kind: str = "chat") -> Path:
    """Folder of the demo model of a kind: chat, embed or rerank; it is there completely or not at all."""
    return cache_folder() / _DEMOS[kind]
