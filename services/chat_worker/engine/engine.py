"""Carries requests through the model step by step, on whatever thread calls it; knows no queues and no threads."""

import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.choices import Choices, choose
from services.chat_worker.engine.generation import Generation, Load, Sink
from services.chat_worker.engine.pace import Pace
from services.chat_worker.engine.requests import Requests
from services.chat_worker.engine.runner import ModelRunner
from services.chat_worker.engine.sampler import Sampled
from services.chat_worker.engine.scheduler import Chunk, Plan, Scheduler
from services.chat_worker.engine.sequence import RequestId, Sequence

log = logging.getLogger(__name__)


class Engine:
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
        self.clock = clock
        self._scheduler = scheduler
        self._blocks = blocks
        self._runner = runner
        self._sink = sink
        self._vocab_size = vocab_size
        self._requests = Requests()
        self._pace = Pace(scheduler.max_step_tokens)
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._num_drafted = 0
        self._num_accepted = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return self._scheduler.has_work

    def add(self, answers: Rows[Generation], timeout_s: float | None = None) -> None:
        """Take in a request; see EngineLoop.submit."""
        first = answers[0].sequence
        try:
            self._scheduler.check_queue(first)
        except MeshError as error:
            self._sink.fail(first.request_id, error)
            return
        self._requests.add(answers, timeout_s)
        self._scheduler.add(first)

    def drop(self, request_id: RequestId) -> None:
        """Forget a request, without a word to the sink; unknown ids are ignored."""
        for sequence in self._requests.remove(request_id):
            self._scheduler.batch.remove(sequence)

    def fail_all(self, error: MeshError) -> None:
        """End every request with an error."""
        for request_id in list(self._requests):
            self._fail(request_id, error)

    def step(self) -> None:
        """Compute one step and tell the sink what came of it."""
        start_s = self.clock()
        for request_id, timeout_s in self._requests.expired(start_s):
            self._fail(request_id, MeshError(Reason.DEADLINE, f"the answer was not complete after {timeout_s:g} s"))
        plan = self._plan()
        if not plan.chunks:
            return  # all that was left has expired
        for chunk in plan.chunks:
            for sequence in (chunk.sequence, *chunk.sequence.forks):
                self._requests.generations[sequence].begin(start_s)
        try:
            choices = self._compute(plan)
        except Exception:  # boundary: a silent step is a batch of hung clients
            log.exception("a step of %d sequences failed", len(plan.chunks))
            for chunk in plan.chunks:
                error = MeshError(Reason.INTERNAL, "the model failed on this request")
                self._fail(chunk.sequence.request_id, error)
            return
        self._commit(plan, choices, start_s)

    def observe(self) -> None:
        """Tell the sink the load; with nothing left to do, assert that nothing is lost."""
        self._sink.observe(self._load())
        if not self._requests:
            self._scheduler.batch.check_integrity()

    def _fail(self, request_id: RequestId, error: MeshError) -> None:
        """End a request with an error, unless it has ended already."""
        if request_id in self._requests:
            self.drop(request_id)
            self._sink.fail(request_id, error)

    def _plan(self) -> Plan:
        decoding = self._scheduler.decoding
        price = self._pace.draft_price(len(decoding))
        for sequence in decoding:
            self._requests.generations[sequence].guess(price)
        budget = self._pace.prompt_tokens(len(decoding), self._scheduler.batch.num_reading)
        return self._scheduler.schedule(budget)

    def _compute(self, plan: Plan) -> Choices:
        logits = self._runner.run(plan)[:, : self._vocab_size]  # padding rows of the vocabulary are no tokens
        return choose(plan, logits, self._requests.generations)

    def _commit(self, plan: Plan, choices: Choices, start_s: float) -> None:
        gained = {sequence: tokens for sequence, tokens in choices.items() if not isinstance(tokens, MeshError)}
        for sequence, tokens in choices.items():
            if isinstance(tokens, MeshError):
                self._fail(sequence.request_id, tokens)
        self._scheduler.commit(plan, {s: [token.token_id for token in tokens] for s, tokens in gained.items()})
        now_s = self.clock()
        self._pace.observe(plan, now_s - start_s)
        for chunk in plan.chunks:
            if (generation := self._requests.generations.get(chunk.sequence)) is not None:
                generation.note_chunk(chunk.num_tokens, start_s, now_s)
                self._note_draft(generation, chunk, gained)
        for sequence, tokens in gained.items():
            if (generation := self._requests.generations.get(sequence)) is not None:
                self._advance(generation, tokens, now_s)

    def _advance(self, generation: Generation, tokens: list[Sampled], now_s: float) -> None:
        """Tell the sink what new tokens add, and end the answer if the last is among them."""
        sequence = generation.sequence
        if generation.first_token_s is None and sequence.index == 0:
            self._prompt_tokens += sequence.prompt_len
        self._generation_tokens += len(tokens)
        piece = generation.take(tokens, now_s)
        if piece.finish is not None:
            self._requests.end(sequence)
            self._scheduler.batch.remove(sequence)
            piece = replace(piece, last=sequence.request_id not in self._requests)
        self._sink.emit(sequence.request_id, piece)

    def _note_draft(self, generation: Generation, chunk: Chunk, gained: Mapping[Sequence, list[Sampled]]) -> None:
        num_drafted = len(chunk.draft)
        if generation.speculation is not None and num_drafted:
            num_accepted = len(gained[chunk.sequence]) - 1
            generation.speculation.note(num_drafted, num_accepted)
            self._num_drafted += num_drafted
            self._num_accepted += num_accepted

    def _load(self) -> Load:
        batch = self._scheduler.batch
        unread = (sequence.num_pending for sequence in batch.running)  # 1 is the last token of one that decodes
        return Load(
            num_running=len(batch.running),
            num_waiting=len(batch.waiting),
            kv_usage_ratio=self._blocks.usage_ratio,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            num_preemptions=batch.num_preemptions,
            num_prefix_queried=self._blocks.num_queried,
            num_prefix_hit=self._blocks.num_hit,
            num_draft_tokens=self._num_drafted,
            num_accepted_draft_tokens=self._num_accepted,
            waiting_tokens=batch.waiting.num_tokens + sum(pending for pending in unread if pending > 1),
        )
