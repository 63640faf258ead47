"""Holds what is told about one answer, and the seams through which it is told; runs nothing."""

from collections.abc import Sequence as Pieces
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from torch import Tensor

from meshkit.errors import MeshError
from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.sampler import Sampled
from services.chat_worker.engine.sequence import FinishReason, RequestId, Sequence
from services.chat_worker.engine.speculate import Speculation


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """A step that computed a part of the prompt. Times are of the engine's clock."""

    start_s: float
    end_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended, in tokens and seconds. arrived_s is of the engine's clock."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    cached_tokens: int = 0  # of the prompt
    accepted_draft_tokens: int = 0  # of the answer
    rejected_draft_tokens: int = 0
    arrived_s: float = 0.0
    prompt_chunks: tuple[PromptChunk, ...] = ()

    def total_s(self) -> float:
        """From arrival to the last token."""
        return self.queue_s + self.prefill_s + self.decode_s


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to one answer of a request.

    tokens: what was sampled, without the token that ended the answer. finish: with the answer's last piece.
    last: whether all answers of the request have ended now. prompt_scores: one per prompt token, with the first piece
    of answer 0, if asked for; the first has no score. gap_s: time since the piece before, of the first since arrival.
    first: whether the answer begins with it.
    """

    text: str
    tokens: tuple[Sampled, ...]
    index: int = 0
    finish: Finish | None = None
    last: bool = False
    prompt_scores: tuple[Sampled, ...] = ()
    gap_s: float = 0.0
    first: bool = False

    @classmethod
    def merge(cls, pieces: Pieces["Piece"]) -> "Piece":
        """One piece that says what these, of the same answer and in order, say; times between them are lost."""
        final = pieces[-1]
        return cls(
            text="".join(piece.text for piece in pieces),
            tokens=tuple(chain.from_iterable(piece.tokens for piece in pieces)),
            index=final.index,
            finish=final.finish,
            last=final.last,
            prompt_scores=pieces[0].prompt_scores,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine is busy with, after a step."""

    num_running: int
    num_waiting: int
    kv_usage_ratio: float
    prompt_tokens: int  # since the start
    generation_tokens: int  # since the start
    num_preemptions: int  # since the start
    num_prefix_queried: int = 0  # prompt tokens looked up in the prefix cache, since the start
    num_prefix_hit: int = 0  # those found there, since the start
    num_draft_tokens: int = 0  # guessed ahead, since the start
    num_accepted_draft_tokens: int = 0  # those that held, since the start
    waiting_tokens: int = 0  # of prompts that are not computed yet, of running answers too


class Sink(Protocol):
    """Takes the engine's results, on the loop's thread; must return at once."""

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        """Take the next piece of a request's answers; the one with last is the last."""
        ...

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        """Take the failure that ends a request."""
        ...

    def observe(self, load: Load) -> None:
        """Take the load after a step."""
        ...


class Grammar(Protocol):
    """The form an answer must have, following the tokens chosen so far. The engine's thread calls it."""

    def prepare(self) -> None:
        """Begin to work out the mask of the next token, on another thread."""
        ...

    def mask(self) -> Tensor | None:
        """Wait for the mask that was prepared: see sampler.Row."""
        ...

    def accept(self, token_id: int) -> None:
        """Take the token that was chosen."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether the form is complete and nothing may follow."""
        ...


@dataclass(slots=True)
class Generation:
    """A sequence with what is needed to tell its story. Times are of the loop's clock, in seconds."""

    sequence: Sequence
    detok: Detokenizer
    grammar: Grammar | None = None
    speculation: Speculation | None = None
    arrived_s: float = 0.0
    started_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    prompt_chunks: list[PromptChunk] = field(default_factory=list[PromptChunk])
    prompt_scores: list[Sampled] = field(default_factory=list[Sampled])  # without the first token's, which has none

    def go_on(self) -> None:
        """Bring text and form to where the sequence's tokens are; the caller has what they say."""
        for token_id in self.sequence.token_ids[self.sequence.prompt_len :]:
            self.detok.push(token_id)
            if self.grammar is not None:
                self.grammar.accept(token_id)

    def begin(self, now_s: float) -> None:
        """Note the first step that computes something of it; a preempted sequence began long ago."""
        if self.started_s is None:
            self.started_s = now_s
            if self.grammar is not None:
                self.grammar.prepare()

    def guess(self, price: float) -> None:
        """Guess what the sequence may gain in the next step; see Speculation.draft. With a grammar there is no need."""
        if self.speculation is not None and self.grammar is None:
            sequence = self.sequence
            most = sequence.stop.max_tokens - sequence.completion_len - 1  # one more token comes without a guess
            sequence.draft = self.speculation.draft(sequence.token_ids, most=most, price=price)

    def note_chunk(self, num_tokens: int, start_s: float, end_s: float) -> None:
        """Note a step that computed something of it; only those before the first token are kept."""
        if self.first_token_s is None:
            self.prompt_chunks.append(PromptChunk(start_s, end_s, num_tokens))

    def take(self, tokens: list[Sampled], now_s: float) -> Piece:
        """Tell what the sequence's newest tokens add to the answer; what follows its end is dropped."""
        scores: tuple[Sampled, ...] = ()
        first = self.last_token_s is None
        gap_s = now_s - (self.arrived_s if self.last_token_s is None else self.last_token_s)
        self.last_token_s = now_s
        if self.first_token_s is None:
            self.first_token_s = now_s
            if self.sequence.sampling.prompt_logprobs is not None:
                scores = (Sampled(self.sequence.token_ids[0]), *self.prompt_scores)
        texts: list[str] = []
        shown: list[Sampled] = []
        finish: Finish | None = None
        completion_len = self.sequence.completion_len - len(tokens)
        for token in tokens:
            completion_len += 1
            text, reason = self._push(token.token_id, completion_len)
            texts.append(text)
            if token.token_id not in self.sequence.stop.token_ids:
                shown.append(token)
            if reason is not None:
                finish = self._finish(reason, completion_len, now_s)
                break
        index = self.sequence.index
        return Piece("".join(texts), tuple(shown), index, finish, prompt_scores=scores, gap_s=gap_s, first=first)

    def _push(self, token_id: int, completion_len: int) -> tuple[str, FinishReason | None]:
        """The text a new token adds, and why the answer ends with it, if it does."""
        ends = token_id in self.sequence.stop.token_ids
        text = "" if ends else self.detok.push(token_id)
        if not ends and self.grammar is not None:
            self.grammar.accept(token_id)
            ends = self.grammar.is_finished
        if not (ends or self.detok.stopped or completion_len >= self.sequence.stop.max_tokens):
            if self.grammar is not None:
                self.grammar.prepare()
            return text, None
        text += self.detok.finish()  # what it held back may hold a stop text
        return text, FinishReason.STOP if ends or self.detok.stopped else FinishReason.LENGTH

    def _finish(self, reason: FinishReason, completion_len: int, now_s: float) -> Finish:
        assert self.started_s is not None and self.first_token_s is not None, "an answer ended before it began"
        return Finish(
            reason,
            prompt_tokens=self.sequence.prompt_len,
            cached_tokens=min(self.sequence.num_cached or 0, self.sequence.prompt_len),
            completion_tokens=completion_len,
            queue_s=self.started_s - self.arrived_s,
            prefill_s=self.first_token_s - self.started_s,
            decode_s=now_s - self.first_token_s,
            accepted_draft_tokens=self.speculation.num_accepted if self.speculation else 0,
            rejected_draft_tokens=self.speculation.num_rejected if self.speculation else 0,
            arrived_s=self.arrived_s,
            prompt_chunks=tuple(self.prompt_chunks),
        )
