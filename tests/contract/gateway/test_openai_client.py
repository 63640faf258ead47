"""The official openai client against the gateway."""

from tests.contract.gateway.conftest import Mesh

HELLO = [{"role": "user", "content": "你好"}]


async def test_chat_answers_in_one_piece(mesh: Mesh) -> None:
    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO)

    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello!", "stop")
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (
        5,
        3,
        8,
    )
    assert completion.id.startswith("chatcmpl-")


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
