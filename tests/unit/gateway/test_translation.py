"""OpenAI's JSON to protobuf and back, without a server."""

from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.errors import MeshError
from services.gateway.openai.chat import ChatCompletionRequest
from services.gateway.openai.completion import CompletionRequest
from services.gateway.openai.generation import StreamOptions
from services.gateway.translate.answer import collect
from services.gateway.translate.chat import to_chat_chunks, to_chat_completion, to_chat_request
from services.gateway.translate.completion import to_completion, to_completion_chunks, to_completion_requests
from services.gateway.translate.generation import to_seed
from services.gateway.translate.head import Head
from zhinao.chat.v1 import chat_pb2
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse, SamplingParams, StopConditions
from zhinao.common.v1.common_pb2 import Usage

HEAD = Head(id="chatcmpl-1", created_s=1_700_000_000, model="m", seed=5, version="1.2.3", request_id="r")

CHAT = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "hi"}]})
TEXT = CompletionRequest.model_validate({"prompt": "hi"})
STREAMED = TEXT.model_copy(update={"stream": True, "stream_options": StreamOptions(include_usage=True)})


def chat(**fields: object) -> GenerateRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return to_chat_request(ChatCompletionRequest.model_validate(body), HEAD)


def completion(**fields: object) -> GenerateRequest:
    (request,) = to_completion_requests(CompletionRequest.model_validate({"prompt": "hi", **fields}), HEAD)
    return request


async def stream(pieces: Sequence[GenerateResponse]) -> AsyncGenerator[GenerateResponse, None]:
    for piece in pieces:
        yield piece


def test_a_silent_client_leaves_everything_to_the_worker() -> None:
    prompt = chat_pb2.ChatPrompt(messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content="hi")])

    assert chat() == GenerateRequest(
        request_id="r", model="m", chat=prompt, sampling=SamplingParams(seed=5), stop=StopConditions()
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, SamplingParams(temperature=0.0, seed=5)),
        ({"temperature": 2.0, "top_p": 1}, SamplingParams(temperature=2.0, top_p=1.0, seed=5)),
        ({"top_k": -1}, SamplingParams(top_k=0, seed=5)),
        ({"top_k": 0}, SamplingParams(top_k=0, seed=5)),
        ({"top_k": 40}, SamplingParams(top_k=40, seed=5)),
        ({"do_sample": False}, SamplingParams(do_sample=False, seed=5)),
        ({"min_p": 0.1, "repetition_penalty": 1.1}, SamplingParams(min_p=0.1, repetition_penalty=1.1, seed=5)),
        (
            {"presence_penalty": -2, "frequency_penalty": 2},
            SamplingParams(presence_penalty=-2, frequency_penalty=2, seed=5),
        ),
        ({"logit_bias": {"50256": -100, "3": 1.5}}, SamplingParams(logit_bias={50256: -100, 3: 1.5}, seed=5)),
        (
            {"bad_token_ids": [1], "allowed_token_ids": [2, 3]},
            SamplingParams(bad_token_ids=[1], allowed_token_ids=[2, 3], seed=5),
        ),
    ],
)
def test_sampling_fields_are_set_only_where_the_client_spoke(
    fields: dict[str, object], expected: SamplingParams
) -> None:
    assert chat(**fields).sampling == expected
    assert completion(**fields).sampling == expected


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens"])
def test_the_limit_on_new_tokens_has_three_names(name: str) -> None:
    assert chat(**{name: 7}).stop == StopConditions(max_tokens=7)


def test_names_that_agree_on_the_limit_pass() -> None:
    assert chat(max_tokens=7, max_new_tokens=7).stop.max_tokens == 7


def test_names_that_disagree_on_the_limit_are_refused_with_both_numbers() -> None:
    with pytest.raises(MeshError, match="max_tokens 7, max_completion_tokens 8") as caught:
        chat(max_tokens=7, max_completion_tokens=8)

    assert caught.value.param == "max_completion_tokens"


@pytest.mark.parametrize(
    ("stop", "texts"), [(None, []), ("", []), ("a", ["a"]), (["a", "", "b"], ["a", "b"]), ([], [])]
)
def test_stop_is_a_text_or_a_list_and_empty_ones_are_ignored(stop: object, texts: list[str]) -> None:
    assert list(chat(stop=stop).stop.texts) == texts


@pytest.mark.parametrize(
    ("fields", "top"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_chat_asks_for_log_probabilities_by_two_fields(fields: dict[str, object], top: int | None) -> None:
    request = chat(**fields)

    assert (request.top_logprobs if request.HasField("top_logprobs") else None) == top


@pytest.mark.parametrize("top", [None, 0, 5])
def test_completions_ask_for_log_probabilities_by_one(top: int | None) -> None:
    request = completion(logprobs=top)

    assert (request.top_logprobs if request.HasField("top_logprobs") else None) == top


@pytest.mark.parametrize(
    ("prompt", "text", "ids"),
    [("", "", []), ("a", "a", []), (["a"], "a", []), ([1, 2], "", [1, 2]), ([[1, 2]], "", [1, 2])],
)
def test_a_completion_prompt_is_one_text_or_one_list_of_ids(prompt: object, text: str, ids: list[int]) -> None:
    request = completion(prompt=prompt)

    assert (request.text, list(request.tokens.ids)) == (text, ids)
    assert request.WhichOneof("prompt") == ("tokens" if ids else "text")


@pytest.mark.parametrize(("seed", "unsigned"), [(0, 0), (-1, 2**64 - 1), (-(2**63), 2**63), (2**64 - 1, 2**64 - 1)])
def test_signed_seeds_become_unsigned(seed: int, unsigned: int) -> None:
    assert to_seed(seed) == unsigned


@pytest.mark.parametrize(
    ("fields", "stop"),
    [
        ({"min_tokens": 3, "ignore_eos": True}, StopConditions(min_tokens=3, ignore_eos=True)),
        ({"stop_token_ids": [7, 8]}, StopConditions(token_ids=[7, 8])),
    ],
)
def test_when_an_answer_ends_can_be_said_by_tokens(fields: dict[str, object], stop: StopConditions) -> None:
    assert chat(**fields).stop == stop


def test_how_a_request_is_served_can_be_said() -> None:
    request = completion(n=3, priority="bulk", speculate=False, prompt_logprobs=0)

    assert (request.n, request.priority, request.speculate) == (3, chat_pb2.PRIORITY_BULK, False)
    assert request.HasField("speculate") and request.HasField("prompt_logprobs")


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"echo": True}, None),
        ({"echo": True, "logprobs": 3}, 3),
        ({"echo": True, "logprobs": 1, "prompt_logprobs": 2}, 2),
        ({"echo": True, "prompt": [1, 2]}, 0),
        ({"echo": False, "logprobs": 3}, None),
    ],
)
def test_echo_asks_for_what_the_gateway_cannot_know(fields: dict[str, object], asked: int | None) -> None:
    request = completion(**fields)

    assert (request.prompt_logprobs if request.HasField("prompt_logprobs") else None) == asked


async def test_several_answers_are_told_apart_and_counted_together() -> None:
    usage = Usage(completion_tokens=1, accepted_draft_tokens=1, rejected_draft_tokens=2)
    first = Usage(prompt_tokens=3, cached_tokens=2)
    first.MergeFrom(usage)
    pieces = [
        GenerateResponse(index=0, text="a"),
        GenerateResponse(index=1, text="b", finish_reason=chat_pb2.FINISH_REASON_STOP, usage=usage),
        GenerateResponse(index=0, text="c", finish_reason=chat_pb2.FINISH_REASON_LENGTH, usage=first),
    ]

    whole = to_chat_completion(await collect(stream(pieces)), CHAT, HEAD)
    *chunks, end = [chunk async for chunk in to_chat_chunks(stream(pieces), HEAD, with_usage=True)]
    *events, last = [event async for event in to_completion_chunks(stream(pieces), STREAMED, HEAD)]

    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in whole["choices"]] == [
        (0, "ac", "length"),
        (1, "b", "stop"),
    ]
    assert whole["usage"] == end.get("usage") == last.get("usage")
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (3, 2)
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert whole["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 0,
        "accepted_prediction_tokens": 2,
        "rejected_prediction_tokens": 4,
    }
    (choices,) = zip(*(chunk["choices"] for chunk in chunks), strict=True)
    assert [choice["index"] for choice in choices if "role" in choice["delta"]] == [0, 1]
    assert [(choice["index"], choice["finish_reason"]) for choice in choices if choice["finish_reason"]] == [
        (1, "stop"),
        (0, "length"),
    ]
    assert [(event["choices"][0]["index"], event["choices"][0]["text"]) for event in events] == [
        (0, "a"),
        (1, "b"),
        (0, "c"),
    ]


@settings(deadline=None)
@given(texts=st.lists(st.text()), stopped=st.booleans())
async def test_streamed_texts_add_up_to_the_whole_answer(texts: list[str], stopped: bool) -> None:
    reason = chat_pb2.FINISH_REASON_STOP if stopped else chat_pb2.FINISH_REASON_LENGTH
    usage = Usage(prompt_tokens=3, completion_tokens=len(texts) + 1)
    pieces = [GenerateResponse(text=text, token_ids=[1]) for text in texts]
    pieces.append(GenerateResponse(text="end", token_ids=[2], finish_reason=reason, usage=usage))

    whole_chat = to_chat_completion(await collect(stream(pieces)), CHAT, HEAD)
    whole = to_completion(await collect(stream(pieces)), TEXT, HEAD)
    chat_chunks = [chunk async for chunk in to_chat_chunks(stream(pieces), HEAD, with_usage=True)]
    chunks = [chunk async for chunk in to_completion_chunks(stream(pieces), STREAMED, HEAD)]

    text = "".join([*texts, "end"])
    assert whole_chat["choices"][0]["message"]["content"] == text
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chat_chunks[:-1]) == text
    assert whole["choices"][0]["text"] == text
    assert "".join(each["choices"][0]["text"] for each in chunks[:-1]) == text
    assert chat_chunks[-1].get("usage") == chunks[-1].get("usage") == whole_chat["usage"] == whole.get("usage")
    finishes = [each["choices"][0]["finish_reason"] for each in chat_chunks[:-1]]
    assert [each for each in finishes if each] == ["stop" if stopped else "length"]
    assert finishes[-1] == whole_chat["choices"][0]["finish_reason"]


async def test_a_piece_that_completes_no_character_is_no_event() -> None:
    pieces = [GenerateResponse(token_ids=[1]), GenerateResponse(text="你", token_ids=[2], finish_reason=1)]

    chat_chunks = [chunk async for chunk in to_chat_chunks(stream(pieces), HEAD, with_usage=False)]
    chunks = [chunk async for chunk in to_completion_chunks(stream(pieces), TEXT, HEAD)]

    deltas = [chunk["choices"][0]["delta"] for chunk in chat_chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "你"}, {}]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["你"]


def test_the_fingerprint_holds_version_and_seed() -> None:
    assert HEAD.fingerprint == "zhinao-mesh-1.2.3-seed-5"
