"""Decides which sequences run in the next step and with how many tokens; knows no tensors and no clocks."""

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.sequence import Sequence, Status


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
        return self.num_tokens - max(0, self.sequence.num_scored - self.sequence.num_computed)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. copies: (source, target) blocks to copy before it, in this order."""

    chunks: list[Chunk]
    copies: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


class Scheduler:
    """First come, first served under a token budget per step.

    Decoding sequences come first, then prompts in chunks, so that a long prompt does not stall running streams. When
    blocks run out the newest running sequence gives its blocks up and is computed again later; the oldest always
    advances, so there is no deadlock as long as the pool holds one whole window.
    """

    def __init__(self, blocks: BlockPool, *, max_step_tokens: int, max_running: int) -> None:
        self._blocks = blocks
        self._max_step_tokens = max_step_tokens
        self._max_running = max_running
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is finished or no longer wanted; its blocks are free at once."""
        if sequence.status is Status.RUNNING:
            self.running.remove(sequence)
        elif sequence.status is Status.WAITING and sequence in self.waiting:  # a fork is not queued by itself
            self.waiting.remove(sequence)
        self._blocks.free(sequence)
        sequence.status = Status.FINISHED

    def schedule(self) -> Plan:
        """Choose the next step and give it room in the cache."""
        budget = self._max_step_tokens
        chunks: list[Chunk] = []
        copies: list[tuple[int, int]] = []
        for sequence in sorted(self.running, key=lambda sequence: sequence.num_pending > 1):
            # a preemption further up may have taken this one out
            if budget == 0 or sequence.status is not Status.RUNNING:
                continue
            num_tokens = min(budget, sequence.num_pending)
            if self._make_room(sequence, num_tokens):
                copies += self._allocate(sequence, sequence.num_computed + num_tokens)
                chunks.append(Chunk(sequence, num_tokens))
                budget -= num_tokens
        # a sequence that was scheduled first may have been preempted by an older one after that
        chunks = [chunk for chunk in chunks if chunk.sequence.status is Status.RUNNING]
        return Plan(chunks + self._admit(budget), copies)

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
            if token_ids and sequence.forks:
                self._branch(sequence, sampled)
            if chunk.draft:
                self._blocks.trim(sequence)

    def check_integrity(self) -> None:
        """Assert the invariants of the queues and of the block pool."""
        assert all(sequence.status is Status.WAITING and not sequence.block_ids for sequence in self.waiting)
        assert all(sequence.status is Status.RUNNING for sequence in self.running)
        self._blocks.check_integrity(self.running)

    def _admit(self, budget: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        while self.waiting and budget > 0 and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            # room for all of it and one more, or it would be preempted before its first token
            if not self._blocks.can_allocate(sequence, len(sequence.token_ids) + 1):
                break
            self.waiting.popleft()
            self._run(sequence)
            num_tokens = min(budget, sequence.num_pending)
            self._allocate(sequence, len(sequence.token_ids))
            chunks.append(Chunk(sequence, num_tokens))
            budget -= num_tokens
        return chunks

    def _run(self, sequence: Sequence) -> None:
        sequence.status = Status.RUNNING
        self.running.append(sequence)

    def _branch(self, parent: Sequence, sampled: Mapping[Sequence, Rows[int]]) -> None:
        """Let the forks of a sequence whose prompt has just been computed go on by themselves."""
        for child in parent.forks:
            child.token_ids += sampled[child]
            if len(self.running) < self._max_running:
                self._blocks.fork(parent, child)
                self._run(child)
            else:
                self.waiting.appendleft(child)
        parent.forks.clear()

    def _allocate(self, sequence: Sequence, num_tokens: int) -> list[tuple[int, int]]:
        copy = self._blocks.allocate(sequence, num_tokens)
        return [copy] if copy else []

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """See that the sequence's next tokens fit, preempting newer ones; False if it had to give way itself."""
        wanted = sequence.num_computed + num_tokens
        while not self._blocks.can_allocate(sequence, wanted):
            newest = self.running[-1]
            self._preempt(newest)
            if newest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._blocks.free(sequence)
        sequence.status = Status.WAITING
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1
