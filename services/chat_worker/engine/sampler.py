"""Chooses the next token from logits; each row depends on its own logits, parameters, seed and position only."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.chat_worker.engine.sequence import Sampling

_COLDEST = float(torch.finfo(torch.float32).tiny)  # anything colder may become 0, and 0 / 0 is no logit


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token and its natural log-probability before temperature and filters."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """The chosen token; score and top (best first) only where they were asked for."""

    token_id: int
    score: TokenScore | None = None
    top: tuple[TokenScore, ...] = ()


def sample(logits: Tensor, samplings: Rows[Sampling], positions: Rows[int]) -> list[Sampled]:
    """Choose one token per row.

    logits: (rows, vocab) fp32, dead rows of the vocabulary at -inf. positions: where the new token will stand in its
    sequence; with the seed it keys the row's only random number.
    """
    token_ids = logits.argmax(dim=-1)
    random_rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if random_rows:
        token_ids[random_rows] = _draw(
            logits[random_rows],
            [samplings[row] for row in random_rows],
            [positions[row] for row in random_rows],
        )
    return [_score(logits[row], int(token_ids[row]), sampling) for row, sampling in enumerate(samplings)]


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of one position of one seed, the same on every machine.

    Philox is counter-based: no state is carried from token to token (Salmon et al., 2011).
    """
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def _draw(logits: Tensor, samplings: list[Sampling], positions: list[int]) -> Tensor:
    """Sample each row after temperature, top-k and top-p, in that order. Returns (rows,) token ids."""
    temperatures = torch.tensor([max(sampling.temperature, _COLDEST) for sampling in samplings])[:, None]
    vocab = logits.shape[-1]
    top_k = torch.tensor([sampling.top_k or vocab for sampling in samplings])[:, None]
    top_p = torch.tensor([sampling.top_p for sampling in samplings], dtype=torch.float64)[:, None]
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperatures  # the best is 0: no temperature overflows it
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    ordered = ordered.masked_fill(torch.arange(vocab) >= top_k, float("-inf"))
    probabilities = ordered.double().softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    kept = cumulative - probabilities < top_p  # the token that crosses top_p is still in, so one always is
    cumulative = cumulative.masked_fill(~kept, 2.0)  # above any target
    mass = (probabilities * kept).sum(dim=-1, keepdim=True)
    drawn = [uniform(sampling.seed, at) for sampling, at in zip(samplings, positions, strict=True)]
    targets = torch.tensor(drawn, dtype=torch.float64)[:, None] * mass
    ranks = torch.searchsorted(cumulative, targets, right=True)
    return order.gather(-1, ranks.minimum(kept.sum(dim=-1, keepdim=True) - 1)).squeeze(-1)


def _score(logits: Tensor, token_id: int, sampling: Sampling) -> Sampled:
    if sampling.top_logprobs is None:
        return Sampled(token_id)
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(sampling.top_logprobs)
    top = tuple(TokenScore(int(token), float(value)) for token, value in zip(ids, values, strict=True))
    return Sampled(token_id, TokenScore(token_id, float(logprobs[token_id])), top)
