"""Whatever JSON a client sends, it gets an answer or a reason; never a crash."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.openai.chat import ChatCompletionRequest
from services.gateway.openai.completion import CompletionRequest
from tests.contract.gateway.conftest import Mesh

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHARACTERS = st.characters(codec=None)  # lone surrogates too
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(CHARACTERS, max_size=5)
KEYS = st.sampled_from(["role", "content", "type", "text", "include_usage"]) | st.text(CHARACTERS, max_size=3)
ANY = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
MESSAGES = st.just([{"role": "user", "content": "hi"}]) | ANY
PROMPTS = st.just("hi") | ANY


def bodies(fields: list[str]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(st.sampled_from(fields) | KEYS, ANY, max_size=4)


@settings(max_examples=150, deadline=None)
@given(body=bodies(list(ChatCompletionRequest.model_fields)), messages=MESSAGES)
async def test_any_chat_body_is_answered(shared_mesh: Mesh, body: dict[str, object], messages: object) -> None:
    await check(shared_mesh, "/v1/chat/completions", {"messages": messages, **body})


@settings(max_examples=150, deadline=None)
@given(body=bodies(list(CompletionRequest.model_fields)), prompt=PROMPTS)
async def test_any_completion_body_is_answered(shared_mesh: Mesh, body: dict[str, object], prompt: object) -> None:
    await check(shared_mesh, "/v1/completions", {"prompt": prompt, **body})


async def check(mesh: Mesh, path: str, body: dict[str, object]) -> None:
    mesh.triton.reset()  # hypothesis takes no fixture of a single test, so the script may be another test's
    answer = await mesh.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})

    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
