"""This project's engine in process: the worker's own parts with a sink that only notes times; no Triton, no gRPC."""

import itertools
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version

import torch

from bench.peers.protocol import Job, Outcome, serve
from meshkit.errors import MeshError
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.sequence import RequestId
from services.chat_worker.prompt import Prepared
from services.chat_worker.request import GenerationRequest, TokenPrompt
from services.chat_worker.settings import ChatSettings
from services.chat_worker.worker import build_worker

_WINDOW = 4096


class Notes:
    """When each token of each answer came. The loop's thread writes it; others read what its events have announced."""

    def __init__(self, request_ids: list[RequestId], *, full_at: int) -> None:
        self.token_s: dict[RequestId, list[float]] = {request_id: [] for request_id in request_ids}
        self.failure: MeshError | None = None
        self.are_full = threading.Event()  # every answer has full_at tokens
        self.are_complete = threading.Event()
        self._full_at = full_at
        self._num_short = self._num_unfinished = len(request_ids)

    def add(self, request_id: RequestId, piece: Piece, now_s: float) -> None:
        """Note a piece of an answer."""
        times = self.token_s[request_id]
        was_short = len(times) < self._full_at
        times += [now_s] * len(piece.tokens)
        if was_short and len(times) >= self._full_at:
            self._num_short -= 1
            if self._num_short == 0:
                self.are_full.set()
        if piece.finish:
            self.end()

    def end(self, failure: MeshError | None = None) -> None:
        """Note that an answer is over."""
        self.failure = self.failure or failure
        self._num_unfinished -= 1
        if self._num_unfinished == 0 or failure:
            self.are_full.set()
            self.are_complete.set()

    def wait(self) -> None:
        """Return when every answer is complete. Raises the failure of one that failed."""
        self.are_complete.wait()
        if self.failure:
            raise self.failure


class NotingSink:
    """Takes the engine's results into the notes of the job that is running."""

    def __init__(self) -> None:
        self.notes: dict[RequestId, Notes] = {}

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        """Note the time."""
        self.notes[request_id].add(request_id, piece, time.perf_counter())

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        """Note the failure."""
        self.notes[request_id].end(error)

    def observe(self, load: Load) -> None:
        """Nothing to note."""


class Ours:
    """One loaded worker."""

    def __init__(self, settings: ChatSettings) -> None:
        self._sink = NotingSink()
        self._worker = build_worker(settings, self._sink)
        self._worker.loop.start()
        self._ids = itertools.count()

    def prepare(self, job: Job) -> Callable[[], Outcome]:
        """Make what the engine is asked for; its tokens are made in the time."""
        requests = {RequestId(next(self._ids)): self._ask(prompt, job.max_tokens, job.top_p) for prompt in job.prompts}
        late = {RequestId(next(self._ids)): self._ask(job.newcomer, 1)} if job.newcomer else {}
        notes = Notes(list(requests), full_at=job.newcomer_after)
        late_notes = Notes(list(late), full_at=1)
        self._sink.notes = dict.fromkeys(requests, notes) | dict.fromkeys(late, late_notes)

        def run() -> Outcome:
            began_s = time.perf_counter()
            self._submit(requests)
            newcomer_s = None
            if late:
                notes.are_full.wait()
                arrived_s = time.perf_counter() - began_s
                self._submit(late)
                late_notes.wait()
                newcomer_s = arrived_s, next(iter(late_notes.token_s.values()))[0] - began_s
            notes.wait()
            token_s = [[each_s - began_s for each_s in times] for times in notes.token_s.values()]
            return Outcome(sum(map(len, token_s)), token_s, newcomer_s)

        return run

    def _ask(self, prompt: list[int], max_tokens: int, top_p: float | None = None) -> Prepared:
        # No guessing ahead: the peers do not guess either.
        request = GenerationRequest(
            request_id="",
            model="",
            prompt=TokenPrompt(tuple(prompt)),
            temperature=0.0 if top_p is None else 1.0,
            top_p=top_p,
            max_tokens=max_tokens,
            ignore_eos=True,
            speculate=False,
        )
        return self._worker.prompts.prepare(request, fallback_seed=0)

    def _submit(self, requests: dict[RequestId, Prepared]) -> None:
        for request_id, prepared in requests.items():
            self._worker.submit(request_id, prepared)


def main() -> None:
    """Serve a checkpoint folder with that many threads and in that precision."""
    folder, num_threads, dtype = sys.argv[1:]
    torch.set_num_threads(int(num_threads))
    engine = Ours(ChatSettings.model_validate({"model_path": folder, "dtype": dtype, "max_model_len": _WINDOW}))
    serve(engine.prepare, {"version": f"torch {version('torch')}", "features": torch.backends.cpu.get_cpu_capability()})


if __name__ == "__main__":
    main()
