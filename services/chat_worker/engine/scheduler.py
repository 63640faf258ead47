"""Decides which sequences run in the next step and with how many tokens; knows no tensors and no clocks."""

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.batch import Batch
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.sequence import Priority, Sequence, Status

MOST_SAT_OUT = 16  # steps in a row that bulk sequences sit out


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next num_tokens uncomputed tokens of a sequence, to be computed in one step, and guessed ones after them.

    It describes the sequence as it is before the step is committed. draft is empty unless the chunk samples.
    """

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether the step reaches the sequence's last token, so that a new one can be sampled."""
        return self.num_tokens == self.sequence.num_pending

    @property
    def num_choices(self) -> int:
        """Logits that are followed by a choice: those of the last token and of each guessed one."""
        return 1 + len(self.draft) if self.samples else 0

    @property
    def num_logits(self) -> int:
        """The last logits of the chunk that are needed: of prompt tokens to be scored, then of the choices."""
        if not self.sequence.is_scoring:
            return self.num_choices
        num_known = max(0, self.sequence.num_scored - self.sequence.num_computed)  # computed anew after a preemption
        return max(self.num_choices, self.num_tokens - num_known)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. copies: (source, target) blocks to copy before it, in this order."""

    chunks: list[Chunk]
    copies: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


class Scheduler:
    """Fills each step under a budget of tokens; Batch says for whom there is room.

    Decoding sequences come first, one token each; then prompts in chunks, older and interactive ones first, so that a
    long prompt does not stall running streams; then guessed tokens. Bulk sequences sit out the steps that compute an
    interactive prompt, but for one now and then. O(running) a step, and O(1) a block.
    """

    def __init__(
        self, blocks: BlockPool, *, max_step_tokens: int, max_running: int, max_waiting_tokens: int = 1 << 18
    ) -> None:
        self.max_step_tokens = max_step_tokens
        self.batch = Batch(blocks, max_running=max_running)
        self._blocks = blocks
        self._max_waiting_tokens = max_waiting_tokens
        self._num_sat_out = 0
        self._chunks: dict[Sequence, Chunk] = {}  # the step that is being planned

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.batch.running or len(self.batch.waiting))

    @property
    def decoding(self) -> list[Sequence]:
        """Running sequences of which the next step can sample a token."""
        return [sequence for sequence in self._taking_part() if sequence.num_pending == 1]

    def check_queue(self, sequence: Sequence) -> None:
        """Raise MeshError QUEUE_FULL if too many tokens wait for this sequence to join them; alone it always may."""
        num_waiting, num_new = self.batch.waiting.num_tokens, len(sequence.token_ids)
        if num_waiting and num_waiting + num_new > self._max_waiting_tokens:
            raise MeshError(
                Reason.QUEUE_FULL,
                f"prompts of {num_waiting} tokens wait already and this one has {num_new}; "
                f"the most that may wait is {self._max_waiting_tokens}",
            )

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        sequence.status = Status.WAITING
        self.batch.waiting.add(sequence)

    def schedule(self, prompt_budget: int | None = None) -> Plan:
        """Choose the next step and give it room in the cache.

        prompt_budget: tokens of prompts that it may compute; None leaves them all that decoding does not need.
        """
        self._chunks = {}
        budget = self.max_step_tokens
        bulk_sits_out, running = self._bulk_sits_out(), self._taking_part()
        for sequence in (each for each in running if each.num_pending == 1):
            budget -= self._compute(sequence, budget)
        prompt_budget = budget if prompt_budget is None else min(budget, prompt_budget)
        budget -= prompt_budget
        prompts = [sequence for sequence in running if sequence.num_pending > 1]
        for sequence in sorted(prompts, key=lambda sequence: sequence.priority):
            prompt_budget -= self._compute(sequence, prompt_budget)
        while prompt_budget > 0 and (sequence := self.batch.let_in(bulk=not bulk_sits_out)) is not None:
            prompt_budget -= self._compute(sequence, prompt_budget)
        self._num_sat_out = self._num_sat_out + 1 if bulk_sits_out else 0
        self._draft(budget + prompt_budget)
        # one that was planned first may have been preempted after that
        chunks = [chunk for chunk in self._chunks.values() if chunk.sequence.status is Status.RUNNING]
        return Plan(chunks, self._blocks.take_copies())

    def commit(self, plan: Plan, sampled: Mapping[Sequence, Rows[int]]) -> None:
        """Record what a step computed and append the tokens that sequences and their forks gained.

        All but the last of a sequence's new tokens were guessed and computed in the step.
        """
        for chunk in plan.chunks:
            sequence, token_ids = chunk.sequence, sampled.get(chunk.sequence, ())
            if sequence.status is not Status.RUNNING:
                continue  # its request failed meanwhile
            sequence.num_computed += chunk.num_tokens + max(0, len(token_ids) - 1)
            if sequence.is_scoring:
                sequence.num_scored = max(sequence.num_scored, min(sequence.num_computed, sequence.prompt_len - 1))
            sequence.token_ids += token_ids
            self.batch.waiting.charge(sequence, len(token_ids))
            self._blocks.remember(sequence)
            if token_ids and sequence.forks:
                self.batch.branch(sequence, sampled)
            if chunk.draft:
                self._blocks.trim(sequence)

    def _taking_part(self) -> list[Sequence]:
        """Who runs and does not sit out the next step."""
        bulk_sits_out = self._bulk_sits_out()
        return [s for s in self.batch.running if not (bulk_sits_out and s.priority is Priority.BULK)]

    def _bulk_sits_out(self) -> bool:
        return self._num_sat_out < MOST_SAT_OUT and self.batch.has_interactive_prompt

    def _compute(self, sequence: Sequence, budget: int) -> int:
        """Plan a running sequence's next tokens; returns how many, 0 if it gave way or was preempted before."""
        num_tokens = min(budget, sequence.num_pending)
        if num_tokens == 0 or sequence.status is not Status.RUNNING or not self.batch.make_room(sequence, num_tokens):
            return 0
        self._blocks.allocate(sequence, sequence.num_computed + num_tokens)
        self._chunks[sequence] = Chunk(sequence, num_tokens)
        return num_tokens

    def _draft(self, budget: int) -> None:
        """Add guessed tokens where the budget and the free blocks allow; nobody gives way for them."""
        for sequence, chunk in self._chunks.items():
            draft = sequence.draft[:budget] if sequence.status is Status.RUNNING and chunk.samples else ()
            wanted = len(sequence.token_ids) + len(draft)
            if draft and self._blocks.can_allocate(sequence, wanted):
                self._blocks.allocate(sequence, wanted)
                self._chunks[sequence] = Chunk(sequence, chunk.num_tokens, draft)
                budget -= len(draft)
