"""Decides which sequences run in the next step and with how many tokens; knows no tensors and no clocks."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.sequence import Sequence, SequenceId, Status


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next num_tokens uncomputed tokens of a sequence, to be computed in one step."""

    sequence: Sequence
    num_tokens: int

    @property
    def samples(self) -> bool:
        """Whether the step reaches the sequence's last token, so that a new one can be sampled."""
        return self.num_tokens == self.sequence.num_pending


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
        elif sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
        self._blocks.free(sequence)
        sequence.status = Status.FINISHED

    def schedule(self) -> list[Chunk]:
        """Choose the next step and give it room in the cache."""
        budget = self._max_step_tokens
        chunks: list[Chunk] = []
        for sequence in sorted(self.running, key=lambda sequence: sequence.num_pending > 1):
            # a preemption further up may have taken this one out
            if budget == 0 or sequence.status is not Status.RUNNING:
                continue
            num_tokens = min(budget, sequence.num_pending)
            if self._make_room(sequence, num_tokens):
                chunks.append(Chunk(sequence, num_tokens))
                budget -= num_tokens
        # a sequence that was scheduled first may have been preempted by an older one after that
        chunks = [chunk for chunk in chunks if chunk.sequence.status is Status.RUNNING]
        return chunks + self._admit(budget)

    def commit(self, chunks: list[Chunk], sampled: Mapping[SequenceId, int]) -> None:
        """Record what a step computed and append the tokens it sampled, by sequence id."""
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.num_tokens
        for chunk in chunks:
            if (token_id := sampled.get(chunk.sequence.id)) is not None:
                chunk.sequence.token_ids.append(token_id)

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
            sequence.status = Status.RUNNING
            self.running.append(sequence)
            num_tokens = min(budget, sequence.num_pending)
            self._blocks.allocate(sequence, len(sequence.token_ids))
            chunks.append(Chunk(sequence, num_tokens))
            budget -= num_tokens
        return chunks

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give the sequence room for its next tokens, preempting newer ones; False if it had to give way itself."""
        wanted = sequence.num_computed + num_tokens
        while not self._blocks.can_allocate(sequence, wanted):
            newest = self.running[-1]
            self._preempt(newest)
            if newest is sequence:
                return False
        self._blocks.allocate(sequence, wanted)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._blocks.free(sequence)
        sequence.status = Status.WAITING
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1
