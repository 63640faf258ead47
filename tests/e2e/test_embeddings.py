"""Embeddings through the real mesh: every form of a request gets the same vectors."""

import asyncio
import base64
import json

import grpc
import httpx
import numpy as np
import openai
import pytest

from tests.e2e.conftest import Mesh, zhinao
from zhinao.embedding.v1.embedding_pb2 import INPUT_TYPE_QUERY, EmbedInput, EmbedRequest, EmbedTokens
from zhinao.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TEXTS = [
    "Bread rises because yeast makes carbon dioxide.",
    "On a clear day the sky is blue, since air scatters blue light more than red.",
    "天空是蓝色的。",
    "The parliament of Iceland was founded in the year 930.",
    "Sunsets look red because light travels a long way through the air.",
]


def test_the_openai_client_gets_the_same_vectors_in_every_form(mesh: Mesh) -> None:
    with mesh.client() as client:
        as_float = client.embeddings.create(model="zhinao-embed", input=TEXTS, encoding_format="float")
        as_base64 = client.embeddings.create(model="zhinao-embed", input=TEXTS)
    raw = mesh.post("/v1/embeddings", json.dumps({"input": TEXTS, "encoding_format": "base64"})).json()
    bare = mesh.post("/embed", json.dumps({"inputs": TEXTS})).json()
    with grpc.insecure_channel(mesh.url.removeprefix("http://")) as channel:
        inputs = [EmbedInput(text=text) for text in TEXTS]
        typed = EmbeddingServiceStub(channel).Embed(EmbedRequest(inputs=inputs), timeout=120)

    expected = np.array([each.embedding for each in as_float.data], np.float32)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    decoded = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in raw["data"]]
    for other in (
        [each.embedding for each in as_base64.data],
        decoded,
        bare,
        [each.values for each in typed.embeddings],
    ):
        np.testing.assert_allclose(np.array(other, np.float32), expected, atol=1e-6)
    assert as_float.usage.prompt_tokens == typed.usage.prompt_tokens == raw["usage"]["prompt_tokens"] > 0


def test_a_space_is_told_and_can_be_pinned(mesh: Mesh) -> None:
    with mesh.client() as client:
        space = client.embeddings.create(model="zhinao-embed", input="a").model_extra["space"]

        again = client.embeddings.create(model="zhinao-embed", input="b", extra_body={"space": space})
        with pytest.raises(openai.ConflictError) as refused:
            client.embeddings.create(model="zhinao-embed", input="b", extra_body={"space": "another"})
        shorter = client.embeddings.create(model="zhinao-embed", input="a", dimensions=32)

    assert again.model_extra["space"] == space
    assert refused.value.type == "conflict_error" and space in refused.value.message
    assert shorter.model_extra["space"] != space
    assert np.linalg.norm(shorter.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert len(shorter.data[0].embedding) == 32


def test_a_text_that_is_too_long_is_refused_or_cut_as_asked_and_counted(mesh: Mesh) -> None:
    texts = ["short", "sky " * 3000]

    refused = mesh.post("/v1/embeddings", json.dumps({"input": texts}))
    cut = mesh.post("/v1/embeddings", json.dumps({"input": texts, "truncate": "end"})).json()

    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    short, long = cut["usage"]["truncated_tokens"]
    assert short == 0 and long > 2000


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": ["a"] * 10_000}, "10000"),
        ({"input": [2**31]}, str(2**31)),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": "a", "dimensions": 100_000}, "100000"),
    ],
)
def test_bad_input_is_refused_with_its_number(mesh: Mesh, body: dict[str, object], words: str) -> None:
    answer = mesh.post("/v1/embeddings", json.dumps(body))

    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]["message"]


def test_token_ids_are_taken_as_they_are_and_queries_may_have_an_instruction(mesh: Mesh) -> None:
    with grpc.insecure_channel(mesh.url.removeprefix("http://")) as channel:
        embed = EmbeddingServiceStub(channel).Embed
        plain = embed(EmbedRequest(inputs=[EmbedInput(text="sky: blue")]), timeout=120)
        prefixed = embed(
            EmbedRequest(inputs=[EmbedInput(text="blue")], input_type=INPUT_TYPE_QUERY, instruction="sky: "),
            timeout=120,
        )
        ids = embed(EmbedRequest(inputs=[EmbedInput(tokens=EmbedTokens(ids=[101, 3712, 102]))]), timeout=120)

    np.testing.assert_allclose(prefixed.embeddings[0].values, plain.embeddings[0].values, atol=1e-6)
    assert ids.usage.prompt_tokens == 3


async def test_many_who_leave_early_cut_nobody_else_off(mesh: Mesh) -> None:
    chat = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 300, "ignore_eos": True, "stream": True}
    texts = {"input": ["hello there, how are you"] * 100}  # not answered before the caller leaves

    async with httpx.AsyncClient(base_url=mesh.url, timeout=60) as http:

        async def leave() -> None:
            asking = asyncio.create_task(http.post("/v1/embeddings", json=texts))
            await asyncio.wait([asking], timeout=0.03)
            asking.cancel()

        async with http.stream("POST", "/v1/chat/completions", json=chat) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            for _ in range(40):  # on the one connection that the gateway shares among all
                await asyncio.gather(*(leave() for _ in range(8)))
            rest = [line async for line in lines]

    assert "data: [DONE]" in rest


def test_the_command_line_embeds(mesh: Mesh) -> None:
    lines = zhinao("embed", "--url", mesh.url, "--json", *TEXTS[:2]).stdout.splitlines()
    table = zhinao("embed", "--url", mesh.url, *TEXTS[:2]).stdout

    assert [json.loads(line)["text"] for line in lines] == TEXTS[:2]
    assert "1.00" in table
