"""An answer that comes before the end of a request's body."""

from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from services.gateway.linger import Linger

PART = {"type": "http.request", "body": b"a", "more_body": True}
END = {"type": "http.request", "body": b"b", "more_body": False}
GONE = {"type": "http.disconnect"}


async def exchange(messages: Sequence[Message], num_read: int, **headers: str) -> tuple[list[Message], list[Message]]:
    """What of these messages is left, and what is sent, by an app that reads that many and refuses."""
    left, sent = list(messages), list[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(num_read):
            await receive()
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append({**message, "unread": len(left)})

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await Linger(app)({"type": "http", "headers": raw}, receive, send)
    return left, sent


@pytest.mark.parametrize("end", [END, GONE])
@pytest.mark.parametrize("num_read", [0, 1])
async def test_a_refusal_is_sent_at_once_and_ends_after_the_body(num_read: int, end: Message) -> None:
    left, (start, body, last) = await exchange([PART, PART, end], num_read, **{"content-length": "3"})

    assert left == []
    assert (start["headers"], start["unread"]) == ([], 3 - num_read)
    assert (body["body"], body["more_body"], body["unread"]) == (b"no", True, 3 - num_read)
    assert not last.get("body") and not last.get("more_body")


@pytest.mark.parametrize(
    ("messages", "num_read", "headers"),
    [
        ([PART, END], 2, {"content-length": "2"}),
        ([END], 0, {}),
        ([END], 0, {"content-length": "0"}),
        ([PART, END], 0, {"content-length": "2", "expect": "100-continue"}),
    ],
    ids=["body was read", "no body", "empty body", "client waits to be asked"],
)
async def test_otherwise_nothing_changes(messages: list[Message], num_read: int, headers: dict[str, str]) -> None:
    left, (start, body) = await exchange(messages, num_read, **headers)

    assert len(left) == len(messages) - num_read
    assert start["headers"] == [(b"content-length", b"2")]
    assert body["body"] == b"no" and "more_body" not in body


async def test_who_was_asked_to_go_on_is_listened_to() -> None:
    left, _ = await exchange([PART, END], 1, **{"content-length": "2", "expect": "100-continue"})

    assert left == []


async def test_nobody_is_listened_to_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.linger._LONGEST_S", 0)

    _, sent = await exchange([PART, END], 0, **{"transfer-encoding": "chunked"})

    assert not sent[-1].get("more_body")
