"""An answer that is cut off anywhere and goes on at another worker equals the unbroken one."""

from collections.abc import Sequence
from typing import Any

import pytest

from meshkit.errors import Reason
from tests.adapter.chat_calls import USER, answer, chat, failure, greedy, tokens_of
from tests.adapter.conftest import MakeAdapter
from tests.adapter.test_chat_adapter_forms import SCHEMA, TOOLS, ask, ask_with_tools
from tests.fixtures.tiny_zhinao import write_tiny_zhinao
from zhinao.chat.v1 import chat_pb2

Pieces = Sequence[chat_pb2.GenerateResponse]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_zhinao(tmp_path_factory.mktemp("resumed"), window=1024))


def seeded(**changes: Any) -> dict[str, Any]:
    fields = {"temperature": 1.0, "top_p": 0.95, "seed": 7, **changes}
    return {"sampling": chat_pb2.SamplingParams(**fields), "stop": chat_pb2.StopConditions(max_tokens=40)}


def whole(pieces: Pieces) -> dict[str, Any]:
    """What a client puts together of an answer, whatever the pieces."""
    last = pieces[-1]
    return {
        "thought": "".join(piece.reasoning for piece in pieces),
        "text": "".join(piece.text for piece in pieces),
        "tokens": tokens_of(list(pieces)),
        "scored": [entry.token.id for piece in pieces for entry in piece.logprobs],
        "calls": [(call.index, call.name) for piece in pieces for call in piece.tool_calls if call.name],
        "arguments": "".join(call.arguments for piece in pieces for call in piece.tool_calls),
        "end": (last.finish_reason, last.seed),
        "usage": [getattr(last.usage, f"{kind}_tokens") for kind in ("prompt", "completion", "reasoning")],
    }


def logprobs(pieces: Pieces) -> list[float]:
    return [score.logprob for piece in pieces for entry in piece.logprobs for score in (entry.token, *entry.top)]


def resumed(request: chat_pb2.GenerateRequest, told: Pieces) -> chat_pb2.GenerateRequest:
    rest = chat_pb2.GenerateRequest()
    rest.CopyFrom(request)
    rest.generated_token_ids.extend(tokens_of(list(told)))
    return rest


@pytest.mark.parametrize(
    "asked",
    [
        chat((USER, "hi"), **greedy(40)),
        chat((USER, "hi"), **seeded(), top_logprobs=2),
        chat((USER, "hi"), **seeded(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5)),
        chat(
            (USER, "hi"),
            sampling=chat_pb2.SamplingParams(temperature=1.5, seed=3),
            stop=chat_pb2.StopConditions(max_tokens=60, texts=["a", "的 "], min_tokens=10),
        ),
        ask(format=chat_pb2.OutputFormat(json_schema=SCHEMA), **seeded()),
        ask_with_tools(chat_pb2.ToolChoice.MODE_REQUIRED),
    ],
    ids=["greedy", "seeded", "penalised", "stopped", "in a form", "calling"],
)
def test_an_answer_that_goes_on_elsewhere_is_the_same(
    asked: chat_pb2.GenerateRequest, make_adapter: MakeAdapter, checkpoint: str
) -> None:
    first, second = (make_adapter(model_path=checkpoint, prefix_cache=cache) for cache in ("true", "false"))
    asked.sampling.seed = asked.sampling.seed or 1  # the gateway draws one
    # on a busy machine tokens travel together, so that one answer may have too few pieces to be cut
    pieces = next(pieces for _ in range(20) if len(pieces := answer(first, asked)) > 3)
    tools = len(asked.chat.tools)

    assert not tools or tools == len(TOOLS)
    for cut in {1, 2, len(pieces) // 2, len(pieces) - 1}:
        rest = answer(second, resumed(asked, pieces[:cut]))
        joined = [*pieces[:cut], *rest]
        assert whole(joined) == whole(pieces), f"cut after {cut} of {len(pieces)} pieces"
        assert logprobs(joined) == pytest.approx(logprobs(pieces), abs=1e-4)  # plain torch rounds by the size of a step


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["plain", "with tools"])
def test_an_answer_that_thinks_goes_on_wherever_it_was_cut(
    tools: list[chat_pb2.Tool], make_adapter: MakeAdapter, checkpoint: str
) -> None:
    """In a tag, among the blanks that are dropped, in the thinking, in the text."""
    first, second = make_adapter(model_path=checkpoint), make_adapter(model_path=checkpoint)
    form = chat_pb2.OutputFormat(regex="<think>\n[a-d]{3} [a-d]{3} \n</think>\n\n[a-d]{4}")
    asked = ask(format=form, **seeded())
    asked.chat.tools.extend(tools)
    asked.chat.tool_choice.mode = chat_pb2.ToolChoice.MODE_NONE if tools else chat_pb2.ToolChoice.MODE_AUTO
    pieces = next(pieces for _ in range(20) if len(pieces := answer(first, asked)) > 10)

    assert whole(pieces)["thought"] and whole(pieces)["text"]
    for cut in range(1, len(pieces)):
        joined = [*pieces[:cut], *answer(second, resumed(asked, pieces[:cut]))]
        assert whole(joined) == whole(pieces), f"cut after {cut} of {len(pieces)} pieces"


def test_log_probabilities_of_the_prompt_are_not_told_twice(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    asked = chat((USER, "hi"), **greedy(8), prompt_logprobs=1)
    pieces = answer(adapter, asked)

    rest = answer(adapter, resumed(asked, pieces[:1]))

    assert pieces[0].prompt_logprobs
    assert not any(piece.prompt_logprobs for piece in rest)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 2, "generated_token_ids": [1]}, "n = 1 only, n is 2"),
        ({"generated_token_ids": [1] * 8}, "holds 8 tokens; the answer may have 8"),
        ({"generated_token_ids": [10**6]}, "token id 1000000"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused(changes: dict[str, Any], words: str, make_adapter: MakeAdapter) -> None:
    error = failure(make_adapter(), chat((USER, "hi"), **greedy(8), **changes))

    assert (error.reason, error.param) == (Reason.INVALID_REQUEST, "generated_token_ids")
    assert words in error.message
