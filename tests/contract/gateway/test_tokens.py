"""Text to tokens and back, over REST in vLLM's form and over gRPC."""

import pytest

from tests.contract.gateway.conftest import Mesh
from zhinao.chat.v1.chat_pb2 import ROLE_USER, ChatPrompt, Message
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from zhinao.tokenize.v1.tokenize_pb2_grpc import TokenizeServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKENS = TokenizeResponse(ids=[5, 6], pieces=[b"a", "你".encode()[:2]], model="zhinao-chat", max_model_len=99)


async def test_a_text_is_tokenised(mesh: Mesh) -> None:
    mesh.triton.script = [TOKENS]

    answer = await mesh.http.post("/tokenize", json={"prompt": "a你", "return_token_strs": True})

    assert answer.json() == {"count": 2, "max_model_len": 99, "tokens": [5, 6], "token_strs": ["a", "\ufffd"]}
    (received,) = mesh.triton.received
    request_id = answer.headers["x-request-id"]
    assert received.request == TokenizeRequest(model="zhinao-chat", text="a你", request_id=request_id)
    assert (received.triton_model, received.operation) == ("chat", "tokenize")


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "hi"}]}])
async def test_neither_or_both_of_prompt_and_messages_are_refused_by_name(mesh: Mesh, body: dict[str, object]) -> None:
    answer = await mesh.http.post("/tokenize", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the body must hold either prompt or messages"


async def test_a_conversation_is_tokenised(mesh: Mesh) -> None:
    mesh.triton.script = [TOKENS]
    body = {"messages": [{"role": "user", "content": "hi"}], "add_special_tokens": False, "model": "qihoo360/small"}

    answer = await mesh.http.post("/tokenize", json=body)

    assert answer.json() == {"count": 2, "max_model_len": 99, "tokens": [5, 6]}
    (received,) = mesh.triton.received
    assert isinstance(received.request, TokenizeRequest)
    assert received.request.chat == ChatPrompt(messages=[Message(role=ROLE_USER, content="hi")])
    assert received.request.omit_special_tokens


async def test_a_conversation_is_laid_out_with_variables_of_the_template(mesh: Mesh) -> None:
    mesh.triton.script = [TokenizeResponse(ids=[5], unused_template_values=["b"])]
    body = {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"a": "你", "b": 1}}

    answer = await mesh.http.post("/tokenize", json=body)

    (received,) = mesh.triton.received
    assert isinstance(received.request, TokenizeRequest)
    assert received.request.chat.template_values == '{"a": "你", "b": 1}'
    assert answer.headers["x-ignored-params"] == "chat_template_kwargs.b"


async def test_tokens_become_text(mesh: Mesh) -> None:
    mesh.triton.script = [DetokenizeResponse(text="a你")]

    answer = await mesh.http.post("/detokenize", json={"tokens": [5, 6]})

    assert answer.json() == {"prompt": "a你"}
    (received,) = mesh.triton.received
    assert isinstance(received.request, DetokenizeRequest) and list(received.request.ids) == [5, 6]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, None),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "hi"}]}, None),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_a_bad_request_is_told(mesh: Mesh, path: str, body: dict[str, object], param: str | None) -> None:
    answer = await mesh.http.post(path, json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert mesh.triton.received == []


async def test_a_model_that_does_not_chat_is_not_found(mesh: Mesh) -> None:
    answer = await mesh.http.post("/tokenize", json={"prompt": "a", "model": "zhinao-embed"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_grpc_answers_the_same(mesh: Mesh) -> None:
    stub = TokenizeServiceStub(mesh.channel)
    mesh.triton.script = [TOKENS]
    assert await stub.Tokenize(TokenizeRequest(text="a你", request_id="mine")) == TOKENS
    mesh.triton.script = [DetokenizeResponse(text="a")]
    assert (await stub.Detokenize(DetokenizeRequest(ids=[5]))).text == "a"

    assert mesh.triton.received[0].metadata["x-request-id"] == "mine"
