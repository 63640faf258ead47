"""The sampler against plain Python, and its independence of the batch."""

import math
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meshkit.errors import MeshError, Reason
from modelkit.native.library import installed, open_library
from services.chat_worker.engine import draw
from services.chat_worker.engine.draw import uniform
from services.chat_worker.engine.sampler import Sampled, sample, score
from services.chat_worker.engine.sequence import Sampling
from services.chat_worker.engine.shaping import Row
from tests.fakes.plain_sampler import plain_choice, plain_logits

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, seed=0)
RANDOM = replace(GREEDY, temperature=1.0)
CONTEXT = [3, 7, 3, 40, 41, 7, 7, 12, 40]  # of which four are the prompt


@pytest.fixture(params=[*installed(), "torch"], autouse=True, scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test holds for each way of drawing."""
    library = None if request.param == "torch" else open_library(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "cpu_library", lambda: library)
        yield


def row(sampling: Sampling = GREEDY, token_ids: Rows[int] = CONTEXT, mask: Tensor | None = None) -> Row:
    return Row(sampling, token_ids, prompt_len=4, mask=mask)


def random_logits(rows: int, vocab: int, *, scale: float = 3.0, seed: int = 1) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def packed(allowed: Rows[int], vocab: int) -> Tensor:
    words = [0] * -(-vocab // 32)
    for token in allowed:
        words[token // 32] |= 1 << token % 32
    return torch.tensor([word - 2**32 if word >= 2**31 else word for word in words], dtype=torch.int32)


def token_ids(tokens: Rows[Sampled | MeshError]) -> list[int]:
    assert all(isinstance(token, Sampled) for token in tokens)
    return [token.token_id for token in tokens if isinstance(token, Sampled)]


CHANGES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1e-6},
    {"temperature": 1e-50},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 50},
    {"top_k": 10_000},
    {"top_p": 0.5},
    {"top_p": 1e-9},
    {"top_p": 0.9999999},
    {"top_p": 0.8, "top_k": 5, "temperature": 1.5},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"min_p": 0.02, "top_p": 0.7, "top_k": 20},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.01},
    {"repetition_penalty": 1e-40},
    {"repetition_penalty": 1e-300},
    {"repetition_penalty": 2.0},
    {"presence_penalty": 2.0},
    {"presence_penalty": -2.0},
    {"frequency_penalty": 2.0},
    {"frequency_penalty": -2.0},
    {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.7, "logit_bias": {7: 1.5, 12: -1}},
    {"logit_bias": {5: 100.0}},
    {"logit_bias": dict.fromkeys(range(45), -100.0)},
    {"bad_token_ids": frozenset(range(0, 50, 2))},
    {"allowed_token_ids": frozenset({17})},
    {"allowed_token_ids": frozenset({1, 7, 30}), "bad_token_ids": frozenset({7}), "logit_bias": {7: 100.0}},
    {"min_tokens": 5, "end_token_ids": frozenset(range(48))},
    {"min_tokens": 6, "end_token_ids": frozenset(range(48))},
]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("changes", CHANGES, ids=repr)
def test_every_parameter_does_what_its_definition_says(changes: dict[str, Any], temperature: float) -> None:
    logits = random_logits(300, 50)
    rows = [row(replace(RANDOM, **{"temperature": temperature, **changes}, seed=n * 7919)) for n in range(300)]
    assert token_ids(sample(logits, rows)) == [plain_choice(logits[n].tolist(), rows[n]) for n in range(300)]


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 6.0], ids=["equal", "flat", "even", "peaked"])
@pytest.mark.parametrize(
    "changes", [{}, {"top_p": 0.9}, {"top_k": 3000}, {"top_k": 40, "top_p": 0.95}, {"min_p": 0.3}, {"top_p": 0.05}]
)
def test_a_large_vocabulary_is_searched_as_far_as_the_filters_need(changes: dict[str, Any], scale: float) -> None:
    logits = random_logits(12, 5001, scale=scale)
    rows = [row(replace(RANDOM, **changes, seed=n)) for n in range(12)]
    assert token_ids(sample(logits, rows)) == [plain_choice(logits[n].tolist(), rows[n]) for n in range(12)]


@settings(deadline=None)
@given(data=st.data())
def test_any_mixture_of_parameters_equals_the_definition(data: st.DataObject) -> None:
    vocab = data.draw(st.integers(42, 90))
    logits = random_logits(4, vocab, scale=data.draw(st.floats(0.5, 5)), seed=data.draw(st.integers(0, 999)))
    ids = st.frozensets(st.integers(0, vocab - 1), max_size=5)
    samplings = st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        top_p=st.floats(0.01, 1),
        top_k=st.integers(0, 100),
        seed=st.integers(0, 2**64 - 1),
        min_p=st.sampled_from([0.0, 0.05, 0.5]),
        repetition_penalty=st.floats(0.1, 2),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        logit_bias=st.dictionaries(st.integers(0, vocab - 1), st.floats(-100, 100), max_size=3),
        bad_token_ids=ids,
        allowed_token_ids=ids,
        min_tokens=st.integers(0, 9),
        end_token_ids=ids,
    )
    rows = [row(data.draw(samplings)) for _ in range(4)]
    for number, token in enumerate(sample(logits, rows)):
        expected = plain_choice(logits[number].tolist(), rows[number])
        if expected is None:
            assert isinstance(token, MeshError)
        elif rows[number].sampling.temperature == 0:
            values = plain_logits(logits[number].tolist(), rows[number])
            assert isinstance(token, Sampled)
            assert values[token.token_id] == pytest.approx(values[expected], abs=1e-4)  # fp32 may see a tie
        else:
            assert isinstance(token, Sampled)
            assert token.token_id == expected


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_sampled_frequencies_follow_the_distribution(top_p: float) -> None:
    logits = torch.tensor([2.0, -9.0, 1.0, 0.0, -1.0])
    draws = 20_000
    sampling = replace(RANDOM, seed=5, top_p=top_p)
    rows = [Row(sampling, range(position), 0) for position in range(draws)]
    counts = torch.bincount(torch.tensor(token_ids(sample(logits.repeat(draws, 1), rows))), minlength=5)
    kept = torch.tensor([True, top_p == 1, True, True, top_p == 1])  # 0.64, 0.24 and 0.09 cross 0.9
    expected = (logits.masked_fill(~kept, -math.inf).softmax(-1) * draws)[kept]
    chi_square = float(((counts[kept] - expected) ** 2 / expected).sum())
    assert int(counts[~kept].sum()) == 0
    assert chi_square < {5: 18.47, 3: 13.82}[int(kept.sum())]  # the 99.9 % quantile of 4, of 2 degrees of freedom


@pytest.mark.parametrize("vocab", [64, 700, 5001])
def test_a_row_is_the_same_alone_and_among_31_others(vocab: int) -> None:
    logits = random_logits(32, vocab)
    changes = [CHANGES[n % len(CHANGES)] for n in range(32)]
    samplings = [replace(RANDOM, **{"top_logprobs": n % 5, **change}, seed=n) for n, change in enumerate(changes)]
    masks = [packed(range(n % 2, vocab), vocab) if n % 3 == 0 else None for n in range(32)]
    rows = [row(sampling, mask=mask) for sampling, mask in zip(samplings, masks, strict=True)]
    together = sample(logits, rows)
    assert together == [sample(logits[n : n + 1], [rows[n]])[0] for n in range(32)]
    assert token_ids(together)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_grammars_mask_forbids_by_bits(temperature: float) -> None:
    vocab, allowed = 70, [0, 31, 32, 63, 69]
    rows = [row(replace(RANDOM, temperature=temperature, seed=n), mask=packed(allowed, vocab)) for n in range(200)]
    chosen = token_ids(sample(random_logits(200, vocab), rows))
    assert set(chosen) == set(allowed)


def test_dead_rows_of_the_vocabulary_are_never_chosen() -> None:
    logits = torch.zeros(500, 10)
    logits[:, 7:] = -math.inf
    tokens = sample(logits, [row(replace(RANDOM, temperature=2.0, seed=n), [0]) for n in range(500)])
    assert set(token_ids(tokens)) == set(range(7))


def test_a_tiny_temperature_is_greedy_and_not_a_number_error() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert token_ids(sample(logits, [row(replace(RANDOM, temperature=1e-38), [0])])) == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_nothing_to_choose_is_refused_alone(temperature: float) -> None:
    sampling = replace(RANDOM, temperature=temperature)
    hopeless = replace(sampling, allowed_token_ids=frozenset({1}), bad_token_ids=frozenset({1}), top_logprobs=2)
    logits = random_logits(3, 50)
    first, refused, last = sample(logits, [row(sampling), row(hopeless), row(sampling)])
    assert isinstance(refused, MeshError)
    assert refused.reason is Reason.INVALID_REQUEST
    assert "allowed_token_ids" in refused.message
    assert [first, last] == sample(logits[[0, 2]], [row(sampling)] * 2)


def test_a_form_that_became_too_complex_is_named_as_the_reason() -> None:
    (refused,) = sample(random_logits(1, 50), [row(RANDOM, [1, 2, 3], mask=packed([], 50))])
    assert isinstance(refused, MeshError)
    assert refused.reason is Reason.INVALID_REQUEST
    assert "too complex" in refused.message


@pytest.mark.parametrize("vocab", [5, 256, 700])
def test_the_first_of_the_highest_is_best_and_no_number_is_higher_than_all(vocab: int) -> None:
    logits = random_logits(6, vocab + 10).round()[:, :vocab]  # full of equals
    logits[1] = -math.inf
    logits[2, vocab // 2 :] = math.nan
    logits[3, -1] = math.nan
    logits[4, 3] = math.inf
    token_ids, highest = draw.choose(logits, [GREEDY] * 6, [9] * 6)
    assert token_ids == np.asarray(logits).argmax(axis=-1).tolist()
    assert np.array_equal(highest, np.asarray(logits)[range(6), token_ids], equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.0}, {"repetition_penalty": 1.2, "top_p": 0.5}])
def test_a_row_that_the_model_broke_fails_alone_and_is_logged(
    value: float, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    logits = random_logits(3, 50)
    logits[1, 20] = value
    first, broken, last = sample(logits, [row(replace(RANDOM, **changes))] * 3)
    assert isinstance(broken, MeshError)
    assert broken.reason is Reason.INTERNAL
    assert broken.message in caplog.text
    assert [first, last] == sample(logits[[0, 2]], [row(replace(RANDOM, **changes))] * 2)


def test_logprobs_are_those_of_the_model_before_anything_a_request_changes() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.5]])
    changed = replace(GREEDY, top_logprobs=2, logit_bias={3: 50.0}, bad_token_ids=frozenset({1}))
    (token,) = sample(logits, [row(changed, [0])])
    assert isinstance(token, Sampled) and token.score is not None
    logprobs = logits.log_softmax(-1)[0].tolist()
    assert (token.token_id, token.score.logprob) == (3, pytest.approx(logprobs[3]))
    assert [(top.token_id, top.logprob) for top in token.top] == [
        (1, pytest.approx(logprobs[1])),
        (2, pytest.approx(logprobs[2])),
    ]


def test_tokens_that_stand_already_are_scored_like_chosen_ones() -> None:
    logits = random_logits(150, 30)
    chosen = sample(logits, [row(replace(GREEDY, top_logprobs=3), [0])] * 150)
    assert score(logits, token_ids(chosen), 3) == chosen
    (second,) = score(logits[:1], [4], 0)
    assert second.top == () and second.score is not None
    assert second.score.logprob == pytest.approx(float(logits[0].log_softmax(-1)[4]))


def test_logits_are_left_as_they_were() -> None:
    logits = random_logits(2, 50)
    before = logits.clone()
    sample(logits, [row(replace(RANDOM, top_p=0.5, frequency_penalty=1.0)), row(RANDOM, mask=packed([3], 50))])
    assert torch.equal(logits, before)


def test_randomness_is_keyed_by_seed_and_position() -> None:
    assert uniform(3, 4) == uniform(3, 4)
    assert len({uniform(seed, position) for seed in range(10) for position in range(10)}) == 100
    assert uniform(2**64 - 1, 0) < 1
