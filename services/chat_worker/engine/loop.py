"""Runs the engine: the one thread that owns sequences, blocks and tensors; others only leave messages in its inbox."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from meshkit.errors import MeshError, Reason
from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.runner import ModelRunner
from services.chat_worker.engine.sampler import Sampled, sample
from services.chat_worker.engine.scheduler import Chunk, Scheduler
from services.chat_worker.engine.sequence import FinishReason, Sequence, SequenceId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended, in tokens and seconds."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to an answer. tokens holds what was sampled, without the token that ended the answer."""

    text: str
    tokens: tuple[Sampled, ...]
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine is busy with, after a step."""

    num_running: int
    num_waiting: int
    kv_usage_ratio: float
    prompt_tokens: int  # since the start
    generation_tokens: int  # since the start
    num_preemptions: int  # since the start


class Sink(Protocol):
    """Takes the engine's results, on the loop's thread; must return at once."""

    def emit(self, sequence_id: SequenceId, piece: Piece) -> None:
        """Take the next piece of an answer; the one with finish is the last."""
        ...

    def fail(self, sequence_id: SequenceId, error: MeshError) -> None:
        """Take the failure that ends an answer."""
        ...

    def observe(self, load: Load) -> None:
        """Take the load after a step."""
        ...


@dataclass(slots=True)
class Generation:
    """A sequence with what is needed to tell its story. Times are of the loop's clock, in seconds."""

    sequence: Sequence
    detok: Detokenizer
    arrived_s: float
    started_s: float | None = None
    first_token_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Note the first step that computes something of it; a preempted sequence began long ago."""
        if self.started_s is None:
            self.started_s = now_s

    def take(self, token: Sampled) -> tuple[str, FinishReason | None]:
        """The text a new token adds, and why the answer ends with it, if it does."""
        ends = token.token_id in self.sequence.stop.token_ids
        text = "" if ends else self.detok.push(token.token_id)
        if not (ends or self.detok.stopped or self.sequence.completion_len >= self.sequence.stop.max_tokens):
            return text, None
        text += self.detok.finish()  # what it held back may hold a stop text
        return text, FinishReason.STOP if ends or self.detok.stopped else FinishReason.LENGTH

    def finish(self, reason: FinishReason, now_s: float) -> Finish:
        """How the answer ended, with its last token at now_s."""
        assert self.started_s is not None and self.first_token_s is not None, "an answer ended before it began"
        return Finish(
            reason,
            prompt_tokens=self.sequence.prompt_len,
            completion_tokens=self.sequence.completion_len,
            queue_s=self.started_s - self.arrived_s,
            prefill_s=self.first_token_s - self.started_s,
            decode_s=now_s - self.first_token_s,
        )


class EngineLoop:
    """Continuous batching: every step computes the next tokens of all running sequences together."""

    def __init__(
        self,
        scheduler: Scheduler,
        blocks: BlockPool,
        runner: ModelRunner,
        sink: Sink,
        *,
        vocab_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._blocks = blocks
        self._runner = runner
        self._sink = sink
        self._vocab_size = vocab_size
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._generations: dict[SequenceId, Generation] = {}
        self._stopping = False
        self._broken = False
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the step in hand; what is unfinished fails with NOT_READY."""
        self._inbox.put(self._stop)
        self._thread.join()

    def submit(self, sequence: Sequence, detok: Detokenizer) -> None:
        """Queue a sequence; its pieces go to the sink until one carries finish, or it fails."""
        generation = Generation(sequence, detok, arrived_s=self._clock())
        self._inbox.put(lambda: self._add(generation))

    def abort(self, sequence_id: SequenceId) -> None:
        """Drop a sequence, with no more pieces; its blocks are free one step later. Unknown ids are ignored."""
        self._inbox.put(lambda: self._drop(sequence_id))

    def ping(self, answer: Callable[[], None]) -> None:
        """Have answer called by the loop between two steps: proof that it still turns."""
        self._inbox.put(answer)

    @property
    def is_running(self) -> bool:
        """Whether what is submitted will be answered."""
        return self._thread.is_alive() and not (self._stopping or self._broken)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except Exception:
            log.exception("the engine loop broke; only a restart of the worker helps")
            self._broken = True
        while True:
            for sequence_id in list(self._generations):
                self._fail(sequence_id, MeshError(Reason.NOT_READY, "the worker is shutting down"))
            if self._stopping and self._inbox.empty():
                return
            self._inbox.get()()  # what was on its way here when the loop broke needs an answer too

    def _turn(self) -> None:
        self._read_inbox()
        if self._scheduler.has_work and not self._stopping:
            self._step()
        self._sink.observe(self._load())
        if not self._generations:
            self._scheduler.check_integrity()

    def _read_inbox(self) -> None:
        """Carry out what was asked; waits for something to do only when there is nothing to compute."""
        if not self._scheduler.has_work:
            self._inbox.get()()
        for _ in range(self._inbox.qsize()):  # what arrives meanwhile waits for the next turn
            self._inbox.get()()

    def _stop(self) -> None:
        self._stopping = True

    def _add(self, generation: Generation) -> None:
        self._generations[generation.sequence.id] = generation
        self._scheduler.add(generation.sequence)

    def _drop(self, sequence_id: SequenceId) -> None:
        if (generation := self._generations.pop(sequence_id, None)) is not None:
            self._scheduler.remove(generation.sequence)

    def _fail(self, sequence_id: SequenceId, error: MeshError) -> None:
        self._drop(sequence_id)
        self._sink.fail(sequence_id, error)

    def _step(self) -> None:
        chunks = self._scheduler.schedule()
        now_s = self._clock()
        for chunk in chunks:
            self._generations[chunk.sequence.id].begin(now_s)
        try:
            sampled = self._compute(chunks)
        except Exception:  # boundary: a silent step is a batch of hung clients
            log.exception("a step of %d sequences failed", len(chunks))
            for chunk in chunks:
                self._fail(chunk.sequence.id, MeshError(Reason.INTERNAL, "the model failed on this request"))
            return
        self._scheduler.commit(chunks, {sequence_id: token.token_id for sequence_id, token in sampled.items()})
        for sequence_id, token in sampled.items():
            self._advance(self._generations[sequence_id], token)

    def _compute(self, chunks: list[Chunk]) -> Mapping[SequenceId, Sampled]:
        logits = self._runner.run(chunks)[:, : self._vocab_size]  # padding rows of the vocabulary are no tokens
        sequences = [chunk.sequence for chunk in chunks if chunk.samples]
        tokens = sample(
            logits,
            [sequence.sampling for sequence in sequences],
            [len(sequence.token_ids) for sequence in sequences],
        )
        return {sequence.id: token for sequence, token in zip(sequences, tokens, strict=True)}

    def _advance(self, generation: Generation, token: Sampled) -> None:
        """Tell the sink what a new token adds, and end the sequence if it is the last."""
        sequence = generation.sequence
        if generation.first_token_s is None:
            generation.first_token_s = self._clock()
            self._prompt_tokens += sequence.prompt_len
        self._generation_tokens += 1
        text, reason = generation.take(token)
        finish: Finish | None = None
        if reason is not None:
            self._drop(sequence.id)
            finish = generation.finish(reason, self._clock())
        tokens = () if token.token_id in sequence.stop.token_ids else (token,)
        self._sink.emit(sequence.id, Piece(text, tokens, finish))

    def _load(self) -> Load:
        return Load(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            kv_usage_ratio=self._blocks.usage_ratio,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            num_preemptions=self._scheduler.num_preemptions,
        )
