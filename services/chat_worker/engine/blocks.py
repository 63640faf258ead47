"""Hands out fixed-size blocks of the KV cache; knows which are free or shared, not what is in them."""

from collections import Counter
from collections.abc import Iterable

from services.chat_worker.engine.sequence import Sequence


class BlockPool:
    """Blocks of block_len tokens each, counted by holder. Check with can_allocate, then allocate."""

    def __init__(self, num_blocks: int, block_len: int) -> None:
        self.num_blocks = num_blocks
        self.block_len = block_len
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: the block freed last is warm in cache
        self._num_holders = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    @property
    def usage_ratio(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the sequence can be given room of its own for its tokens up to num_tokens in all."""
        return self._num_missing(sequence, num_tokens) + self._is_tail_shared(sequence) <= self.num_free

    def allocate(self, sequence: Sequence, num_tokens: int) -> tuple[int, int] | None:
        """Give the sequence blocks until num_tokens tokens fit, and a block of its own for the next one to be written.

        Returns (source, target) if the content of one block must be copied before the step (copy on write).
        """
        copy: tuple[int, int] | None = None
        if self._is_tail_shared(sequence):
            tail = sequence.num_computed // self.block_len
            source = sequence.block_ids[tail]
            self._num_holders[source] -= 1
            sequence.block_ids[tail] = self._take()
            copy = source, sequence.block_ids[tail]
        for _ in range(self._num_missing(sequence, num_tokens)):
            sequence.block_ids.append(self._take())
        return copy

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let child share what parent has computed; whoever writes first into the last block gets a copy of it."""
        child.block_ids = parent.block_ids[: self._num_blocks_of(parent.num_computed)]
        child.num_computed = parent.num_computed
        for block in child.block_ids:
            self._num_holders[block] += 1

    def trim(self, sequence: Sequence) -> None:
        """Take back blocks beyond the sequence's tokens: those of guessed tokens that did not hold."""
        kept = self._num_blocks_of(len(sequence.token_ids))
        self._release(sequence.block_ids[kept:])
        del sequence.block_ids[kept:]

    def free(self, sequence: Sequence) -> None:
        """Take back every block of the sequence; what it had computed is lost to it."""
        self._release(sequence.block_ids)
        sequence.block_ids.clear()
        sequence.num_computed = 0

    def check_integrity(self, holders: Iterable[Sequence]) -> None:
        """Assert that every block is free or counted once per holder, and that nobody computed more than fits."""
        holders = list(holders)
        held = Counter(block for sequence in holders for block in sequence.block_ids)
        assert all(self._num_holders[block] == held[block] for block in range(self.num_blocks)), "a block is miscounted"
        assert sorted([*held, *self._free]) == list(range(self.num_blocks)), "a block is lost or both held and free"
        for sequence in holders:
            assert sequence.num_computed <= len(sequence.block_ids) * self.block_len, f"{sequence} overflows"

    def _num_blocks_of(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_len)

    def _num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        return max(0, self._num_blocks_of(num_tokens) - len(sequence.block_ids))

    def _is_tail_shared(self, sequence: Sequence) -> bool:
        """Whether the next token would be written into a block that others read."""
        tail = sequence.num_computed // self.block_len
        return tail < len(sequence.block_ids) and self._num_holders[sequence.block_ids[tail]] > 1

    def _take(self) -> int:
        block = self._free.pop()
        self._num_holders[block] = 1
        return block

    def _release(self, block_ids: list[int]) -> None:
        for block in reversed(block_ids):
            self._num_holders[block] -= 1
            if self._num_holders[block] == 0:
                self._free.append(block)
