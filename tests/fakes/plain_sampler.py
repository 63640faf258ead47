"""Chooses a token as the sampler does, over lists, one step of the definition at a time."""

import math

from services.chat_worker.engine.draw import uniform
from services.chat_worker.engine.shaping import Row


def plain_choice(logits: list[float], row: Row) -> int | None:
    """The token that follows, or None if none may."""
    values = plain_logits(logits, row)
    best = max(values)
    if best == -math.inf:
        return None
    if row.sampling.temperature < 1e-30:
        return values.index(best)
    weights = plain_filters([math.exp((value - best) / row.sampling.temperature) for value in values], row)
    target, seen = uniform(row.sampling.seed, len(row.token_ids)) * sum(weights), 0.0
    for token, weight in enumerate(weights):
        seen += weight
        if seen > target:
            return token
    raise AssertionError("the random number is below 1")


def plain_logits(logits: list[float], row: Row) -> list[float]:
    """The logits in force."""
    sampling, answer = row.sampling, list(row.token_ids[row.prompt_len :])
    values = [value + sampling.logit_bias.get(token, 0.0) for token, value in enumerate(logits)]
    for token in set(row.token_ids):
        penalty = sampling.repetition_penalty
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
    for token in set(answer):
        values[token] -= sampling.frequency_penalty * answer.count(token) + sampling.presence_penalty
    return [value if _is_allowed(token, row) else -math.inf for token, value in enumerate(values)]


def plain_filters(weights: list[float], row: Row) -> list[float]:
    """Weights of what min-p, top-k and top-p keep, in that order; what they drop weighs nothing."""
    sampling = row.sampling
    weights = [weight if weight >= sampling.min_p else 0.0 for weight in weights]
    if 0 < sampling.top_k < len(weights):
        lightest = sorted(weights, reverse=True)[sampling.top_k - 1]
        weights = [weight if weight >= lightest else 0.0 for weight in weights]
    if sampling.top_p < 1:
        mass, seen, lightest = sum(weights), 0.0, 0.0
        for weight in sorted(weights, reverse=True):
            if seen >= sampling.top_p * mass:
                break
            seen, lightest = seen + weight, weight
        weights = [weight if weight >= lightest else 0.0 for weight in weights]
    return weights


def _is_allowed(token: int, row: Row) -> bool:
    sampling = row.sampling
    if token in sampling.bad_token_ids or (row.must_go_on and token in sampling.end_token_ids):
        return False
    if sampling.allowed_token_ids and token not in sampling.allowed_token_ids:
        return False
    return row.mask is None or bool(int(row.mask[token // 32]) >> token % 32 & 1)
