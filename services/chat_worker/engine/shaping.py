"""Changes logits as requests ask before a token is chosen: bias, penalties, forbidden tokens; chooses nothing."""

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from services.chat_worker.engine.sequence import Sampling

_FORBIDDEN = float("-inf")
_LEAST_PENALTY = 1e-30  # what is seen stands far above the rest already; less could make its logits infinite


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

    @property
    def must_go_on(self) -> bool:
        """Whether the answer is too short to end here."""
        return len(self.token_ids) - self.prompt_len < self.sampling.min_tokens

    @property
    def is_shaped(self) -> bool:
        """Whether the model's own logits are not the ones in force."""
        return self.mask is not None or self.must_go_on or self.sampling.changes_logits


def shape(logits: Tensor, rows: Rows[Row]) -> Tensor:
    """The logits in force, (rows, vocab) fp32: the tensor itself where no row asks for anything, else a copy.

    First the bias, then the repetition penalty, then frequency and presence penalty, as in vLLM's v1 sampler; what is
    forbidden is -inf, whatever came before. Costs O(context) per row with a penalty, O(vocab) per other change.
    """
    if not any(row.is_shaped for row in rows):
        return logits
    shaped = logits.clone(memory_format=torch.contiguous_format)
    _add_bias(shaped, rows)
    _penalise_repetition(shaped, rows)
    _penalise_counts(shaped, rows)
    _forbid_tokens(shaped, rows)
    _forbid_the_rest(shaped, rows)
    return shaped


def _add_bias(logits: Tensor, rows: Rows[Row]) -> None:
    owners, places = _places(logits, ((number, row.sampling.logit_bias) for number, row in enumerate(rows)))
    if len(owners):
        bias = [value for row in rows for value in row.sampling.logit_bias.values()]
        logits.view(-1)[places] += logits.new_tensor(bias)


def _penalise_repetition(logits: Tensor, rows: Rows[Row]) -> None:
    """Make what prompt and answer hold less probable. Source: Keskar et al., 2019; the sign as in transformers.

    A token that is there twice is written twice, with the same value.
    """
    parts = ((number, row.token_ids) for number, row in enumerate(rows) if row.sampling.repetition_penalty != 1)
    owners, places = _places(logits, parts)
    if len(owners):
        penalties = logits.new_tensor([max(row.sampling.repetition_penalty, _LEAST_PENALTY) for row in rows])[owners]
        seen = logits.view(-1)[places]
        logits.view(-1)[places] = torch.where(seen > 0, seen / penalties, seen * penalties)


def _penalise_counts(logits: Tensor, rows: Rows[Row]) -> None:
    """Make what the answer holds less probable. Source: OpenAI's API guide, "frequency and presence penalties"."""
    parts = (
        (number, row.token_ids[row.prompt_len :])
        for number, row in enumerate(rows)
        if row.sampling.frequency_penalty or row.sampling.presence_penalty
    )
    _, occurrences = _places(logits, parts)
    if len(occurrences):
        places, counts = _count(occurrences)
        owners = places // logits.shape[-1]
        frequency = logits.new_tensor([row.sampling.frequency_penalty for row in rows])[owners]
        presence = logits.new_tensor([row.sampling.presence_penalty for row in rows])[owners]
        logits.view(-1)[places] -= frequency * counts + presence


def _forbid_tokens(logits: Tensor, rows: Rows[Row]) -> None:
    """Rule out bad tokens, and those that would end an answer too early."""
    parts = [(number, row.sampling.bad_token_ids) for number, row in enumerate(rows)]
    parts += [(number, row.sampling.end_token_ids) for number, row in enumerate(rows) if row.must_go_on]
    owners, places = _places(logits, parts)
    if len(owners):
        logits.view(-1)[places] = _FORBIDDEN


def _forbid_the_rest(logits: Tensor, rows: Rows[Row]) -> None:
    """Rule out everything but what the row's list and its mask allow."""
    for number, row in enumerate(rows):
        if allowed := row.sampling.allowed_token_ids:
            token_ids = torch.tensor(list(allowed), device=logits.device)
            kept = logits[number, token_ids]
            logits[number] = _FORBIDDEN
            logits[number, token_ids] = kept
        if row.mask is not None:
            bits = (row.mask[:, None] >> torch.arange(32)).bitwise_and_(1).flatten()[: logits.shape[-1]]
            logits[number].masked_fill_((bits == 0).to(logits.device), _FORBIDDEN)


def _count(occurrences: Tensor) -> tuple[Tensor, Tensor]:
    """The values of a (n,) tensor, each once, and how often they are there."""
    counted = occurrences.unique(return_counts=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("tuple[Tensor, Tensor]", counted)


def _places(logits: Tensor, parts: Iterable[tuple[int, Iterable[int]]]) -> tuple[Tensor, Tensor]:
    """Where the token ids of some rows are: (n,) row numbers, and (n,) indices into the flattened logits."""
    token_ids, numbers, lengths = array("q"), list[int](), list[int]()
    for number, ids in parts:
        before = len(token_ids)
        token_ids.extend(ids)
        numbers.append(number)
        lengths.append(len(token_ids) - before)
    owners = torch.tensor(numbers, dtype=torch.int64).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    columns = torch.frombuffer(token_ids, dtype=torch.int64) if token_ids else owners
    return owners.to(logits.device), (owners * logits.shape[-1] + columns).to(logits.device)
