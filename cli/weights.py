"""Finds the folder of a checkpoint: one on disk, the demo model, or one fetched by name; reads no weights."""

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from cli.failures import UsageFailure
from mesh.cache import cache_folder, demo_checkpoint
from mesh.checkpoint_fetch import demo_command, hub_command
from mesh.failure import MeshFailure

_HUB_NAME: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def find_checkpoint(source: str | None, kind: str = "chat") -> Path:
    """Absolute folder of the weights. source: folder, name on Hugging Face, or None for the demo model of that kind."""
    if source is None:
        return _demo(kind)
    folder = Path(os.path.expanduser(source))
    if source and folder.is_dir():  # Path("") is the current folder
        return folder.absolute()
    if _HUB_NAME.fullmatch(source):
        return _from_hub(source)
    raise UsageFailure(f"{source!r} is neither a folder nor a name like owner/model on Hugging Face")


def _demo(kind: str) -> Path:
    folder = demo_checkpoint(kind)
    if not folder.exists() and subprocess.run(demo_command(kind, folder), check=False).returncode != 0:
        raise MeshFailure(f"fetching the demo weights failed; see above, or give your own: --{kind}-model DIR")
    return folder


def _from_hub(name: str) -> Path:
    # hf shows its own progress and errors on standard error; the last line of its output is the folder.
    command = hub_command(name, "--cache-dir", str(cache_folder() / "hub"))
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise MeshFailure(
            f"cannot fetch {name!r} from Hugging Face; see above. Is this machine offline, or the name misspelt?"
        )
    return Path(result.stdout.strip().splitlines()[-1])
