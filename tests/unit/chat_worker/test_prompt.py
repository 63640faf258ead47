"""What a request is turned into: defaults of the checkpoint, greedy switches, stops and their control tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import MeshError, Reason
from modelkit.chat_template import NO_VALUES
from modelkit.conversation import CallForm, Message, Tool
from services.chat_worker.defaults import GenerationDefaults
from services.chat_worker.prompt import PromptBuilder
from services.chat_worker.request import ChatPrompt, GenerationRequest, TextPrompt
from services.chat_worker.thoughts import Part
from tests.fakes.engine import ByteTokenizer

TOKENIZER = ByteTokenizer("<eod>", "<|im_start|>", "<|im_end|>")
DEFAULTS = GenerationDefaults(temperature=0.7, top_p=0.8, top_k=5, end_token_ids=frozenset({256}))
REQUEST = GenerationRequest(request_id="r", model="", prompt=TextPrompt("hello"))


class SpellingTemplate:
    """Spells a conversation as its contents, one after the other."""

    call_form = CallForm.TAGGED
    value_names = ("mood",)

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), values: Mapping[str, object] = NO_VALUES
    ) -> list[int]:
        return TOKENIZER.encode("".join(message.content for message in messages) + str(values.get("mood", "")))


def builder(**changes: Any) -> PromptBuilder:
    options: dict[str, Any] = {"template": SpellingTemplate(), "defaults": DEFAULTS, **changes}
    return PromptBuilder(TOKENIZER, **options, model_id="m", max_model_len=64)


@pytest.mark.parametrize("truncate", [False, True])
def test_variables_of_the_template_are_spelled_and_the_others_are_told(truncate: bool) -> None:
    prompt = ChatPrompt((Message("user", "hi"),), values={"mood": "!", "enable_thinking": False})

    prepared = builder().prepare(replace(REQUEST, prompt=prompt, truncate_prompt=truncate), fallback_seed=0)

    assert TOKENIZER.decode(prepared.token_ids) == "hi!"
    assert prepared.unused_values == ("enable_thinking",)


@pytest.mark.parametrize(
    ("prompt", "begins_with"),
    [
        (ChatPrompt((Message("user", "hi"),)), Part.START),
        (ChatPrompt((Message("user", "hi<think>\n"),)), Part.THOUGHT),
        (ChatPrompt((Message("user", "<think></think>\n\n"),)), Part.START),
        (TextPrompt("hi<think>\n"), Part.TEXT),
    ],
)
def test_only_the_answer_to_a_conversation_may_hold_thinking_which_the_prompt_may_have_opened(
    prompt: ChatPrompt | TextPrompt, begins_with: Part
) -> None:
    prepared = builder().prepare(replace(REQUEST, prompt=prompt), fallback_seed=0)
    assert prepared.begins_with is begins_with


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


def test_the_checkpoints_own_penalty_and_min_p_hold_where_the_request_is_silent() -> None:
    build = builder(defaults=replace(DEFAULTS, min_p=0.1, repetition_penalty=1.2))
    silent = build.prepare(REQUEST, fallback_seed=0).sampling
    spoken = build.prepare(replace(REQUEST, min_p=0.0, repetition_penalty=1.0), fallback_seed=0).sampling
    assert (silent.min_p, silent.repetition_penalty) == (0.1, 1.2)
    assert (spoken.min_p, spoken.repetition_penalty) == (0.0, 1.0)


def test_end_tokens_may_come_although_only_others_are_allowed_but_not_before_min_tokens() -> None:
    request = replace(REQUEST, allowed_token_ids=(65, 66), stop_token_ids=(7,), min_tokens=3)
    sampling = builder().prepare(request, fallback_seed=0).sampling
    assert sampling.allowed_token_ids == {65, 66, 7, 256}
    assert (sampling.min_tokens, sampling.end_token_ids) == (3, {7, 256})


def test_an_ignored_end_token_is_a_token_like_others() -> None:
    request = replace(REQUEST, ignore_eos=True, stop_token_ids=(7,), allowed_token_ids=(65,), min_tokens=3)
    prepared = builder().prepare(request, fallback_seed=0)
    assert prepared.stop.token_ids == prepared.sampling.end_token_ids == {7}
    assert prepared.sampling.allowed_token_ids == {65, 7}


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"min_p": 1.5}, "min_p", ["1.5", "1"]),
        ({"min_p": float("nan")}, "min_p", ["nan"]),
        ({"repetition_penalty": 0.0}, "repetition_penalty", ["0.0", "above 0", "2"]),
        ({"presence_penalty": -2.5}, "presence_penalty", ["-2.5", "-2"]),
        ({"frequency_penalty": 3.0}, "frequency_penalty", ["3.0", "2"]),
        ({"logit_bias": {5: 101.0}}, "logit_bias", ["5", "101", "100"]),
        ({"logit_bias": {259: 1.0}}, "logit_bias", ["259"]),
        ({"bad_token_ids": (1, 259)}, "bad_token_ids", ["259"]),
        ({"allowed_token_ids": (0,) * 1025}, "allowed_token_ids", ["1025", "1024"]),
        ({"stop_token_ids": (300,)}, "stop_token_ids", ["300", "259"]),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", ["9", "8"]),
        ({"prompt_logprobs": 21}, "prompt_logprobs", ["21", "20"]),
        ({"top_logprobs": 21}, "top_logprobs", ["21", "20"]),
        ({"n": 129}, "n", ["129", "128"]),
        ({"timeout_s": 0.0}, "timeout_s", ["0.0", "above 0"]),
        ({"timeout_s": -1.5}, "timeout_s", ["-1.5", "above 0"]),
        ({"timeout_s": float("nan")}, "timeout_s", ["nan", "above 0"]),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_with_both_numbers(
    changes: dict[str, Any], param: str, words: list[str]
) -> None:
    with pytest.raises(MeshError) as refused:
        builder().prepare(replace(REQUEST, **changes), fallback_seed=0)
    assert (refused.value.reason, refused.value.param) == (Reason.INVALID_REQUEST, param)
    for word in words:
        assert word in refused.value.message


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
        *(("min_p", value) for value in (-0.1, 1.5)),
        *(("repetition_penalty", value) for value in (0, 2.5)),
        *(("eos_token_id", value) for value in (158326, -1, [158326, 158332])),
    ],
)
def test_a_generation_config_no_answer_could_follow_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(ValueError, match=rf"generation_config\.json(.|\n)*{key}"):
        GenerationDefaults.read(tmp_path, ByteTokenizer())
