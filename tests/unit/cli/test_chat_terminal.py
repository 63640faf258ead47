"""The keyboard, the pipe and the OpenAI client of `zhinao chat`."""

import io
import json
from collections.abc import Callable

import httpx2
import openai
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from cli.chat import OpenAIModel, first_chat_model, pipe, prompt_session
from cli.chat_loop import AnswerFailure
from cli.conversation import Turn
from mesh.failure import MeshFailure


def typed(keys: str) -> str:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text(keys)
        return prompt_session().prompt()


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> openai.OpenAI:
    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(base_url="http://mesh/v1", api_key="none", max_retries=0, http_client=transport)


def sse(*events: object) -> httpx2.Response:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})


def piece(text: str) -> object:
    return {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}


def listing(*kinds: str | None) -> httpx2.Response:
    """Models called a, b, …; None: of a server that does not tell kinds."""
    data = [
        {"id": name, "object": "model"} | ({} if kind is None else {"kind": kind})
        for name, kind in zip("abc", kinds, strict=False)
    ]
    return httpx2.Response(200, json={"object": "list", "data": data})


def test_enter_sends() -> None:
    assert typed("hello\r") == "hello"


def test_escape_enter_begins_a_new_line() -> None:
    assert typed("one\x1b\rtwo\r") == "one\ntwo"


def test_pasted_lines_stay_lines() -> None:
    assert typed("\x1b[200~one\ntwo\x1b[201~\r") == "one\ntwo"


def test_ctrl_d_on_an_empty_line_leaves_and_ctrl_c_gives_up_the_line() -> None:
    with pytest.raises(EOFError):
        typed("\x04")
    with pytest.raises(KeyboardInterrupt):
        typed("half a line\x03")


def test_a_pipe_gives_a_message_a_line_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n\xff")))

    assert [pipe(), pipe(), pipe()] == ["one\n", "two\n", "\ufffd"]
    with pytest.raises(EOFError):
        pipe()


def test_pieces_come_from_the_stream_and_the_roles_go_along() -> None:
    sent: list[dict[str, object]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return sse(piece("Hel"), {"id": "1", "choices": []}, piece("lo"))

    turns = [Turn("system", "s"), Turn("user", "q"), Turn("assistant", "a"), Turn("user", "r")]
    pieces = list(OpenAIModel(client(answer), "m").answer(turns, stream=True))

    assert pieces == ["Hel", "lo"]
    assert sent[0]["messages"] == [{"role": turn.role, "content": turn.content} for turn in turns]


def test_without_stream_the_answer_is_one_piece() -> None:
    whole = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}
    model = OpenAIModel(client(lambda _request: httpx2.Response(200, json=whole)), "m")

    assert list(model.answer([Turn("user", "q")], stream=False)) == ["Hello"]


@pytest.mark.parametrize(
    ("response", "line"),
    [
        (
            httpx2.Response(400, json={"error": {"message": "prompt is 9 tokens,\nthe limit is 8"}}),
            "HTTP 400: prompt is 9 tokens, the limit is 8",
        ),
        (sse(piece("He"), {"error": {"message": "the worker was lost"}}), "the worker was lost"),
    ],
)
def test_a_servers_error_is_its_message_in_one_line(response: httpx2.Response, line: str) -> None:
    model = OpenAIModel(client(lambda _request: response), "m")

    with pytest.raises(AnswerFailure) as failure:
        list(model.answer([Turn("user", "q")], stream=True))

    assert str(failure.value) == line


@pytest.mark.parametrize(("kinds", "first"), [(("chat", "chat"), "a"), (("embed", "chat"), "b"), ((None, None), "a")])
def test_the_first_model_that_can_chat_is_the_default(kinds: tuple[str | None, ...], first: str) -> None:
    assert first_chat_model(client(lambda _request: listing(*kinds)), "http://mesh") == first


def test_a_mesh_without_a_chat_model_is_called_so() -> None:
    with pytest.raises(MeshFailure, match="http://mesh serves no chat model"):
        first_chat_model(client(lambda _request: listing("embed", "rerank")), "http://mesh")


def test_a_server_of_something_else_is_called_so() -> None:
    page = httpx2.Response(200, text="<html>", headers={"content-type": "text/html"})

    with pytest.raises(MeshFailure, match="http://mesh answers, but not as an OpenAI"):
        first_chat_model(client(lambda _request: page), "http://mesh")


def test_no_mesh_is_said_with_the_way_to_start_one() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    with pytest.raises(MeshFailure, match=r"http://mesh does not answer.*zhinao up"):
        first_chat_model(client(refuse), "http://mesh")
