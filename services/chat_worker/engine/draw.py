"""Draws tokens at random from logits after temperature, min-p, top-k and top-p; knows no requests."""

from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from services.chat_worker.engine.sequence import Sampling

_COLDEST = float(torch.finfo(torch.float32).tiny)  # anything colder may become 0, and 0 / 0 is no logit
_BLOCK = 256  # tokens whose weights are added up together
_WIDTHS = (128, 2048)  # how many of the heaviest tokens are sorted, before all are


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of one position of one seed, the same on every machine.

    Philox is counter-based: no state is carried from token to token (Salmon et al., 2011).
    """
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def pick(logits: Tensor, rows: Rows[int]) -> Tensor:
    """Some of the rows, in ascending order; no copy if it is all of them."""
    return logits if len(rows) == len(logits) else logits[list(rows)]


def draw(logits: Tensor, samplings: Rows[Sampling], positions: Rows[int]) -> list[int]:
    """Draw one token per row, all temperatures above 0.

    logits: (rows, vocab) fp32 with a finite best. positions: where the new tokens will stand.
    Filters come in vLLM's order: min-p, then top-k, then top-p over what these left, in which the token that crosses
    top_p is still in. Tokens exactly as probable as the last one kept are kept too, as transformers' top-k does. The
    row's random number inverts the distribution function in the order of token ids: near ties, which another batch
    may swap, hardly move the result, whereas in the order of probability they would.
    Costs O(vocab) per row while the filters keep less than some thousand tokens, a sort of the vocabulary beyond.
    """
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
    vocab = weights.shape[-1]
    floors = weights.new_zeros(len(weights), 1)
    unsettled = list(range(len(weights)))
    for width in (*(width for width in _WIDTHS if width < vocab), vocab):
        found, settled = _floors_among_heaviest(pick(weights, unsettled), [samplings[row] for row in unsettled], width)
        floors[unsettled] = found
        unsettled = [row for row, is_settled in zip(unsettled, settled, strict=True) if not is_settled]
        if not unsettled:
            break
    return floors


def _floors_among_heaviest(weights: Tensor, samplings: Rows[Sampling], width: int) -> tuple[Tensor, Tensor]:
    """The floors as far as the width heaviest tokens tell: (rows, 1), and (rows,) bool, whether they do."""

    def column(values: list[float]) -> Tensor:
        return weights.new_tensor(values, dtype=torch.float64)[:, None]

    vocab = weights.shape[-1]
    heaviest = weights.topk(width).values.double()  # (rows, width), heaviest first
    top_k = [min(sampling.top_k or vocab, vocab) for sampling in samplings]
    last_rank = weights.new_tensor([min(count, width) - 1 for count in top_k], dtype=torch.int64)[:, None]
    lightest = heaviest.gather(-1, last_rank).maximum(column([sampling.min_p for sampling in samplings]))
    kept = heaviest >= lightest
    is_last_seen = (heaviest[:, -1:] < lightest) | (width == vocab)
    cumulative = (heaviest * kept).cumsum(dim=-1)
    is_whole = column([count == vocab and not sampling.min_p for count, sampling in zip(top_k, samplings, strict=True)])
    mass = torch.where(is_whole > 0, _block_sums(weights).cumsum(dim=-1)[:, -1:], cumulative[:, -1:])
    kept &= cumulative - heaviest < column([sampling.top_p for sampling in samplings]) * mass
    num_kept = kept.sum(dim=-1, keepdim=True)
    settled = ((is_whole > 0) | is_last_seen) & ((num_kept < width) | (width == vocab))
    return heaviest.gather(-1, num_kept - 1).to(weights.dtype), settled.squeeze(-1)


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


def _block_sums(weights: Tensor) -> Tensor:
    """Weights of blocks of tokens, (rows, blocks) fp64.

    They come out the same for a row alone and in a batch; one sum over a whole row would be shared out among threads.
    """
    return F.pad(weights, (0, -weights.shape[-1] % _BLOCK)).reshape(len(weights), -1, _BLOCK).sum(dim=-1).double()


def _first_above(cumulative: Tensor, targets: Tensor) -> Tensor:
    """The first entry of each row above its target, (rows, 1); never one of no weight, however sums were rounded."""
    last = cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets.minimum(last.nextafter(torch.zeros_like(last))), right=True)
