"""Which requests share a worker."""

import pytest

from services.gateway.upstream.affinity import affinity_key
from zhinao.chat.v1.chat_pb2 import (
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_USER,
    ChatPrompt,
    GenerateRequest,
    Message,
    TokenPrompt,
)

SYSTEM, FIRST = Message(role=ROLE_SYSTEM, content="Be brief."), Message(role=ROLE_USER, content="Hello")
LATER = (Message(role=ROLE_ASSISTANT, content="Hi."), Message(role=ROLE_USER, content="And now?"))


def chat(*messages: Message, tenant: str = "t") -> GenerateRequest:
    return GenerateRequest(chat=ChatPrompt(messages=messages), tenant=tenant)


def test_a_conversation_keeps_its_key_while_it_grows() -> None:
    assert affinity_key(chat(SYSTEM, FIRST)) == affinity_key(chat(SYSTEM, FIRST, *LATER))


@pytest.mark.parametrize(
    "other",
    [
        chat(SYSTEM, Message(role=ROLE_USER, content="Hullo")),
        chat(Message(role=ROLE_SYSTEM, content="Be long."), FIRST),
        chat(FIRST),
        chat(SYSTEM, FIRST, tenant="u"),
        GenerateRequest(text="Hello", tenant="t"),
        GenerateRequest(tenant="t"),
    ],
)
def test_what_begins_otherwise_or_is_anothers_has_another_key(other: GenerateRequest) -> None:
    assert affinity_key(chat(SYSTEM, FIRST)) != affinity_key(other)


def test_texts_and_tokens_share_a_key_if_they_begin_alike() -> None:
    texts = [GenerateRequest(text="a" * 2000 + end) for end in ("b", "c")]
    tokens = [GenerateRequest(tokens=TokenPrompt(ids=[1] * 300 + [end])) for end in (2, 3)]

    assert affinity_key(texts[0]) == affinity_key(texts[1])
    assert affinity_key(tokens[0]) == affinity_key(tokens[1]) != affinity_key(texts[0])
    assert affinity_key(GenerateRequest(tokens=TokenPrompt(ids=[1]))) != affinity_key(tokens[0])
