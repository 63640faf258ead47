"""Chooses the next token from logits; each row depends on its own logits, parameters, seed and position only."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from meshkit.errors import MeshError
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


@dataclass(frozen=True, slots=True)
class Row:
    """One choice to make.

    token_ids: the context before the new token, of which the first prompt_len are the prompt; its length is the new
    token's position, which with the seed keys the row's only random number. mask: (ceil(vocab / 32),) int32, bit
    token_id % 32 of word token_id // 32 set where a token is allowed; None allows all.
    """

    sampling: Sampling
    token_ids: Rows[int]
    prompt_len: int
    mask: Tensor | None = None


def sample(logits: Tensor, rows: Rows[Row]) -> list[Sampled | MeshError]:
    """Choose one token per row, or say why that row has none. logits: (rows, vocab) fp32."""
    samplings = [row.sampling for row in rows]
    token_ids = logits.argmax(dim=-1)
    random_rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if random_rows:
        token_ids[random_rows] = _draw(
            logits[random_rows],
            [samplings[row] for row in random_rows],
            [len(rows[row].token_ids) for row in random_rows],
        )
    return [_score(logits[row], int(token_ids[row]), sampling.top_logprobs) for row, sampling in enumerate(samplings)]


def score(logits: Tensor, token_ids: Rows[int], num_top: int) -> list[Sampled]:
    """Report tokens that stand already, as if each had been chosen from its row of logits, (tokens, vocab) fp32."""
    return [_score(row, token_id, num_top) for row, token_id in zip(logits, token_ids, strict=True)]


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


def _score(logits: Tensor, token_id: int, num_top: int | None) -> Sampled:
    if num_top is None:
        return Sampled(token_id)
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(num_top)
    top = tuple(TokenScore(int(token), float(value)) for token, value in zip(ids, values, strict=True))
    return Sampled(token_id, TokenScore(token_id, float(logprobs[token_id])), top)
