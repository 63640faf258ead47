"""llama.cpp through its C interface; all streams advance in step, the fastest way it can be driven."""

import sys
from collections.abc import Callable, Iterable
from ctypes import c_void_p
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from bench.peers.protocol import Job, Outcome, serve

_UBATCH = 512  # its default: prompts are computed in pieces of this many tokens


class Row(NamedTuple):
    """One token of a batch."""

    token_id: int
    position: int
    stream: int
    has_logits: bool


class Llama:
    """One loaded model."""

    def __init__(self, path: str, num_threads: int) -> None:
        self._num_threads = num_threads
        self._lib: Any = import_module("llama_cpp")  # here: it exists in this peer's own environment only
        self._quiet = self._lib.llama_log_callback(lambda *_: None)  # kept: the library holds only its address
        self._lib.llama_log_set(self._quiet, c_void_p(0))
        self._lib.llama_backend_init()
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._vocab_size: int = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))

    def about(self) -> dict[str, str]:
        """Version and the instructions it was built for."""
        features = self._lib.llama_print_system_info().decode()
        return {"version": f"llama-cpp-python {self._lib.__version__}", "features": features}

    def prepare(self, job: Job) -> Callable[[], Outcome]:
        """Make a context with room for the job; that is not part of the time."""
        num_prompt_tokens = sum(map(len, job.prompts))
        params = self._lib.llama_context_default_params()
        params.n_ctx = len(job.prompts) * (max(map(len, job.prompts)) + job.max_tokens + 8)
        params.n_batch = max(num_prompt_tokens, _UBATCH)
        params.n_ubatch = _UBATCH
        params.n_seq_max = len(job.prompts)
        params.n_threads = params.n_threads_batch = self._num_threads
        params.kv_unified = False
        context = self._lib.llama_init_from_model(self._model, params)
        batch = self._lib.llama_batch_init(max(num_prompt_tokens, len(job.prompts)), 0, 1)

        def run() -> Outcome:
            try:
                return self._generate(context, batch, job)
            finally:
                self._lib.llama_batch_free(batch)
                self._lib.llama_free(context)

        return run

    def _generate(self, context: object, batch: Any, job: Job) -> Outcome:  # noqa: ANN401  (a C structure)
        rows = [
            Row(token_id, position, stream, position == len(prompt) - 1)
            for stream, prompt in enumerate(job.prompts)
            for position, token_id in enumerate(prompt)
        ]
        token_ids = self._decode(context, batch, rows)
        for step in range(job.max_tokens - 1):
            rows = [Row(token_id, len(job.prompts[at]) + step, at, True) for at, token_id in enumerate(token_ids)]
            token_ids = self._decode(context, batch, rows)
        return Outcome(len(job.prompts) * job.max_tokens)

    def _decode(self, context: object, batch: Any, rows: list[Row]) -> list[int]:  # noqa: ANN401
        """Compute one batch; returns the best next token of every row that has logits."""
        for at, row in enumerate(rows):
            batch.token[at] = row.token_id
            batch.pos[at] = row.position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = row.stream
            batch.logits[at] = row.has_logits
        batch.n_tokens = len(rows)
        if self._lib.llama_decode(context, batch) != 0:
            raise RuntimeError(f"llama_decode failed on a batch of {len(rows)} tokens")
        return [self._best(context, at) for at, row in enumerate(rows) if row.has_logits]

    def _best(self, context: object, at: int) -> int:
        logits = np.ctypeslib.as_array(self._lib.llama_get_logits_ith(context, at), (self._vocab_size,))
        return int(logits.argmax())


def requantise(source: str, targets: Iterable[str]) -> None:
    """Write a GGUF file in other formats, each named as in FORMAT=PATH."""
    lib: Any = import_module("llama_cpp")
    for target in targets:
        kind, _, path = target.partition("=")
        params = lib.llama_model_quantize_default_params()
        params.ftype = getattr(lib, f"LLAMA_FTYPE_{kind}")
        params.allow_requantize = True
        if lib.llama_model_quantize(source.encode(), path.encode(), params) != 0:
            raise RuntimeError(f"llama.cpp cannot write {path}")


def main() -> None:
    """Serve a GGUF file with that many threads; or, after the word requantise, write it in other formats."""
    if sys.argv[1] == "requantise":
        requantise(sys.argv[2], sys.argv[3:])
        return
    engine = Llama(sys.argv[1], int(sys.argv[2]))
    serve(engine.prepare, engine.about())


if __name__ == "__main__":
    main()
