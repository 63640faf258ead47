"""Whatever JSON a client sends, it gets an answer or a reason; never a crash."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.openai.chat import ChatCompletionRequest
from services.gateway.openai.completion import CompletionRequest
from services.gateway.openai.embeddings import EmbeddingRequest
from services.gateway.openai.fields import RequestBody
from services.gateway.openai.responses import ResponseRequest
from services.gateway.search.rerank import RerankRequest
from services.gateway.search.score import ScoreRequest
from services.gateway.search.tei import TeiEmbedRequest, TeiRerankRequest
from tests.contract.gateway.conftest import Mesh
from tests.fakes.answers import fitting
from tests.fakes.triton import HELLO, Compute, Step

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHARACTERS = st.characters(codec=None)  # lone surrogates too
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(CHARACTERS, max_size=5)
KEYS = st.sampled_from(["role", "content", "type", "text", "include_usage"]) | st.text(CHARACTERS, max_size=3)
ANY = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
MESSAGES = st.just([{"role": "user", "content": "hi"}]) | ANY
LISTS = st.lists(st.text(CHARACTERS, max_size=3) | st.dictionaries(KEYS, ANY, max_size=3), max_size=3)
ITEM_KEYS = st.sampled_from(["type", "role", "content", "call_id", "name", "arguments", "output"])
ITEM_WORDS = st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "user", "assistant"])
ITEMS = st.dictionaries(ITEM_KEYS, ITEM_WORDS | ANY, max_size=6)
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


@settings(max_examples=150, deadline=None)
@given(body=bodies(list(ResponseRequest.model_fields)), input_=st.just("hi") | ANY | st.lists(ITEMS, max_size=3))
async def test_any_response_body_is_answered(shared_mesh: Mesh, body: dict[str, object], input_: object) -> None:
    await check(shared_mesh, "/v1/responses", {"input": input_, **body})


@pytest.mark.parametrize(
    ("path", "kind", "good"),
    [
        ("/v1/embeddings", EmbeddingRequest, {"input": ["a", [1]]}),
        ("/embed", TeiEmbedRequest, {"inputs": "a"}),
        ("/v1/rerank", RerankRequest, {"query": "q", "documents": ["a", {"text": "b"}]}),
        ("/rerank", TeiRerankRequest, {"query": "q", "texts": ["a", "b"]}),
        ("/v1/score", ScoreRequest, {"text_1": "q", "text_2": ["a", "b"]}),
    ],
)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
async def test_any_search_body_is_answered(
    shared_mesh: Mesh, path: str, kind: type[RequestBody], good: dict[str, object], data: st.DataObject
) -> None:
    fields = st.dictionaries(st.sampled_from(list(kind.model_fields)) | KEYS, ANY | st.just("a") | LISTS, max_size=4)

    await check(shared_mesh, path, {**good, **data.draw(fields)}, Compute(fitting))


async def check(mesh: Mesh, path: str, body: dict[str, object], *script: Step) -> None:
    mesh.triton.reset()  # hypothesis takes no fixture of a single test, so the script may be another test's
    mesh.triton.script = script or HELLO
    answer = await mesh.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})

    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert {"type", "param", "code"} <= set(answer.json()) | set(answer.json()["error"])
