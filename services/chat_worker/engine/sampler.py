"""Chooses the next tokens from logits; each row depends on its own logits and request only, never on its neighbours."""

import logging
import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.draw import choose, pick
from services.chat_worker.engine.sequence import MAX_TOP_LOGPROBS
from services.chat_worker.engine.shaping import Row, shape

log = logging.getLogger(__name__)

_SCORED_ROWS = 64  # scored at once: a long prompt's log-probabilities would take a gigabyte together


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token and its natural log-probability in the model's own distribution, before anything a request changes."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """The chosen token; score and top (best first) only where they were asked for."""

    token_id: int
    score: TokenScore | None = None
    top: tuple[TokenScore, ...] = ()


@torch.inference_mode()
def sample(logits: Tensor, rows: Rows[Row]) -> list[Sampled | MeshError]:
    """Choose one token per row, or say why that row has none. logits: (rows, vocab) fp32."""
    shaped = shape(logits, rows)
    token_ids, highest = choose(shaped, [row.sampling for row in rows], [len(row.token_ids) for row in rows])
    failures = [_failure(row, logit) for row, logit in zip(rows, highest, strict=True)]
    sound = [number for number, failure in enumerate(failures) if failure is None]
    scored = [number for number in sound if rows[number].sampling.top_logprobs is not None]
    scores = dict[int, Sampled]()
    if scored:
        num_top = [rows[number].sampling.top_logprobs or 0 for number in scored]
        reports = _score(pick(logits, scored), [token_ids[number] for number in scored], num_top)
        scores = dict(zip(scored, reports, strict=True))
    return [
        failure or scores.get(number) or Sampled(token_id)
        for number, (failure, token_id) in enumerate(zip(failures, token_ids, strict=True))
    ]


@torch.inference_mode()
def score(logits: Tensor, token_ids: Rows[int], num_top: int) -> list[Sampled]:
    """Report tokens that stand already, as if each had been chosen from its row of logits, (tokens, vocab) fp32."""
    scored: list[Sampled] = []
    for start in range(0, len(token_ids), _SCORED_ROWS):
        ids = token_ids[start : start + _SCORED_ROWS]
        scored += _score(logits[start : start + len(ids)], ids, [num_top] * len(ids))
    return scored


def _score(logits: Tensor, token_ids: Rows[int], num_top: Rows[int]) -> list[Sampled]:
    logprobs = logits.log_softmax(dim=-1)
    own = logprobs.gather(-1, torch.tensor(token_ids, device=logits.device)[:, None]).squeeze(-1)
    # always as many: which of two equals comes first must not depend on what a neighbour asked for
    top = logprobs.topk(min(MAX_TOP_LOGPROBS, logits.shape[-1]))
    # torch leaves tolist untyped
    ids = cast("list[list[int]]", top.indices.tolist())  # pyright: ignore[reportUnknownMemberType]
    values = cast("list[list[float]]", top.values.tolist())  # pyright: ignore[reportUnknownMemberType]
    tops = [tuple(map(TokenScore, *best)) for best in zip(ids, values, strict=True)]
    return [
        Sampled(token_id, TokenScore(token_id, float(logprob)), top[:count])
        for token_id, logprob, top, count in zip(token_ids, own, tops, num_top, strict=True)
    ]


def _failure(row: Row, highest: float) -> MeshError | None:
    """What is wrong with a row whose best logit is this."""
    if math.isfinite(highest):
        return None
    if row.mask is not None and not row.mask.any():
        num_tokens = len(row.token_ids) - row.prompt_len
        message = f"the answer's format became too complex to keep to after {num_tokens} tokens"
        return MeshError(Reason.INVALID_REQUEST, message)
    if highest == -math.inf and row.is_shaped:
        return MeshError(
            Reason.INVALID_REQUEST,
            "no token may come next: allowed_token_ids, bad_token_ids, min_tokens and the answer's format leave none",
        )
    message = f"the best logit of a row is {highest}"
    log.error(message)
    return MeshError(Reason.INTERNAL, message)
