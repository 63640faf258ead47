"""Shows where the time of an engine step goes, by clocks around the engine's parts; the only limit it knows is memory.

It reaches into private parts of the engine on purpose: a clock inside of them would cost every user.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from bench.machine import RESULTS, read_head
from bench.prompts import Prompts
from mesh.cache import demo_checkpoint
from meshkit.errors import MeshError
from modelkit.native.model import NativeDecoder
from modelkit.shapes import kv_bytes_per_token
from services.chat_worker.engine import engine as engine_module
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.sequence import RequestId
from services.chat_worker.request import GenerationRequest, TokenPrompt
from services.chat_worker.settings import ChatSettings
from services.chat_worker.worker import ChatWorker, build_worker

_BATCHES = (1, 8, 32)
_PROMPT_LEN, _NUM_STEPS = 64, 192
_PARTS = ("plan", "lay out", "model", "choose", "commit, text, emit", "the loop's rest")
_REST = _PARTS[-1]


class Sink:
    """Takes what the engine says and lets it go."""

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        """Let a piece go."""

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        """Nothing may fail here."""
        raise AssertionError(f"request {request_id} failed") from error

    def observe(self, load: Load) -> None:
        """Let the load go."""


class Stopwatch:
    """Seconds spent in each part of a step, without those spent in parts that it calls."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._inner_s = [0.0]  # of the parts called, for each part that is running

    def around(self, part: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  (it is the function's own business)
            self._inner_s.append(0.0)
            start_s = self._clock()
            try:
                return act(*arguments, **named)
            finally:
                whole_s = self._clock() - start_s
                self.seconds[part] += whole_s - self._inner_s.pop()
                self._inner_s[-1] += whole_s

        return timed


@dataclass(frozen=True, slots=True)
class Profile:
    """Medians over decode steps of one batch. seconds: by part. num_bytes: weights and keys and values a step reads."""

    batch: int
    seconds: dict[str, float]
    num_bytes: int

    @property
    def step_s(self) -> float:
        """All parts together."""
        return sum(self.seconds.values())


def to_markdown(profiles: Sequence[Profile], bytes_per_s: float) -> str:
    """The table of docs/benchmarks.md; milliseconds, and the share of the step."""
    rows = [["part", *(f"batch {profile.batch}" for profile in profiles)], ["---"] * (1 + len(profiles))]
    for part in _PARTS:
        cells = [(profile.seconds[part], profile.seconds[part] / profile.step_s) for profile in profiles]
        rows.append([part, *(f"{seconds * 1000:.3f} ({share:.1%})" for seconds, share in cells)])
    rows.append(["**step**", *(f"**{profile.step_s * 1000:.3f}**" for profile in profiles)])
    rows.append(["reads, MB", *(f"{profile.num_bytes / 1e6:.0f}" for profile in profiles)])
    rows.append(["such a read alone", *(f"{profile.num_bytes / bytes_per_s * 1000:.3f}" for profile in profiles)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def read_rate(num_bytes: int) -> float:
    """Bytes per second of reading one tensor of that size over and over with all threads, as steps read weights."""
    tensor = torch.ones(num_bytes // 4)
    times: list[float] = []
    for _ in range(20):
        start_s = time.perf_counter()
        tensor.sum()
        times.append(time.perf_counter() - start_s)
    return num_bytes / median(times)


def profile(worker: ChatWorker, watch: Stopwatch, prompts: Prompts, batch: int) -> Profile:
    """Decode that many answers together, on this thread."""
    turn = watch.around(_REST, worker.loop._turn)
    for number in range(batch):
        request = GenerationRequest(
            request_id="",
            model="",
            prompt=TokenPrompt(tuple(prompts.take(_PROMPT_LEN))),
            temperature=0.0,
            max_tokens=2 * _NUM_STEPS,
            ignore_eos=True,
            speculate=False,
        )
        worker.submit(RequestId(number), worker.prompts.prepare(request, fallback_seed=0))
    scheduler = engine_of(worker)._scheduler
    turn()
    while len(scheduler.decoding) < batch:
        turn()
    steps: list[dict[str, float]] = []
    for _ in range(_NUM_STEPS):
        watch.seconds.clear()
        turn()
        steps.append(dict(watch.seconds))
    num_tokens = sum(len(sequence.token_ids) for sequence in scheduler.decoding)
    num_bytes = weight_bytes(worker) + (num_tokens - batch * _NUM_STEPS // 2) * kv_bytes(worker)
    for number in range(batch):
        worker.loop.abort(RequestId(number))
    turn()
    return Profile(batch, {part: median(step[part] for step in steps) for part in _PARTS}, num_bytes)


def engine_of(worker: ChatWorker) -> Engine:
    """The engine that the loop turns."""
    return worker.loop._engine


def weight_bytes(worker: ChatWorker) -> int:
    """What a step reads of the weights: all but the embedding, of which it reads some rows."""
    weights = model_of(worker)._weights
    embedding = weights.config.vocab_size * weights.config.hidden_size * 2
    return sum(tensor.nbytes for tensor in weights._kept) - embedding


def kv_bytes(worker: ChatWorker) -> int:
    """What a step reads for each token of context."""
    model = model_of(worker)
    return kv_bytes_per_token(model._weights.config, model.keys.dtype.itemsize)


def model_of(worker: ChatWorker) -> NativeDecoder:
    """The C++ step."""
    model = engine_of(worker)._runner._model
    assert isinstance(model, NativeDecoder), "the C++ step is not built"
    return model


def watched_worker(watch: Stopwatch) -> ChatWorker:
    """A worker on the demo model in int8 with clocks around its parts; its loop is not started."""
    settings = {"model_path": demo_checkpoint(), "dtype": "int8", "max_model_len": 4096}
    worker = build_worker(ChatSettings.model_validate(settings), Sink())
    engine = engine_of(worker)
    runner, model = engine._runner, model_of(worker)
    engine._plan = watch.around("plan", engine._plan)
    runner.run = watch.around("lay out", runner.run)
    model.forward = watch.around("model", model.forward)
    engine_module.choose = watch.around("choose", engine_module.choose)
    engine._commit = watch.around("commit, text, emit", engine._commit)
    return worker


def main() -> None:
    """Measure, print the table and keep the figures as JSON."""
    watch = Stopwatch()
    worker, prompts = watched_worker(watch), Prompts(time.time_ns())
    head = read_head("torch")
    profile(worker, watch, prompts, 1)  # what happens only once
    profiles = [profile(worker, watch, prompts, batch) for batch in _BATCHES]
    num_bytes = weight_bytes(worker)
    rates = {"weights": read_rate(num_bytes), "1 GiB": read_rate(1 << 30)}
    words = {"head": asdict(head), "bytes_per_s": rates, "profiles": list(map(asdict, profiles))}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "profile.json").write_text(json.dumps(words, indent=2) + "\n")
    sys.stdout.write(to_markdown(profiles, rates["weights"]))
    sys.stdout.write(f"\nreading, over and over: {num_bytes / 1e6:.0f} MB at {rates['weights'] / 1e9:.1f} GB/s, ")
    sys.stdout.write(f"1 GiB at {rates['1 GiB'] / 1e9:.1f} GB/s\n{head}\n")


if __name__ == "__main__":
    main()
