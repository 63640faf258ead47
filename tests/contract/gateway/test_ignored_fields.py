"""Fields that have no effect, those that would have one, and values that are harmless."""

import json

import pytest

from services.gateway import boundary
from services.gateway.call import Call, begin_call
from tests.contract.gateway.conftest import Mesh
from tests.contract.gateway.refusals import CHAT, USER, chat, check
from tests.fakes.triton import last
from zhinao.chat.v1.chat_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER, GenerateResponse

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_harmless_values_and_nulls_pass(mesh: Mesh) -> None:
    body = chat(
        n=1, presence_penalty=0, frequency_penalty=0.0, repetition_penalty=1, logit_bias={}, tools=[], store=False,
        tool_choice="none", response_format={"type": "text"}, prediction=None, modalities=["text"],
        parallel_tool_calls=True, model=None, stream=None, stream_options=None, max_tokens=7, max_new_tokens=7,
        max_completion_tokens=None, stop=None, temperature=None, top_p=None, top_k=None, do_sample=None, seed=None,
        logprobs=False, top_logprobs=None, truncate_prompt=True,
    )  # fmt: skip

    answer = await mesh.http.post(CHAT, json=body)

    assert answer.status_code == 200, answer.text
    assert "x-ignored-params" not in answer.headers
    assert mesh.triton.request.truncate_prompt
    sampling = mesh.triton.request.sampling
    assert not any(map(sampling.HasField, ("temperature", "top_p", "top_k", "do_sample")))


async def test_unknown_fields_are_accepted_and_listed(mesh: Mesh) -> None:
    unknown = {"mirostat": 2, "a b": "x", "bad\r\nname": 1, "名": 1, "x" * 99: 1}
    answer = await mesh.http.post(CHAT, json=chat(**unknown))

    assert answer.status_code == 200
    assert answer.headers["x-ignored-params"] == f"mirostat, a%20b, bad%0D%0Aname, %E5%90%8D, {'x' * 64}"


HOSTED = {
    "user": "me",
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
}
PARTS = [
    ({"messages": [{**USER, "name": "me", "refusal": None}]}, "messages[0].name"),
    ({"messages": [{**USER, "content": [{"type": "text", "text": "a", "cache_control": {}}]}]}, None),
    ({"stream": True, "stream_options": {"include_obfuscation": False}}, "stream_options.include_obfuscation"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "more": 1}}}, None),
]


@pytest.mark.parametrize(("fields", "name"), [*(({name: value}, name) for name, value in HOSTED.items()), *PARTS])
async def test_fields_without_effect_are_listed_or_refused_if_strict(
    mesh: Mesh, fields: dict[str, object], name: str | None
) -> None:
    answer = await mesh.http.post(CHAT, json=chat(**fields))
    refusal = await mesh.http.post(CHAT, json=chat(**fields, strict=True))

    listed = answer.headers["x-ignored-params"]
    assert (answer.status_code, name or listed) == (200, listed)
    check(refusal, 400, listed, "unsupported_parameter")
    assert len(mesh.triton.received) == 1


async def test_a_strict_key_refuses_whatever_the_body_says(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "begin_call", strict_call)

    check(await mesh.http.post(CHAT, json=chat(user="me", strict=False)), 400, "user", "unsupported_parameter")
    assert (await mesh.http.post(CHAT, json=chat())).status_code == 200


def strict_call(*arguments: str | None) -> Call:
    call = begin_call(*arguments)
    call.strict = True
    return call


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True}, {"audio": {}}, {"modalities": ["text", "audio"]}, {"web_search_options": {}},
        {"continue_final_message": True}, {"documents": ["a"]},
        {"use_beam_search": True}, {"include_stop_str_in_output": True}, {"truncate_prompt_tokens": 5},
    ],
)  # fmt: skip
async def test_what_would_change_the_answer_is_never_ignored(mesh: Mesh, fields: dict[str, object]) -> None:
    check(await mesh.http.post(CHAT, json=chat(**fields)), 400, next(iter(fields)), "unsupported_parameter")


THINKING = {"chat_template_kwargs": {"enable_thinking": False, "budget": 5}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
async def test_variables_of_the_template_reach_the_worker_which_says_those_that_had_no_effect(
    mesh: Mesh, path: str, stream: bool
) -> None:
    mesh.triton.script = [GenerateResponse(token_ids=[7], unused_template_values=["budget"]), last()]
    body = chat(**THINKING, user="me", stream=stream)
    if path != CHAT:
        body["input"] = body.pop("messages")

    answer = await mesh.http.post(path, json=body)

    assert json.loads(mesh.triton.request.chat.template_values) == THINKING["chat_template_kwargs"]
    assert answer.status_code == 200
    assert answer.headers["x-ignored-params"] == "user, chat_template_kwargs.budget"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_strict_request_with_a_variable_that_has_no_effect_is_refused(mesh: Mesh, stream: bool) -> None:
    mesh.triton.script = [GenerateResponse(token_ids=[7], unused_template_values=["budget"]), last()]

    answer = await mesh.http.post(CHAT, json=chat(**THINKING, strict=True, stream=stream))

    check(answer, 400, "chat_template_kwargs.budget", "unsupported_parameter")


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt"])
async def test_what_the_mesh_tells_the_template_is_no_variable(mesh: Mesh, name: str) -> None:
    answer = await mesh.http.post(CHAT, json=chat(chat_template_kwargs={name: []}))

    assert name in check(answer, 400, "chat_template_kwargs", "invalid_value")
    assert not mesh.triton.received


async def test_roles_need_not_alternate_and_parts_are_joined(mesh: Mesh) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "assistant", "content": ""}, {"role": "developer", "content": parts}, USER, USER]

    await mesh.http.post(CHAT, json={"messages": messages})

    sent = mesh.triton.request.chat.messages
    assert [(each.role, each.content) for each in sent] == [
        (ROLE_ASSISTANT, ""),
        (ROLE_SYSTEM, "ab"),
        (ROLE_USER, "hi"),
        (ROLE_USER, "hi"),
    ]
