"""Chooses tokens from logits: the best, or some drawn after temperature, min-p, top-k and top-p; knows no requests."""

import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modelkit.native.library import Library, Ways, best_library
from services.chat_worker.engine.sequence import Sampling

_COLDEST = float(torch.finfo(torch.float32).tiny)  # anything colder may become 0, and 0 / 0 is no logit
_BLOCK = 256  # tokens whose weights are added up together
_NUM_HEAVIEST = 128  # tokens that are sorted, where they suffice
_BUCKET_SHIFT = 16  # leaves sign, exponent and 7 bits of a weight's fraction
_NUM_BUCKETS = (0x3F800000 >> _BUCKET_SHIFT) + 1  # those bits of 1.0, the heaviest weight


@cache
def cpu_library() -> Library | None:
    """The C++ library, where there is one."""
    found = best_library()
    return None if found is None else found[1]


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of one position of one seed, the same on every machine.

    Philox is counter-based: no state is carried from token to token (Salmon et al., 2011).
    """
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def pick(logits: Tensor, rows: Rows[int]) -> Tensor:
    """Some of the rows, in ascending order; no copy if it is all of them."""
    return logits if len(rows) == len(logits) else logits[list(rows)]


def choose(logits: Tensor, samplings: Rows[Sampling], positions: Rows[int]) -> tuple[list[int], list[float]]:
    """Choose one token per row; returns also each row's highest logit. Where that is not finite, the token is none.

    logits: (rows, vocab) fp32. positions: where the new tokens will stand. At temperature 0 it is the first of the
    highest tokens. Else filters come in vLLM's order: min-p, then top-k, then top-p over what these left, in which the
    token that crosses top_p is still in. Tokens exactly as probable as the last one kept are kept too, as transformers'
    top-k does. The row's random number inverts the distribution function in the order of token ids: near ties, which
    another batch may swap, hardly move the result, whereas in the order of probability they would.
    Costs O(vocab) per row, on a CPU in the C++ library where there is one.
    """
    library = cpu_library() if logits.device.type == "cpu" else None
    if library is None:
        return _choose_with_torch(logits, samplings, positions)
    vocab = logits.shape[-1]
    ways = Ways(
        temperatures=np.array([_temperature(sampling) for sampling in samplings], np.float32),
        min_p=np.array([sampling.min_p for sampling in samplings], np.float32),
        top_k=np.array([sampling.top_k if sampling.top_k < vocab else 0 for sampling in samplings], np.int64),
        top_p=np.array([sampling.top_p for sampling in samplings], np.float64),
        seeds=np.array([sampling.seed for sampling in samplings], np.uint64),
        positions=np.array(positions, np.int64),
    )
    token_ids, highest = library.choose(logits, ways)
    return token_ids.tolist(), highest.tolist()


def _temperature(sampling: Sampling) -> float:
    return max(sampling.temperature, _COLDEST) if sampling.temperature > 0 else 0.0


def _choose_with_torch(
    logits: Tensor, samplings: Rows[Sampling], positions: Rows[int]
) -> tuple[list[int], list[float]]:
    values, ids = logits.max(dim=-1)
    highest, token_ids = [float(value) for value in values], [int(token) for token in ids]
    random = [row for row, best in enumerate(highest) if samplings[row].temperature > 0 and math.isfinite(best)]
    if random:
        chosen = [samplings[row] for row in random], [positions[row] for row in random]
        for row, token_id in zip(random, _draw_with_torch(pick(logits, random), *chosen), strict=True):
            token_ids[row] = token_id
    return token_ids, highest


def _draw_with_torch(logits: Tensor, samplings: Rows[Sampling], positions: Rows[int]) -> list[int]:
    """Draw one token per row, all temperatures above 0 and all bests finite, by tensor operations on any device."""
    warmth = logits.new_tensor([max(sampling.temperature, _COLDEST) for sampling in samplings])[:, None]
    best = logits.amax(dim=-1, keepdim=True)
    weights = (logits - best).div_(warmth).exp_()  # the best is 1: no temperature overflows
    filtered = [row for row, sampling in enumerate(samplings) if sampling.filters(logits.shape[-1])]
    if filtered:
        floors = weights.new_zeros(len(weights), 1)
        floors[filtered] = _floors(pick(weights, filtered), [samplings[row] for row in filtered])
        weights.masked_fill_(weights < floors, 0)
    numbers = [uniform(sampling.seed, position) for sampling, position in zip(samplings, positions, strict=True)]
    return [int(token) for token in _invert_blocks(weights, logits.new_tensor(numbers, dtype=torch.float64)[:, None])]


def _floors(weights: Tensor, samplings: Rows[Sampling]) -> Tensor:
    """The weight of the lightest token that each row keeps, (rows, 1)."""
    filters = _Filters.build(weights, samplings)
    floors, settled = _floors_among_heaviest(weights, filters)
    rest = [row for row, is_settled in enumerate(settled) if not is_settled]
    if rest:
        floors[rest] = _floors_by_buckets(pick(weights, rest), filters.pick(rest))
    return floors


@dataclass(frozen=True, slots=True)
class _Filters:
    """What the rows keep: each (rows, 1) fp64, where top_k and top_p are infinite if they keep all."""

    min_p: Tensor
    top_k: Tensor
    top_p: Tensor

    @classmethod
    def build(cls, weights: Tensor, samplings: Rows[Sampling]) -> Self:
        def column(values: list[float]) -> Tensor:
            return weights.new_tensor(values, dtype=torch.float64)[:, None]

        vocab = weights.shape[-1]
        return cls(
            min_p=column([sampling.min_p for sampling in samplings]),
            top_k=column([sampling.top_k if 0 < sampling.top_k < vocab else math.inf for sampling in samplings]),
            top_p=column([sampling.top_p if sampling.top_p < 1 else math.inf for sampling in samplings]),
        )

    def pick(self, rows: list[int]) -> Self:
        """Those of some rows."""
        return type(self)(self.min_p[rows], self.top_k[rows], self.top_p[rows])


def _floors_among_heaviest(weights: Tensor, filters: _Filters) -> tuple[Tensor, Tensor]:
    """The floors as far as the heaviest tokens tell: (rows, 1), and (rows,) bool, whether they do."""
    heaviest = weights.topk(min(_NUM_HEAVIEST, weights.shape[-1])).values.double()  # heaviest first
    width = heaviest.shape[-1]
    last_rank = filters.top_k.clamp(max=width).long() - 1
    lightest = heaviest.gather(-1, last_rank).where(filters.top_k <= width, 0.0).maximum(filters.min_p)
    kept = heaviest >= lightest
    is_limited = (filters.top_k < math.inf) | (filters.min_p > 0)
    is_limit_known = (heaviest[:, -1:] < lightest) | (width == weights.shape[-1])
    cumulative = (heaviest * kept).cumsum(dim=-1)
    mass = torch.where(is_limited, cumulative[:, -1:], _totals(weights))
    kept &= cumulative - heaviest < filters.top_p * mass
    num_kept = kept.sum(dim=-1, keepdim=True)
    settled = (is_limit_known | ~is_limited) & ((num_kept < width) | (width == weights.shape[-1]))
    return heaviest.gather(-1, num_kept - 1).to(weights.dtype), settled.squeeze(-1)


def _floors_by_buckets(weights: Tensor, filters: _Filters) -> Tensor:
    """The floors in O(vocab), however much is kept, (rows, 1)."""
    weights = weights.where(weights >= filters.min_p.to(weights.dtype), 0.0)
    if (filters.top_k < math.inf).any():
        weights = weights.where(weights >= _lightest_before(weights, (weights > 0).double(), filters.top_k), 0.0)
    return _lightest_before(weights, weights.double(), filters.top_p * _totals(weights))


def _lightest_before(weights: Tensor, measure: Tensor, limits: Tensor) -> Tensor:
    """The lightest token, in each row, for which what the heavier ones measure together is below the limit, (rows, 1).

    Tokens are put in buckets by the upper bits of their weights, which order as the weights do; only the bucket where
    the limit is reached is sorted.
    """
    buckets = weights.view(torch.int32) >> _BUCKET_SHIFT
    sums = measure.new_zeros(len(weights), _NUM_BUCKETS).scatter_add_(1, buckets.long(), measure)
    heavier = sums.flip(-1).cumsum(dim=-1).flip(-1) - sums
    reached = ((heavier < limits) & (sums > 0)).to(torch.uint8).argmax(dim=-1, keepdim=True)  # the lightest of them
    inside = (buckets == reached.int()) & (weights > 0)
    ordered, ids = weights.where(inside, 0.0).topk(int(inside.sum(dim=-1).amax()))  # heaviest first
    measures = measure.gather(-1, ids)
    before = heavier.gather(-1, reached) + measures.cumsum(dim=-1) - measures
    num_kept = ((before < limits) & (ordered > 0)).sum(dim=-1, keepdim=True)
    return ordered.gather(-1, num_kept - 1)


def _invert_blocks(weights: Tensor, numbers: Tensor) -> Tensor:
    """The (rows,) tokens at which the distribution functions of the rows reach numbers, (rows, 1) in [0, 1).

    A block is found by the sums of the blocks, then a token inside it.
    """
    sums = _block_sums(weights)
    ends = sums.cumsum(dim=-1)
    targets = numbers * ends[:, -1:]
    block = _first_above(ends, targets)
    before = (ends - sums).gather(-1, block)
    token_ids = (block * _BLOCK + torch.arange(_BLOCK, device=weights.device)).clamp(max=weights.shape[-1] - 1)
    inside = weights.gather(-1, token_ids).double().cumsum(dim=-1)
    return token_ids.gather(-1, _first_above(inside, targets - before)).squeeze(-1)


def _totals(weights: Tensor) -> Tensor:
    """The weight of the whole vocabulary of each row, (rows, 1) fp64."""
    return _block_sums(weights).cumsum(dim=-1)[:, -1:]


def _block_sums(weights: Tensor) -> Tensor:
    """Weights of blocks of tokens, (rows, blocks) fp64.

    They come out the same for a row alone and in a batch; one sum over a whole row would be shared out among threads.
    """
    return F.pad(weights, (0, -weights.shape[-1] % _BLOCK)).reshape(len(weights), -1, _BLOCK).sum(dim=-1).double()


def _first_above(cumulative: Tensor, targets: Tensor) -> Tensor:
    """The first entry of each row above its target, (rows, 1); never one of no weight, however sums were rounded."""
    last = cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets.minimum(last.nextafter(torch.zeros_like(last))), right=True)
