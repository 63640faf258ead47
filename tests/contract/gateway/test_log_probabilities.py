"""Log-probabilities of an answer's tokens and of its prompt's, as the official openai client reads them."""

import math

import pytest

from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import last, piece
from zhinao.chat.v1.chat_pb2 import GenerateResponse, TokenLogprob, TokenScore

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = [{"role": "user", "content": "你好"}]


def scored(text: str, logprob: float, *others: tuple[bytes, float]) -> GenerateResponse:
    """A piece of one token with its alternatives."""
    top = [TokenScore(id=1, data=data, logprob=value) for data, value in others]
    own = TokenScore(id=1, data=text.encode(), logprob=logprob)
    return GenerateResponse(text=text, token_ids=[1], logprobs=[TokenLogprob(token=own, top=top)])


async def test_chat_reports_log_probabilities(mesh: Mesh) -> None:
    mesh.triton.script = [scored("你", -0.5, ("你".encode(), -0.5), (b"\xe4", -math.inf)), last()]

    completion = await mesh.openai.chat.completions.create(
        model="zhinao-chat", messages=HELLO, logprobs=True, top_logprobs=2
    )

    assert mesh.triton.request.top_logprobs == 2
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    (token,) = logprobs.content
    assert (token.token, token.logprob, token.bytes) == ("你", -0.5, [0xE4, 0xBD, 0xA0])
    assert [(other.token, other.logprob) for other in token.top_logprobs] == [("你", -0.5), ("\ufffd", -9999.0)]


async def test_streamed_chat_reports_log_probabilities_with_their_text(mesh: Mesh) -> None:
    mesh.triton.script = [scored("a", -1.0), scored("b", -2.0), last()]

    stream = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, logprobs=True, stream=True)
    logprobs = [chunk.choices[0].logprobs async for chunk in stream]

    assert mesh.triton.request.HasField("top_logprobs") and mesh.triton.request.top_logprobs == 0
    assert [each.content[0].logprob for each in logprobs if each is not None and each.content] == [-1.0, -2.0]


async def test_completion_reports_log_probabilities_with_offsets(mesh: Mesh) -> None:
    mesh.triton.script = [scored("ab", -1.0, (b"ab", -1.0)), scored("c", -2.0, (b"x", -0.5)), last()]

    completion = await mesh.openai.completions.create(model="zhinao-chat", prompt="Once", logprobs=1)

    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["ab", "c"]
    assert logprobs.token_logprobs == [-1.0, -2.0]
    assert logprobs.top_logprobs == [{"ab": -1.0}, {"x": -0.5}]
    assert logprobs.text_offset == [0, 2]


def prompt_token(data: bytes, *others: tuple[bytes, float], logprob: float = 0.0) -> TokenLogprob:
    """A token of the prompt with its alternatives; the first has neither logprob nor alternatives."""
    top = [TokenScore(id=number, data=text, logprob=value) for number, (text, value) in enumerate(others)]
    return TokenLogprob(token=TokenScore(id=90, data=data, logprob=logprob), top=top)


PROMPT = [
    prompt_token("a你".encode()[:2]),
    prompt_token("你".encode()[1:], (b"x", -0.5), (b"y", -0.7), logprob=-1.5),
    prompt_token(b"b", (b"z", -0.1), logprob=-2.5),
]


async def test_echo_puts_the_prompt_and_its_log_probabilities_first(mesh: Mesh) -> None:
    first = scored("c", -3.0, (b"c", -3.0))
    first.prompt_logprobs.extend(PROMPT)
    mesh.triton.script = [first, last("d")]

    completion = await mesh.openai.completions.create(model="zhinao-chat", prompt="a你b", logprobs=1, echo=True)

    assert mesh.triton.request.prompt_logprobs == 1
    (choice,) = completion.choices
    assert choice.text == "a你bcd"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a\ufffd", "\ufffd\ufffd", "b", "c"]
    assert choice.logprobs.token_logprobs == [None, -1.5, -2.5, -3.0]
    assert choice.logprobs.top_logprobs == [None, {"x": -0.5}, {"z": pytest.approx(-0.1)}, {"c": -3.0}]
    assert choice.logprobs.text_offset == [0, 1, 2, 3]


async def test_an_answers_log_probability_is_told_where_an_echoed_prompts_are_missing(mesh: Mesh) -> None:
    mesh.triton.script = [scored("c", -3.0), last("d")]

    completion = await mesh.openai.completions.create(model="zhinao-chat", prompt="a", logprobs=0, echo=True)

    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.token_logprobs == [-3.0]


async def test_echo_of_token_ids_has_the_workers_text_for_every_answer_of_a_stream(mesh: Mesh) -> None:
    first = piece("c")
    first.prompt_logprobs.extend(PROMPT)
    end = last("e")
    end.index = 1
    mesh.triton.script = [first, end, last("d")]

    stream = await mesh.openai.completions.create(model="zhinao-chat", prompt=[5, 6], echo=True, n=2, stream=True)
    texts = [(chunk.choices[0].index, chunk.choices[0].text) async for chunk in stream]

    assert texts == [(0, "a你bc"), (1, "a你be"), (0, "d")]


async def test_prompt_log_probabilities_come_by_token_id(mesh: Mesh) -> None:
    end = last("!")
    end.prompt_logprobs.extend(PROMPT)
    mesh.triton.script = [end]
    ask = {"prompt_logprobs": 1}

    chat = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=HELLO, extra_body=ask)
    text = await mesh.openai.completions.create(model="zhinao-chat", prompt="a你b", extra_body=ask)

    expected = [
        None,
        {
            "90": {"logprob": -1.5, "rank": None, "decoded_token": "\ufffd\ufffd"},
            "0": {"logprob": -0.5, "rank": 1, "decoded_token": "x"},
        },
        {
            "90": {"logprob": -2.5, "rank": None, "decoded_token": "b"},
            "0": {"logprob": pytest.approx(-0.1), "rank": 1, "decoded_token": "z"},
        },
    ]
    assert chat.model_extra is not None and chat.model_extra["prompt_logprobs"] == expected
    assert text.choices[0].model_extra is not None and text.choices[0].model_extra["prompt_logprobs"] == expected
