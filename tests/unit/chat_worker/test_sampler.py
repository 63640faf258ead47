"""The sampler against plain Python, and its independence of the batch."""

import math
from collections.abc import Sequence as Rows

import pytest
import torch

from services.chat_worker.engine.sampler import Row, Sampled, sample, uniform
from services.chat_worker.engine.sequence import Sampling


def make_sampling(
    temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, seed: int = 0, top_logprobs: int | None = None
) -> Sampling:
    return Sampling(temperature, top_p, top_k, seed, top_logprobs)


def choose(logits: torch.Tensor, samplings: Rows[Sampling], positions: Rows[int]) -> list[Sampled]:
    """Sample one token per row, at a position of a text of no consequence."""
    rows = [Row(sampling, [0] * at, prompt_len=0) for sampling, at in zip(samplings, positions, strict=True)]
    sampled = sample(logits, rows)
    return [token for token in sampled if isinstance(token, Sampled)]


def oracle(logits: list[float], sampling: Sampling, position: int) -> int:
    """Temperature, then top-k, then top-p, then the inverse of the distribution function, one step at a time."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if sampling.temperature < 1e-30:
        return order[0]
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = [math.exp((logits[token] - logits[order[0]]) / sampling.temperature) for token in order]
    probabilities = [weight / sum(weights) for weight in weights]
    kept, mass = 0, 0.0
    while kept < len(order) and mass < sampling.top_p:
        mass += probabilities[kept]
        kept += 1
    target, seen = uniform(sampling.seed, position) * mass, 0.0
    for token, probability in zip(order[:kept], probabilities, strict=False):
        seen += probability
        if seen > target:
            return token
    return order[kept - 1]


@pytest.mark.parametrize(
    "sampling",
    [
        make_sampling(temperature=0),
        make_sampling(),
        make_sampling(temperature=0.3),
        make_sampling(temperature=1e-50),
        make_sampling(temperature=2.0),
        make_sampling(top_k=1),
        make_sampling(top_k=3),
        make_sampling(top_k=10_000),
        make_sampling(top_p=0.5),
        make_sampling(top_p=0.8, top_k=5, temperature=1.5),
        make_sampling(top_p=1e-9),
    ],
    ids=repr,
)
def test_sample_equals_the_plain_oracle(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(300, 50, generator=generator) * 3
    samplings = [
        Sampling(sampling.temperature, sampling.top_p, sampling.top_k, seed=row * 7919, top_logprobs=None)
        for row in range(300)
    ]
    chosen = [token.token_id for token in choose(logits, samplings, range(300))]
    assert chosen == [oracle(logits[row].tolist(), samplings[row], row) for row in range(300)]


def test_sampled_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    draws = 20_000
    tokens = choose(logits.repeat(draws, 1), [make_sampling(seed=5)] * draws, range(draws))
    counts = torch.bincount(torch.tensor([token.token_id for token in tokens]), minlength=5)
    expected = logits.softmax(-1) * draws
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 18.47  # the 99.9 % quantile of 4 degrees of freedom


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(2))
    samplings = [make_sampling(temperature=row / 3, top_p=0.9, top_k=row, seed=row) for row in range(6)]
    together = choose(logits, samplings, range(6))
    alone = [choose(logits[row : row + 1], [samplings[row]], [row])[0] for row in range(6)]
    assert together == alone


def test_dead_rows_of_the_vocabulary_are_never_chosen() -> None:
    logits = torch.zeros(500, 10)
    logits[:, 7:] = float("-inf")
    tokens = choose(logits, [make_sampling(temperature=2.0)] * 500, range(500))
    assert {token.token_id for token in tokens} == set(range(7))


def test_a_tiny_temperature_is_greedy_and_not_a_number_error() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert choose(logits, [make_sampling(temperature=1e-38)], [0])[0].token_id == 1


def test_logprobs_are_those_of_the_model_before_temperature() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.5]])
    (token,) = choose(logits, [make_sampling(temperature=0, top_logprobs=2)], [0])
    best, second = logits.log_softmax(-1)[0, 1:3].tolist()
    assert token.score is not None
    assert [score.token_id for score in token.top] == [1, 2]
    assert [score.logprob for score in (token.score, *token.top)] == pytest.approx([best, best, second])


def test_randomness_is_keyed_by_seed_and_position() -> None:
    assert uniform(3, 4) == uniform(3, 4)
    assert len({uniform(seed, position) for seed in range(10) for position in range(10)}) == 100
    assert uniform(2**64 - 1, 0) < 1
