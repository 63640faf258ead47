"""Knows which engines can be measured, and runs each as a process that times jobs; does not know which jobs matter."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.machine import ROOT
from bench.peers.protocol import Job, Outcome
from bench.quiet import share_of_others
from mesh.cache import cache_folder, demo_checkpoint

NUM_THREADS = 2
_AT_HOME = ("ours", "sentence-transformers", "transformers")  # those that our own environment has
CLASSES = ("int8", "int4", "fp16", "fp32")


class EngineError(RuntimeError):
    """An engine could not be started or ended; the message says which one, and what it wrote last."""


@dataclass(frozen=True, slots=True)
class Spec:
    """An engine in one number format. number_class: the class it competes in. arguments: of its module in peers/.

    module: its file there, if it is not named after the engine.
    """

    engine: str
    number_format: str
    number_class: str
    arguments: tuple[str, ...]
    module: str | None = None

    @property
    def name(self) -> str:
        """What people read."""
        return f"{self.engine} {self.number_format}"

    @property
    def is_ours(self) -> bool:
        """Whether it is the engine that this is all about."""
        return self.engine == "ours"


def peers_folder() -> Path:
    """Where `make bench-peers` keeps the environments of the peers and their weights."""
    return cache_folder() / "peers"


def gguf(number_format: str) -> Path:
    """The demo weights in one of llama.cpp's formats."""
    return peers_folder() / "weights" / f"demo-{number_format}.gguf"


def catalogue() -> list[Spec]:
    """Every engine in every format."""
    ours = {"int8": "int8", "int4": "int4", "fp16": "fp16", "bf16": "fp16", "fp32": "fp32"}
    llama = {"Q8_0": "int8", "Q4_0": "int4", "F16": "fp16", "BF16": "fp16", "F32": "fp32"}
    openvino = {("Q8_0", "default"): "int8", ("Q4_0", "default"): "int4", ("F16", "default"): "fp16"}
    openvino |= {("Q8_0", "f32"): "int8", ("Q4_0", "f32"): "int4"}
    ct2 = {"int8": "int8", "float32": "fp32"}
    threads, folder = str(NUM_THREADS), str(peers_folder() / "weights" / "ct2")
    return [
        *(Spec("ours", name, kind, (str(demo_checkpoint()), threads, name)) for name, kind in ours.items()),
        *(Spec("llama", name, kind, (str(gguf(name)), threads)) for name, kind in llama.items()),
        *(
            Spec("openvino", f"{name}/{precision}", kind, (str(gguf(name)), threads, precision))
            for (name, precision), kind in openvino.items()
        ),
        *(Spec("ct2", name, kind, (folder, threads, name)) for name, kind in ct2.items()),
    ]


def python_of(engine: str) -> Path:
    """The interpreter an engine runs in."""
    return Path(sys.executable) if engine in _AT_HOME else peers_folder() / engine / "bin" / "python"


def bound(command: Sequence[str | Path]) -> list[str | Path]:
    """The command as one that the kernel kills when whoever starts it ends, however that ends. Source: prctl(2)."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


class Engine:
    """A running engine. Start one with `with`; entering raises EngineError if it cannot load."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.about: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "OMP_NUM_THREADS": str(NUM_THREADS)}
        command = [
            python_of(self.spec.engine),
            "-m",
            f"bench.peers.{self.spec.module or self.spec.engine}",
            *self.spec.arguments,
        ]
        self._log = peers_folder() / f"{self.spec.engine}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                bound(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environment,
            )
        self.about = self._read()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def run(self, job: Job) -> tuple[Outcome, float]:
        """Run a job; returns what it took, and the share of the machine that others used meanwhile."""
        words, share = share_of_others(lambda: self._ask(asdict(job)), [self.pid])
        outcome = Outcome(**words)
        wanted = len(job.prompts) * job.max_tokens
        if outcome.num_tokens != wanted:
            raise EngineError(f"{self.spec.name} made {outcome.num_tokens} tokens instead of {wanted}")
        return outcome, share

    def _ask(self, words: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says what happened
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return json.loads(line)
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise EngineError(f"{self.spec.name} ended with exit code {self._process.wait()}: {' '.join(last)}")
