"""Turns the logits of a step into the tokens that each answer gains; does not know how one token is chosen."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from meshkit.errors import MeshError
from services.chat_worker.engine.generation import Generation
from services.chat_worker.engine.sampler import Sampled, sample, score
from services.chat_worker.engine.scheduler import Chunk, Plan
from services.chat_worker.engine.sequence import Sequence
from services.chat_worker.engine.shaping import Row

Choices = dict[Sequence, list[Sampled] | MeshError]


def choose(plan: Plan, logits: Tensor, generations: Mapping[Sequence, Generation]) -> Choices:
    """Choose the new tokens of every sequence that the plan takes to its last token, and of its forks.

    logits: (logits asked for, vocab) fp32. A guessed token holds if the sampler chooses the same one where it stands;
    the first choice that differs, or the one after the last guess, is gained too. So the answer is the one that would
    have come without guesses, whether greedy or random.
    """
    rows: list[Row] = []
    places: list[int] = []
    owners: list[tuple[Chunk, Sequence]] = []
    for chunk, first in _starts(plan):
        if num_scores := chunk.num_logits - chunk.num_choices:
            _score_prompt(chunk, logits[first : first + num_scores], generations[chunk.sequence])
        if chunk.samples:
            for sequence in (chunk.sequence, *chunk.sequence.forks):
                owners.append((chunk, sequence))
                rows += _rows(sequence, chunk.draft, generations[sequence])
                places += range(first + num_scores, first + chunk.num_logits)
    if not rows:
        return {}
    picked = logits if places == list(range(len(logits))) else logits[places]
    sampled = iter(sample(picked, rows))
    return {
        sequence: _gained([next(sampled) for _ in range(chunk.num_choices)], chunk.draft) for chunk, sequence in owners
    }


def _starts(plan: Plan) -> Iterator[tuple[Chunk, int]]:
    """Each chunk with the number of its first row of logits."""
    first = 0
    for chunk in plan.chunks:
        yield chunk, first
        first += chunk.num_logits


def _score_prompt(chunk: Chunk, logits: Tensor, generation: Generation) -> None:
    """Keep the log-probabilities of the prompt tokens that follow these logits; each tells of the token after it."""
    sequence, num_top = chunk.sequence, chunk.sequence.sampling.prompt_logprobs
    assert num_top is not None, "only a prompt that is scored asks for more logits than choices"
    token_ids = sequence.token_ids[sequence.num_scored + 1 : sequence.num_scored + 1 + len(logits)]
    generation.prompt_scores += score(logits, token_ids, num_top)


def _rows(sequence: Sequence, draft: tuple[int, ...], generation: Generation) -> list[Row]:
    mask = generation.grammar.mask() if generation.grammar is not None else None
    contexts = [sequence.token_ids] + [sequence.token_ids + list(draft[:n]) for n in range(1, len(draft) + 1)]
    return [Row(sequence.sampling, token_ids, sequence.prompt_len, mask) for token_ids in contexts]


def _gained(tokens: list[Sampled | MeshError], draft: tuple[int, ...]) -> list[Sampled] | MeshError:
    gained: list[Sampled] = []
    for token, guess in zip(tokens, (*draft, None), strict=True):
        if isinstance(token, MeshError):
            return gained or token
        gained.append(token)
        if token.token_id != guess:
            break
    return gained
