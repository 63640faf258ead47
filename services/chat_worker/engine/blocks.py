"""Hands out fixed-size blocks of the KV cache; knows who holds which, not what is computed when."""

from collections import Counter, OrderedDict
from collections.abc import Collection
from itertools import chain
from typing import Final

from services.chat_worker.engine.prefix import PrefixIndex
from services.chat_worker.engine.sequence import Sequence

_NOTHING: Final = Counter[int]()  # a new one for each sequence and step would cost a tenth of planning


class BlockPool:
    """Blocks of block_len tokens each, counted by holder. Check with can_allocate, then allocate.

    With a prefix index, a block that nobody holds keeps its content until the room is needed; the one unused for the
    longest time goes first. Everything is O(1) a block.
    """

    def __init__(self, num_blocks: int, block_len: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_len = block_len
        self.num_queried = 0  # tokens looked up in the prefix index, since the start
        self.num_hit = 0  # of those, tokens found
        self._prefixes = PrefixIndex(block_len) if prefix_cache else None
        self._empty = list(range(num_blocks - 1, -1, -1))  # a stack: the block freed last is warm in cache
        self._kept: OrderedDict[int, None] = OrderedDict()  # held by nobody, but remembered; oldest first
        self._num_holders = [0] * num_blocks
        self._copies: list[tuple[int, int]] = []

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._empty) + len(self._kept)

    @property
    def usage_ratio(self) -> float:
        """Share of the blocks that somebody holds, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    def num_blocks_of(self, num_tokens: int) -> int:
        """Blocks that num_tokens tokens take."""
        return -(-num_tokens // self.block_len)

    def attach(self, sequence: Sequence) -> None:
        """Give a sequence that holds nothing the blocks that already hold its beginning."""
        assert not sequence.block_ids, "a sequence is attached before it computes"
        if self._prefixes is None or sequence.is_scoring:  # what is not computed has no logits to score
            return
        sequence.block_ids, sequence.chain, sequence.num_computed = self._prefixes.find(sequence)
        for block in sequence.block_ids:
            self._hold(block)

    def num_found(self, sequence: Sequence) -> int:
        """Tokens of the sequence's beginning that attach would find now."""
        return self._prefixes.find(sequence)[2] if self._prefixes is not None else 0

    def count_attached(self, sequence: Sequence) -> None:
        """Note how much of a new sequence attach has found, once it is sure to run."""
        sequence.num_cached = sequence.num_computed
        self.num_queried += len(sequence.token_ids) if self._prefixes is not None else 0
        self.num_hit += sequence.num_computed

    def can_allocate(self, sequence: Sequence, num_tokens: int, without: Collection[Sequence] = ()) -> bool:
        """Whether a sequence can get room of its own for num_tokens tokens in all, once others have given up theirs."""
        given_up = Counter(chain.from_iterable(other.block_ids for other in without)) if without else _NOTHING
        num_freed = sum(self._num_holders[block] == count for block, count in given_up.items())
        tail = self._tail(sequence)  # a copy takes a block; what nobody else holds gives its own for it
        is_tail_shared = tail is not None and self._num_holders[tail] - given_up[tail] > 1
        return self._num_missing(sequence, num_tokens) + is_tail_shared <= self.num_free + num_freed

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Give the sequence blocks until num_tokens tokens fit, and a block of its own for the next one to be written.

        What that block holds already must be copied before the step; see take_copies.
        """
        source = self._tail(sequence)
        if source is not None and (self._num_holders[source] > 1 or self._is_remembered(source)):
            self._release([source])
            target = sequence.block_ids[sequence.num_computed // self.block_len] = self._take()
            if target != source:
                self._copies.append((source, target))
        for _ in range(self._num_missing(sequence, num_tokens)):
            sequence.block_ids.append(self._take())

    def take_copies(self) -> list[tuple[int, int]]:
        """The (source, target) blocks to be copied before the next step, in this order (copy on write)."""
        copies, self._copies = self._copies, []
        return copies

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let child share what parent has computed; whoever writes first into the last block gets a copy of it."""
        child.block_ids = parent.block_ids[: self.num_blocks_of(parent.num_computed)]
        child.chain = parent.chain.copy()
        child.num_computed = parent.num_computed
        for block in child.block_ids:
            self._hold(block)

    def remember(self, sequence: Sequence) -> None:
        """Let later sequences find the blocks that this one has filled."""
        if self._prefixes is not None:
            self._prefixes.extend(sequence)

    def trim(self, sequence: Sequence) -> None:
        """Take back blocks beyond the sequence's tokens: those of guessed tokens that did not hold."""
        kept = self.num_blocks_of(len(sequence.token_ids))
        self._release(sequence.block_ids[kept:])
        del sequence.block_ids[kept:]

    def free(self, sequence: Sequence) -> None:
        """Take back every block of the sequence."""
        self._release(sequence.block_ids)
        sequence.block_ids.clear()
        sequence.chain.clear()
        sequence.num_computed = 0

    def check_integrity(self, holders: Collection[Sequence]) -> None:
        """Assert that every block is free or counted once per holder, and that nobody computed more than fits."""
        held = Counter(block for sequence in holders for block in sequence.block_ids)
        assert all(self._num_holders[block] == held[block] for block in range(self.num_blocks)), "a block is miscounted"
        assert sorted([*held, *self._empty, *self._kept]) == list(range(self.num_blocks)), "a block is lost or doubled"
        assert self._prefixes is None or all(block in self._prefixes for block in self._kept), "a block is kept in vain"
        assert self._prefixes is None or not any(block in self._prefixes for block in self._empty), "a block is empty"
        for sequence in holders:
            assert sequence.num_computed <= len(sequence.block_ids) * self.block_len, f"{sequence} overflows"

    def _num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        return max(0, self.num_blocks_of(num_tokens) - len(sequence.block_ids))

    def _tail(self, sequence: Sequence) -> int | None:
        """The block that the next token would be written into, if the sequence has it already."""
        tail = sequence.num_computed // self.block_len
        return sequence.block_ids[tail] if tail < len(sequence.block_ids) else None

    def _is_remembered(self, block: int) -> bool:
        return self._prefixes is not None and block in self._prefixes

    def _hold(self, block: int) -> None:
        if self._num_holders[block] == 0:
            del self._kept[block]
        self._num_holders[block] += 1

    def _take(self) -> int:
        """A block that holds nothing, or nothing that was used lately."""
        if self._empty:
            block = self._empty.pop()
        else:
            assert self._prefixes is not None, "can_allocate said there is room"
            block, _ = self._kept.popitem(last=False)
            self._prefixes.forget(block)
        self._num_holders[block] = 1
        return block

    def _release(self, block_ids: list[int]) -> None:
        for block in reversed(block_ids):  # of one text, the end is forgotten first
            self._num_holders[block] -= 1
            if self._num_holders[block] == 0:
                if self._is_remembered(block):
                    self._kept[block] = None
                else:
                    self._empty.append(block)
