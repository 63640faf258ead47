"""Decides in which steps of a decoder pairs are computed and what they share; knows no texts and no scores."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from modelkit.paged import Segment, Step
from modelkit.precision import ServedWeights
from services.rerank_worker.request import Pair

BLOCK_LEN: Final = 32
Prefix = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Outputs of one pair that lie one after the other: count of them, the first-th of the pair to begin with."""

    pair: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one step: tokens and outputs at most, which bounds its memory. max_tokens: of one pair."""

    step_tokens: int
    step_outputs: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A sequence to compute from start on; the last num_outputs tokens are read. pair: whose they are."""

    token_ids: Sequence[int]
    start: int
    block_ids: list[int]
    num_outputs: int = 0
    pair: int = 0

    @property
    def first_output(self) -> int:
        return len(self.token_ids) - self.num_outputs


@dataclass(frozen=True, slots=True)
class _Part:
    """What one step computes of a row."""

    row: _Row
    begin: int
    end: int

    @property
    def num_outputs(self) -> int:
        return max(0, self.end - max(self.begin, self.row.first_output))

    def to_segment(self) -> Segment:
        row = self.row
        return Segment(row.token_ids[self.begin : self.end], self.begin, row.block_ids, self.num_outputs)

    def to_span(self) -> Span:
        first = self.row.first_output
        return Span(self.row.pair, max(self.begin, first) - first, self.num_outputs)


class PairSteps:
    """Computes pairs in packed steps. What several begin with is computed once, and its blocks are read by all.

    Prefixes are kept for the next call, a few of them: a fixed prompt is computed once, and so is a query whose
    documents come in several calls, and each of two that take turns.
    """

    def __init__(self, weights: ServedWeights, limits: Limits) -> None:
        self._limits = limits
        self.description = f"{weights.precision} by {weights.computed_by}"
        # Twice: a pair of full length needs room beside a prefix that is nearly as long.
        self._num_blocks = 2 * _blocks(max(limits.step_tokens, limits.max_tokens)) + 1
        self._model = weights.with_cache(
            num_blocks=self._num_blocks, block_len=BLOCK_LEN, max_batch=1, max_context=limits.max_tokens
        )
        self._prefixes: dict[Prefix, list[int]] = {}  # those computed, with their blocks

    def run(self, pairs: Sequence[Pair], num_outputs: Sequence[int]) -> Iterator[tuple[list[Span], Tensor]]:
        """Compute the pairs and yield, step by step, outputs of their last tokens and whose they are.

        num_outputs: how many are wanted of each pair. Outputs are (n, width) fp32, in the order of the spans; those of
        a pair come in order, perhaps in several steps.
        """
        order = list(self._in_order(pairs))
        waiting = deque(order)
        while waiting:
            self._prefixes = self._worth_keeping([waiting[0][1], *(prefix for _, prefix in order)])
            wave = _Wave(self._prefixes, self._num_blocks)
            while waiting and wave.fits(len(pairs[waiting[0][0]].token_ids), waiting[0][1]):
                index, prefix = waiting.popleft()
                wave.place(index, pairs[index].token_ids, prefix, num_outputs[index])
            yield from self._compute([_Row(p, 0, b) for p, b in wave.prefixes.items() if p not in self._prefixes])
            self._prefixes = wave.prefixes
            for source, target in wave.copies:
                self._model.copy_block(source, target)
            yield from self._compute(wave.rows)

    def _in_order(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Prefix]]:
        """Indices with the prefix to share; pairs that share one follow each other, those of a known one first."""
        groups: dict[Prefix, list[int]] = {}
        for index, pair in enumerate(pairs):
            groups.setdefault(pair.token_ids[: pair.num_shared], []).append(index)
        for prefix, members in sorted(groups.items(), key=lambda group: group[0] not in self._prefixes):
            is_worth = len(members) > 1 or prefix in self._prefixes
            yield from ((index, prefix if is_worth else ()) for index in members)

    def _worth_keeping(self, prefixes: Sequence[Prefix]) -> dict[Prefix, list[int]]:
        """What was computed before is overwritten, but for the first of these and few others."""
        kept: dict[Prefix, list[int]] = {}
        num_taken = 0
        for prefix in dict.fromkeys(prefixes):
            blocks = self._prefixes.get(prefix)
            if blocks is not None and (prefix == prefixes[0] or num_taken + len(blocks) <= self._num_blocks // 4):
                kept[prefix] = blocks
                num_taken += len(blocks)
        return kept

    def _compute(self, rows: Sequence[_Row]) -> Iterator[tuple[list[Span], Tensor]]:
        for parts in _split(rows, self._limits):
            outputs = self._model.forward(Step.build([part.to_segment() for part in parts]))
            if len(outputs):
                yield [part.to_span() for part in parts if part.num_outputs], outputs


class _Wave:
    """Places in the pool for pairs that are computed at the same time. copies: of blocks that end within a prefix."""

    def __init__(self, known: Mapping[Prefix, list[int]], num_blocks: int) -> None:
        taken = {block for blocks in known.values() for block in blocks}
        self._free = [block for block in range(num_blocks) if block not in taken]
        self.prefixes: dict[Prefix, list[int]] = {(): [], **known}
        self.rows: list[_Row] = []
        self.copies: list[tuple[int, int]] = []

    def fits(self, num_tokens: int, prefix: Prefix) -> bool:
        """Whether there is room for a pair, and for its prefix if it is new."""
        new = 0 if prefix in self.prefixes else _blocks(len(prefix))
        return new + _blocks(num_tokens) - len(prefix) // BLOCK_LEN <= len(self._free)

    def place(self, index: int, token_ids: Sequence[int], prefix: Prefix, num_outputs: int) -> None:
        """Take the blocks."""
        if prefix not in self.prefixes:
            self.prefixes[prefix] = self._take(_blocks(len(prefix)))
        shared, num_whole = self.prefixes[prefix], len(prefix) // BLOCK_LEN
        own = self._take(_blocks(len(token_ids)) - num_whole)
        if len(shared) > num_whole:
            self.copies.append((shared[-1], own[0]))
        self.rows.append(_Row(token_ids, len(prefix), shared[:num_whole] + own, num_outputs, index))

    def _take(self, count: int) -> list[int]:
        taken, self._free = self._free[:count], self._free[count:]
        return taken


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_LEN)


def _split(rows: Sequence[_Row], limits: Limits) -> Iterator[list[_Part]]:
    """Fill steps with rows in order; a row is cut where a step is full."""
    parts: list[_Part] = []
    tokens, outputs = limits.step_tokens, limits.step_outputs
    for row in rows:
        at = row.start
        while at < len(row.token_ids):
            end = min(len(row.token_ids), at + tokens, max(at, row.first_output) + outputs)
            if end == at:
                yield parts
                parts, tokens, outputs = [], limits.step_tokens, limits.step_outputs
                continue
            parts.append(_Part(row, at, end))
            tokens, outputs, at = tokens - (end - at), outputs - parts[-1].num_outputs, end
    if parts:
        yield parts
