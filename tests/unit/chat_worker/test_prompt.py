"""What a request is turned into: defaults of the checkpoint, greedy switches, stops and their control tokens."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import MeshError, Reason
from modelkit.conversation import CallForm, Message, Tool
from services.chat_worker.defaults import GenerationDefaults
from services.chat_worker.prompt import PromptBuilder
from services.chat_worker.request import ChatPrompt, GenerationRequest, TextPrompt
from tests.fakes.engine import ByteTokenizer

TOKENIZER = ByteTokenizer("<eod>", "<|im_start|>", "<|im_end|>")
DEFAULTS = GenerationDefaults(temperature=0.7, top_p=0.8, top_k=5, end_token_ids=frozenset({256}))
REQUEST = GenerationRequest(request_id="r", model="", prompt=TextPrompt("hello"))


class SpellingTemplate:
    """Spells a conversation as its contents, one after the other."""

    call_form = CallForm.TAGGED

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        return TOKENIZER.encode("".join(message.content for message in messages))


def builder(**changes: Any) -> PromptBuilder:
    options: dict[str, Any] = {"template": SpellingTemplate(), "defaults": DEFAULTS, **changes}
    return PromptBuilder(TOKENIZER, **options, model_id="m", max_model_len=64)


def test_silence_means_the_checkpoints_defaults_and_the_rest_of_the_window() -> None:
    prepared = builder().prepare(REQUEST, fallback_seed=9)
    sampling = prepared.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.7, 0.8, 5, 9)
    assert prepared.stop.max_tokens == 64 - len("hello")
    assert prepared.stop.token_ids == {256}


def test_the_request_overrides_the_checkpoint() -> None:
    request = replace(REQUEST, temperature=1.5, top_p=0.1, top_k=0, seed=3, max_tokens=2)
    prepared = builder().prepare(request, fallback_seed=9)
    sampling = prepared.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (1.5, 0.1, 0, 3)
    assert prepared.stop.max_tokens == 2


@pytest.mark.parametrize(
    ("default", "asked", "do_sample", "expected"),
    [
        (0.7, None, False, 0.0),
        (0.7, 1.2, False, 0.0),
        (0.7, None, True, 0.7),
        (0.0, None, None, 0.0),
        (0.0, None, True, 1.0),
        (0.0, 0.4, None, 0.4),
        (0.7, 0.0, True, 0.0),
    ],
)
def test_do_sample_switches_between_greedy_and_sampling(
    default: float, asked: float | None, do_sample: bool | None, expected: float
) -> None:
    request = replace(REQUEST, temperature=asked, do_sample=do_sample)
    prepared = builder(defaults=replace(DEFAULTS, temperature=default)).prepare(request, fallback_seed=0)
    assert prepared.sampling.temperature == expected


def test_a_stop_text_that_spells_a_control_token_becomes_its_id_and_an_empty_one_nothing() -> None:
    request = replace(REQUEST, stop_texts=("<|im_end|>", "", "\n\n"), stop_token_ids=(7,))
    stop = builder().prepare(request, fallback_seed=0).stop
    assert stop.token_ids == {256, 258, 7}
    assert stop.texts == ("\n\n",)


def test_a_base_model_refuses_conversations_and_points_to_completions() -> None:
    request = replace(REQUEST, prompt=ChatPrompt((Message("user", "hi"),)))
    with pytest.raises(MeshError, match="/v1/completions") as refused:
        builder(template=None).prepare(request, fallback_seed=0)
    assert refused.value.reason is Reason.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "expected"),
    [
        ({}, {}, ByteTokenizer(), (1.0, 1.0, 0, set())),
        ({"eos_token_id": 2}, {"eos_token_id": 3}, ByteTokenizer(), (1.0, 1.0, 0, {2})),
        ({}, {"eos_token_id": [3, 4]}, ByteTokenizer(), (1.0, 1.0, 0, {3, 4})),
        ({"do_sample": False, "temperature": 0.6}, {}, ByteTokenizer(), (0.0, 1.0, 0, set())),
        ({"do_sample": True, "top_k": 0, "top_p": 0.8}, {}, TOKENIZER, (1.0, 0.8, 0, {256, 257, 258})),
        ({"temperature": None, "top_p": None, "top_k": -1}, {}, ByteTokenizer(), (1.0, 1.0, 0, set())),
        ({"eos_token_id": [2, 158326]}, {}, ByteTokenizer(), (1.0, 1.0, 0, {2})),
        ({"eos_token_id": 158326}, {}, TOKENIZER, (1.0, 1.0, 0, {256, 257, 258})),
        ({}, {}, ByteTokenizer("<eod>"), (1.0, 1.0, 0, {256})),
    ],
)
def test_defaults_are_read_from_the_checkpoint(
    tmp_path: Path,
    generation: dict[str, Any],
    config: dict[str, Any],
    tokenizer: ByteTokenizer,
    expected: tuple[float, float, int, set[int]],
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "config.json").write_text(json.dumps(config))
    defaults = GenerationDefaults.read(tmp_path, tokenizer)
    assert (defaults.temperature, defaults.top_p, defaults.top_k, defaults.end_token_ids) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("temperature", value) for value in ("warm", -1, 5.0)),
        *(("top_p", value) for value in (0, 1.5)),
        *(("top_k", value) for value in (-2, 10**30)),
        *(("eos_token_id", value) for value in (158326, -1, [158326, 158332])),
    ],
)
def test_a_generation_config_no_answer_could_follow_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(ValueError, match=rf"generation_config\.json(.|\n)*{key}"):
        GenerationDefaults.read(tmp_path, ByteTokenizer())
