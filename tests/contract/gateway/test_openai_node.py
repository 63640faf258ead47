"""OpenAI's official Node client as the judge of the HTTP face."""

import json
from typing import Any

import pytest

from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from tests.contract.gateway.conftest import Mesh
from tests.fakes.answers import fitting
from tests.fakes.triton import Compute, ErrorText, Vanish, last, piece, vectors
from tests.fixtures.node_client import run_node

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = [{"role": "user", "content": "hi"}]
OPENING = """
import OpenAI from "openai";
const { MESH, RETRIES } = process.env;
const client = new OpenAI({ baseURL: `${MESH}/v1`, apiKey: "EMPTY", maxRetries: Number(RETRIES) });
const model = "zhinao-chat", messages = [{ role: "user", content: "hi" }];
const say = (value) => console.log(JSON.stringify(value));
const fail = async (asking) => {
  try { say(await asking()); } catch (error) {
    const { status, code, param, type } = error;
    say({ kind: error.constructor.name, status, code, param, type, id: Boolean(error.requestID) });
  }
};
"""


async def node(mesh: Mesh, script: str, *, retries: int = 0) -> list[Any]:
    """The values that the script says."""
    lines = await run_node(OPENING + script, MESH=mesh.url, RETRIES=str(retries))
    return [json.loads(line) for line in lines.splitlines()]


async def test_a_chat_in_one_piece(mesh: Mesh) -> None:
    mesh.triton.script = [piece("你"), piece("好"), last("!")]

    (answer,) = await node(mesh, "say(await client.chat.completions.create({ model, messages, max_tokens: 7 }));")

    assert answer["choices"][0]["message"]["content"] == "你好!"
    assert answer["usage"]["total_tokens"] == 8
    assert mesh.triton.request.stop.max_tokens == 7


async def test_a_chat_as_a_stream_and_its_usage(mesh: Mesh) -> None:
    mesh.triton.script = [piece("你"), piece("好"), last("!")]
    asking = "{ model, messages, stream: true, stream_options: { include_usage: true } }"

    *chunks, usage = await node(
        mesh, f"for await (const chunk of await client.chat.completions.create({asking})) say(chunk);"
    )

    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "你好!"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 8)


async def test_the_clients_own_helper_puts_a_stream_together(mesh: Mesh) -> None:
    mesh.triton.script = [piece("a"), piece("b"), last("c")]

    (answer,) = await node(
        mesh, "say(await client.chat.completions.stream({ model, messages }).finalChatCompletion());"
    )

    assert answer["choices"][0]["message"]["content"] == "abc"
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_call_of_a_function(mesh: Mesh, stream: str) -> None:
    mesh.triton.script = [Compute(fitting)]
    tools = '[{ type: "function", function: { name: "look", parameters: { type: "object" } } }]'
    asking = f'{{ model, messages, tools: {tools}, tool_choice: "required" }}'
    way = f"stream({asking}).finalChatCompletion()" if stream == "true" else f"create({asking})"

    (answer,) = await node(mesh, f"say(await client.chat.completions.{way});")

    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"], call["function"]["arguments"]) == ("function", "look", "{}")
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_completions_and_embeddings(mesh: Mesh) -> None:
    mesh.triton.script = [Compute(fitting)]
    script = """
    say(await client.completions.create({ model, prompt: [1, 2], logprobs: 1 }));
    say(await client.embeddings.create({ model: "zhinao-embed", input: ["a", "b"] }));
    say(await client.embeddings.create({ model: "zhinao-embed", input: "a", encoding_format: "float" }));
    """

    completion, both, one = await node(mesh, script)

    assert completion["choices"][0]["text"] == "Hé"
    assert [each["embedding"] for each in both["data"]] == [[0.5, 0.5], [0.5, 0.5]]
    assert [each["embedding"] for each in one["data"]] == [[0.5, 0.5]]


async def test_vectors_travel_exactly(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([0.1, -1e-30, 3.0])]

    (answer,) = await node(mesh, 'say(await client.embeddings.create({ model: "zhinao-embed", input: "a" }));')

    assert answer["data"][0]["embedding"] == pytest.approx([0.1, -1e-30, 3.0], rel=1e-7)


async def test_models_are_listed_and_found_by_ids_with_slashes(mesh: Mesh) -> None:
    script = """
    for await (const each of client.models.list()) say(each.id);
    say(await client.models.retrieve("qihoo360/small"));
    """

    *ids, one = await node(mesh, script)

    assert ids == ["zhinao-chat", "qihoo360/small", "zhinao-embed", "zhinao-rerank"]
    assert one["id"] == "qihoo360/small"


@pytest.mark.parametrize(
    ("asking", "kind", "status", "code", "param"),
    [
        (
            "client.chat.completions.create({ model, messages: [] })",
            "BadRequestError",
            400,
            "invalid_value",
            "messages",
        ),
        ("client.models.retrieve('gpt-9')", "NotFoundError", 404, "model_not_found", "model"),
        ("client.post('/nothing', { body: {} })", "NotFoundError", 404, "unknown_url", None),
    ],
)
async def test_a_refusal_is_typed(
    mesh: Mesh, asking: str, kind: str, status: int, code: str, param: str | None
) -> None:
    (error,) = await node(mesh, f"await fail(() => {asking});")

    assert error == {
        "kind": kind, "status": status, "code": code, "param": param, "type": "invalid_request_error", "id": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "asked"), [(Reason.QUEUE_FULL, 3), (Reason.NOT_READY, 3), (Reason.DEADLINE, 1), (Reason.TENANT_LIMIT, 1)]
)
async def test_it_tries_again_where_it_is_told_that_this_helps(mesh: Mesh, reason: Reason, asked: int) -> None:
    refusal = MeshError(reason, "no", retry_after_s=0.01 if asked > 1 else None)
    mesh.triton.script = [ErrorText(encode_error(refusal))]

    (error,) = await node(mesh, "await fail(() => client.chat.completions.create({ model, messages }));", retries=2)

    assert error["status"] == refusal.row.http
    assert len(mesh.triton.received) == asked


async def test_a_stream_that_breaks_is_an_error_and_no_answer(mesh: Mesh) -> None:
    mesh.triton.script = [piece("half"), Vanish()]
    script = """
    await fail(async () => {
      for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) say(chunk.id);
    });
    """

    *_, error = await node(mesh, script)

    assert (error["kind"], error["code"]) == ("APIError", "upstream_unavailable")
