"""Fetches a checkpoint into a folder, once (`python -m mesh.checkpoint_fetch KIND SOURCE FOLDER`).

For a pod's init container, before the worker starts; it also says with which programs checkpoints are fetched anywhere.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

DEMO: Final = "demo"  # the source that means the demo model of that kind
# Everything a checkpoint may consist of, and no code.
_PATTERNS: Final = ("*.json", "*.safetensors", "*.bin", "*.tiktoken", "*.model", "*.txt", "*.jinja")
_COMPLETE: Final = ".complete"


def hub_command(name: str, *where: str) -> list[str]:
    """Command line that fetches owner/model from Hugging Face; `where` are hf's own options."""
    command = [str(Path(sys.executable).with_name("hf")), "download", name, "--quiet", *where]
    for pattern in _PATTERNS:
        command += ["--include", pattern]
    return command


def demo_command(kind: str, folder: Path) -> list[str]:
    """Command line that makes the demo checkpoint of a kind; another process, for it loads torch."""
    maker = "embed" if kind == "embed" else "chat"  # the demo chat model reranks as well
    return [sys.executable, "-m", "modelkit.demo", maker, str(folder)]


def fetch(kind: str, source: str, folder: Path) -> int:
    """Fill the folder, unless that was done; the exit code of the program that did it.

    Several pods may fetch into one folder of a shared volume: hf takes turns, and the demo's maker renames.
    """
    if (folder / _COMPLETE).exists():
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = demo_command(kind, folder) if source == DEMO else hub_command(source, "--local-dir", str(folder))
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        (folder / _COMPLETE).touch()
    return code


if __name__ == "__main__":
    sys.exit(fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
