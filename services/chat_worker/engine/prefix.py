"""Remembers which blocks hold which text, so that a prompt that begins like an earlier one need not be computed."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from services.chat_worker.engine.sequence import Sequence

Parent = int | str  # the link before, by its number; before the first one stands the tenant


@dataclass(frozen=True, slots=True)
class _Link:
    """A full block of tokens and everything before it. number: its name, never used again."""

    number: int
    parent: Parent
    token_ids: tuple[int, ...]
    block: int


class PrefixIndex:
    """Full blocks by what they hold: a chain of links, each found by its parent and its own tokens.

    Where a text leaves a chain, it is compared with the newest block that went on there: they may begin alike.

    The dictionary hashes a key and then compares the token ids themselves, and the chain begins with the tenant: no
    collision can hand one text's keys and values to another text, nor one tenant's to another. O(1) a block, times
    block_len tokens to hash.
    """

    def __init__(self, block_len: int) -> None:
        self._block_len = block_len
        self._links: dict[tuple[Parent, tuple[int, ...]], _Link] = {}
        self._of_block: dict[int, _Link] = {}
        self._newest: dict[Parent, _Link] = {}  # of the links after each parent
        self._next_number = 0

    def __contains__(self, block: int) -> bool:
        return block in self._of_block

    def find(self, sequence: Sequence) -> tuple[list[int], list[int], int]:
        """The blocks that hold the beginning of the sequence, the links of those it fills, and the tokens found.

        Of the last block perhaps only the beginning is the sequence's. Its last token is always left out: its logits
        must be computed.
        """
        blocks: list[int] = []
        chain: list[int] = []
        for index in range((len(sequence.token_ids) - 1) // self._block_len):
            link = self._links.get(self._key(sequence, index, chain))
            if link is None:
                break
            blocks.append(link.block)
            chain.append(link.number)
        num_found = len(blocks) * self._block_len
        near = self._newest.get(chain[-1] if chain else sequence.tenant)
        if near and (num_alike := _num_alike(near.token_ids, sequence.token_ids[num_found:-1])):
            return [*blocks, near.block], chain, num_found + num_alike
        return blocks, chain, num_found

    def extend(self, sequence: Sequence) -> None:
        """Remember the blocks that the sequence has filled since it was last here."""
        chain = sequence.chain
        for index in range(len(chain), sequence.num_computed // self._block_len):
            key = self._key(sequence, index, chain)
            link = self._links.get(key)
            if link is None:
                link = _Link(self._next_number, *key, sequence.block_ids[index])
                self._next_number += 1
                self._links[key] = self._of_block[link.block] = self._newest[link.parent] = link
            chain.append(link.number)  # of an equal block, if there is one: this one is then not remembered itself

    def forget(self, block: int) -> None:
        """Forget what a block holds; links after it stay until they are forgotten, but are not found any more."""
        link = self._of_block.pop(block)
        del self._links[link.parent, link.token_ids]
        if self._newest.get(link.parent) is link:
            del self._newest[link.parent]

    def _key(self, sequence: Sequence, index: int, chain: list[int]) -> tuple[Parent, tuple[int, ...]]:
        start = index * self._block_len
        token_ids = tuple(sequence.token_ids[start : start + self._block_len])
        return chain[index - 1] if index else sequence.tenant, token_ids


def _num_alike(first: Rows[int], second: Rows[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
