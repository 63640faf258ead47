"""The official openai client against the gateway."""

import openai
import pytest

from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import Hold, last, piece
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_LENGTH, PRIORITY_BULK, GenerateResponse

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = [{"role": "user", "content": "你好"}]


async def test_chat_answers_in_one_piece(mesh: Mesh) -> None:
    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO)

    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello!", "stop")
    assert completion.usage is not None
    assert completion.usage.model_dump(exclude_unset=True) == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "zhinao-chat"


async def test_chat_streams_role_then_texts_then_finish(mesh: Mesh) -> None:
    stream = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]

    assert [(chunk.choices[0].delta.role, chunk.choices[0].delta.content) for chunk in chunks] == [
        ("assistant", ""),
        (None, "Hel"),
        (None, "lo"),
        (None, "!"),
        (None, None),
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def thinking(*, calls: bool = False) -> list[GenerateResponse]:
    """An answer in which thinking comes before the text, or before a call."""
    thoughts = [GenerateResponse(reasoning=text, token_ids=[7]) for text in ("Let me", " see")]
    end = last("" if calls else "Four")
    end.usage.reasoning_tokens = 2
    if calls:
        end.tool_calls.add(id="c", name="f", arguments="{}")
    return [*thoughts, end]


@pytest.mark.parametrize(("calls", "content"), [(False, "Four"), (True, None)])
async def test_thinking_is_reasoning_content_beside_the_text(mesh: Mesh, calls: bool, content: str | None) -> None:
    mesh.triton.script = thinking(calls=calls)

    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO)

    message = completion.choices[0].message
    assert (message.content, message.model_extra) == (content, {"reasoning_content": "Let me see"})
    assert bool(message.tool_calls) is calls
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens == 2


async def test_thinking_is_streamed_before_the_text(mesh: Mesh) -> None:
    mesh.triton.script = thinking()

    stream = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]

    assert [(delta.model_extra or {}).get("reasoning_content") for delta in deltas] == [
        None,
        "Let me",
        " see",
        None,
        None,
    ]
    assert [delta.content for delta in deltas] == ["", None, None, "Four", None]


async def test_thinking_that_was_cut_short_leaves_no_content(mesh: Mesh) -> None:
    mesh.triton.script = [*thinking()[:2], last(reason=FINISH_REASON_LENGTH)]

    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO)

    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == (None, "length")


async def test_a_piece_arrives_before_the_next_is_made(mesh: Mesh) -> None:
    hold = Hold()
    mesh.triton.script = [piece("first"), hold, last("second")]

    stream = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, stream=True)
    early = [await anext(stream), await anext(stream)]
    hold.release.set()
    late = [chunk async for chunk in stream]

    assert early[1].choices[0].delta.content == "first"
    assert late[0].choices[0].delta.content == "second"


async def test_usage_comes_in_a_last_chunk_without_choices_when_asked_for(mesh: Mesh) -> None:
    stream = await mesh.openai.chat.completions.create(
        model="zhinao-chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *others, end = [chunk async for chunk in stream]

    assert end.choices == []
    assert end.usage is not None and end.usage.total_tokens == 8
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in others)


async def test_the_length_limit_is_told_as_finish_reason(mesh: Mesh) -> None:
    mesh.triton.script = [last("cut", reason=FINISH_REASON_LENGTH)]

    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, max_tokens=1)

    assert mesh.triton.request.stop.max_tokens == 1
    assert completion.choices[0].finish_reason == "length"


async def test_completion_answers_in_one_piece(mesh: Mesh) -> None:
    completion = await mesh.openai.completions.create(model="zhinao-chat", prompt="Once")

    assert mesh.triton.request.text == "Once"
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("Hello!", "stop")
    assert completion.usage is not None and completion.usage.total_tokens == 8
    assert completion.id.startswith("cmpl-")


async def test_completion_streams_and_ends_with_usage(mesh: Mesh) -> None:
    stream = await mesh.openai.completions.create(
        model="zhinao-chat", prompt=[1, 2, 3], stream=True, stream_options={"include_usage": True}
    )
    *chunks, end = [chunk async for chunk in stream]

    assert list(mesh.triton.request.tokens.ids) == [1, 2, 3]
    assert [chunk.choices[0].text for chunk in chunks] == ["Hel", "lo", "!"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert end.choices == [] and end.usage is not None and end.usage.prompt_tokens == 5


async def test_several_answers_come_with_their_index(mesh: Mesh) -> None:
    ends = [last(text) for text in "abc"]
    for index, end in enumerate(ends):
        end.index, end.usage.prompt_tokens = index, 0 if index else 5  # the prompt counts once
    mesh.triton.script = [ends[2], ends[0], ends[1]]

    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, n=3)
    stream = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, n=3, stream=True)
    chunks = [chunk async for chunk in stream]

    assert [received.request.n for received in mesh.triton.received] == [3, 3]
    assert [(choice.index, choice.message.content) for choice in completion.choices] == [(0, "a"), (1, "b"), (2, "c")]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 9)
    finished = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason]
    assert finished == [2, 0, 1]


async def test_an_answer_that_never_ends_is_a_failure(mesh: Mesh) -> None:
    mesh.triton.script = [last("a")]

    with pytest.raises(openai.InternalServerError):
        await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, n=2)


async def test_the_clients_own_sampling_parameters_arrive(mesh: Mesh) -> None:
    await mesh.openai.chat.completions.create(
        model="zhinao-chat",
        messages=HELLO,
        logit_bias={"50256": -100},
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        seed=11,
        extra_body={"min_p": 0.25, "repetition_penalty": 1.5, "ignore_eos": True, "priority": "bulk"},
    )

    request = mesh.triton.request
    assert dict(request.sampling.logit_bias) == {50256: -100.0}
    assert (request.sampling.frequency_penalty, request.sampling.presence_penalty) == (0.5, -0.5)
    assert (request.sampling.seed, request.sampling.min_p, request.sampling.repetition_penalty) == (11, 0.25, 1.5)
    assert (request.stop.ignore_eos, request.priority) == (True, PRIORITY_BULK)
    assert request.tenant and "EMPTY" not in request.tenant
    assert 29 < request.timeout_s <= 30  # what is left of it


async def test_models_are_listed_and_found_by_ids_with_slashes(mesh: Mesh) -> None:
    listed = [model.id async for model in mesh.openai.models.list()]
    one = await mesh.openai.models.retrieve("qihoo360/small")

    assert listed == ["zhinao-chat", "qihoo360/small", "zhinao-embed", "zhinao-rerank"]
    assert (one.id, one.object, one.owned_by) == ("qihoo360/small", "model", "zhinao-mesh")
    assert one.model_extra == {"kind": "chat"}


async def test_each_model_is_called_by_its_own_id(mesh: Mesh) -> None:
    await mesh.openai.chat.completions.create(model="qihoo360/small", messages=HELLO)

    (received,) = mesh.triton.received
    assert received.triton_model == "chat"
    assert received.metadata["x-mesh-model"] == received.request.model == "qihoo360/small"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_not_found(mesh: Mesh, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await mesh.openai.chat.completions.create(model="gpt-9", messages=HELLO, stream=stream)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "gpt-9" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        await mesh.openai.models.retrieve("gpt-9")


async def test_a_bad_request_names_its_param(mesh: Mesh) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await mesh.openai.chat.completions.create(model="zhinao-chat", messages=[])

    assert (caught.value.param, caught.value.code) == ("messages", "invalid_value")
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


async def test_a_client_that_speaks_of_the_seed_gets_the_same_one_back(mesh: Mesh) -> None:
    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, seed=-1)

    assert mesh.triton.request.sampling.seed == 2**64 - 1
    assert completion.system_fingerprint is not None
    assert completion.system_fingerprint.endswith(f"-seed-{2**64 - 1}")


async def test_without_a_seed_the_drawn_one_is_told(mesh: Mesh) -> None:
    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO)

    assert completion.system_fingerprint is not None
    assert completion.system_fingerprint.endswith(f"-seed-{mesh.triton.request.sampling.seed}")
