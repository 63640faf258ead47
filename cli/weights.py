"""Finds the folder of a checkpoint: one on disk, the demo model, or one fetched by name; reads no weights."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from cli.failures import UsageFailure
from mesh.cache import cache_folder, demo_checkpoint
from mesh.failure import MeshFailure

_HUB_NAME: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Everything a checkpoint may consist of, and no code.
_PATTERNS: Final = ["*.json", "*.safetensors", "*.bin", "*.tiktoken", "*.model", "*.txt", "*.jinja"]


def find_checkpoint(source: str | None) -> Path:
    """Absolute folder of the weights. source: folder, name on Hugging Face, or None for the demo model."""
    if source is None:
        return _demo()
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if _HUB_NAME.fullmatch(source):
        return _from_hub(source)
    raise UsageFailure(f"{source!r} is neither a folder nor a name like owner/model on Hugging Face")


def _demo() -> Path:
    folder = demo_checkpoint()
    if not folder.exists():
        command = [sys.executable, "-m", "modelkit.demo", str(folder)]  # it needs torch, which this process never loads
        if subprocess.run(command, check=False).returncode != 0:
            raise MeshFailure("fetching the demo weights failed; see above, or give your own: --chat-model DIR")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # a second to import, and rarely needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        download = cast(Callable[..., str], snapshot_download)  # its own types leave a dict unknown
        return Path(download(name, cache_dir=cache_folder() / "hub", allow_patterns=_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE")
        hint = "HF_HUB_OFFLINE is set" if offline else "is this machine offline, or the name misspelt?"
        raise MeshFailure(f"cannot fetch {name!r} from Hugging Face ({hint}): {error}") from error
