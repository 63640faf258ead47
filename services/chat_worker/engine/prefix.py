"""Remembers which blocks hold which text, so that a prompt that begins like an earlier one need not be computed."""

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

    The dictionary hashes a key and then compares the token ids themselves, and the chain begins with the tenant: no
    collision can hand one text's keys and values to another text, nor one tenant's to another. O(1) a block, times
    block_len tokens to hash.
    """

    def __init__(self, block_len: int) -> None:
        self._block_len = block_len
        self._links: dict[tuple[Parent, tuple[int, ...]], _Link] = {}
        self._of_block: dict[int, _Link] = {}
        self._next_number = 0

    def __contains__(self, block: int) -> bool:
        return block in self._of_block

    def find(self, sequence: Sequence) -> tuple[list[int], list[int]]:
        """The blocks that hold the beginning of the sequence, and their links' numbers.

        Its last token is always left out: its logits must be computed.
        """
        blocks: list[int] = []
        chain: list[int] = []
        for index in range((len(sequence.token_ids) - 1) // self._block_len):
            link = self._links.get(self._key(sequence, index, chain))
            if link is None:
                break
            blocks.append(link.block)
            chain.append(link.number)
        return blocks, chain

    def extend(self, sequence: Sequence) -> None:
        """Remember the blocks that the sequence has filled since it was last here."""
        chain = sequence.chain
        for index in range(len(chain), sequence.num_computed // self._block_len):
            key = self._key(sequence, index, chain)
            link = self._links.get(key)
            if link is None:
                link = _Link(self._next_number, *key, sequence.block_ids[index])
                self._next_number += 1
                self._links[key] = self._of_block[link.block] = link
            chain.append(link.number)  # of an equal block, if there is one: this one is then not remembered itself

    def forget(self, block: int) -> None:
        """Forget what a block holds; links after it stay until they are forgotten, but are not found any more."""
        link = self._of_block.pop(block)
        del self._links[link.parent, link.token_ids]

    def _key(self, sequence: Sequence, index: int, chain: list[int]) -> tuple[Parent, tuple[int, ...]]:
        start = index * self._block_len
        token_ids = tuple(sequence.token_ids[start : start + self._block_len])
        return chain[index - 1] if index else sequence.tenant, token_ids
