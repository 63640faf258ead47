"""Hands out fixed-size blocks of the KV cache; knows which are free, not what is in them."""

from collections.abc import Iterable

from services.chat_worker.engine.sequence import Sequence


class BlockPool:
    """Free blocks of block_len tokens each. Check with can_allocate, then allocate."""

    def __init__(self, num_blocks: int, block_len: int) -> None:
        self.num_blocks = num_blocks
        self.block_len = block_len
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: the block freed last is warm in cache

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    @property
    def usage_ratio(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the sequence can be given room for num_tokens tokens in all."""
        return self._num_missing(sequence, num_tokens) <= self.num_free

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Give the sequence blocks until num_tokens tokens fit."""
        for _ in range(self._num_missing(sequence, num_tokens)):
            sequence.block_ids.append(self._free.pop())

    def free(self, sequence: Sequence) -> None:
        """Take back every block of the sequence; what it had computed is lost."""
        self._free.extend(reversed(sequence.block_ids))
        sequence.block_ids.clear()
        sequence.num_computed = 0

    def check_integrity(self, holders: Iterable[Sequence]) -> None:
        """Assert that every block is free or held once, and that no holder computed more than it has room for."""
        holders = list(holders)
        held = [block for sequence in holders for block in sequence.block_ids]
        assert sorted(held + self._free) == list(range(self.num_blocks)), "a block is lost or held twice"
        for sequence in holders:
            assert sequence.num_computed <= len(sequence.block_ids) * self.block_len, f"{sequence.id} overflows"

    def _num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        return max(0, -(-num_tokens // self.block_len) - len(sequence.block_ids))
