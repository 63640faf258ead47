"""Several prompts in one text completion, over the official client."""

import openai
import pytest

from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import Compute, ErrorText, Hold, Request, Step
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_STOP, GenerateRequest, GenerateResponse
from zhinao.common.v1.common_pb2 import Usage

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/v1/completions"


def echo(index: int, *, ends: bool = True) -> Step:
    """Answer `index` to a prompt: the prompt itself and its index; 3 tokens, and the prompt's 2 with answer 0."""

    def answer(request: Request) -> list[Step]:
        assert isinstance(request, GenerateRequest)
        prompt = request.text or str(list(request.tokens.ids))
        if not ends:
            return [GenerateResponse(token_ids=[7], index=index)]
        usage = Usage(prompt_tokens=0 if index else 2, completion_tokens=3)
        return [GenerateResponse(text=f"{prompt}/{index}", index=index, finish_reason=FINISH_REASON_STOP, usage=usage)]

    return Compute(answer)


def by_prompt(**steps: Step) -> Step:
    """To each prompt another step."""

    def choose(request: Request) -> list[Step]:
        assert isinstance(request, GenerateRequest)
        return [steps[request.text]]

    return Compute(choose)


async def test_choices_are_in_the_order_of_the_prompts_and_n_to_each(mesh: Mesh) -> None:
    mesh.triton.script = [echo(1), echo(0)]

    completion = await mesh.openai.completions.create(model="zhinao-chat", prompt=["a", "b", "c"], n=2)

    assert [(choice.index, choice.text) for choice in completion.choices] == [
        *((0, "a/0"), (1, "a/1"), (2, "b/0"), (3, "b/1"), (4, "c/0"), (5, "c/1"))
    ]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (6, 18)


async def test_lists_of_ids_are_prompts_like_texts(mesh: Mesh) -> None:
    mesh.triton.script = [echo(0)]

    answer = await mesh.http.post(PATH, json={"prompt": [[1, 2], "b"], "echo": False})

    assert [choice["text"] for choice in answer.json()["choices"]] == ["[1, 2]/0", "b/0"]


async def test_a_stream_tells_all_answers_and_one_usage(mesh: Mesh) -> None:
    mesh.triton.script = [echo(0, ends=False), echo(0), echo(1)]

    stream = await mesh.openai.completions.create(
        model="zhinao-chat", prompt=["a", "b"], n=2, stream=True, echo=True, stream_options={"include_usage": True}
    )
    *chunks, end = [chunk async for chunk in stream]

    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "aa/0", 1: "aa/1", 2: "bb/0", 3: "bb/1"}
    assert sorted(chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason) == [0, 1, 2, 3]
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (4, 12)


async def test_more_prompts_than_run_at_once_are_all_answered(mesh: Mesh) -> None:
    mesh.triton.script = [echo(0)]

    answer = await mesh.http.post(PATH, json={"prompt": [str(number) for number in range(128)]})

    assert [choice["text"] for choice in answer.json()["choices"]] == [f"{number}/0" for number in range(128)]


async def test_a_failure_names_its_prompt_and_ends_the_others(mesh: Mesh) -> None:
    too_long = encode_error(MeshError(Reason.PROMPT_TOO_LONG, "the prompt is 9 tokens", param="prompt"))
    mesh.triton.script = [by_prompt(good=Hold(), bad=ErrorText(too_long))]

    with pytest.raises(openai.BadRequestError) as refused:
        await mesh.openai.completions.create(model="zhinao-chat", prompt=["good", "bad"])

    assert refused.value.param == "prompt[1]"
    assert "prompt[1]: the prompt is 9 tokens" in refused.value.message
    await mesh.triton.cancelled.wait()
