"""Prompts of an exact length that no cache has seen."""

from pathlib import Path

from bench.prompts import Prompts


def test_prompts_have_the_length_asked_for_and_differ_from_their_first_tokens_on(demo_chat_model: Path) -> None:
    prompts = Prompts(seed=7).take_many(20, 64)

    assert {len(prompt) for prompt in prompts} == {64}
    assert len({tuple(prompt[:8]) for prompt in prompts}) == 20


def test_same_seed_gives_the_same_prompts(demo_chat_model: Path) -> None:
    assert Prompts(seed=7).take(100) == Prompts(seed=7).take(100) != Prompts(seed=8).take(100)
