"""The official openai client asks the real mesh for several answers, echoes, log-probabilities and biases."""

from collections import defaultdict
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from modelkit.tokenizer import load_tokenizer
from tests.e2e.conftest import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ASK: dict[str, Any] = {
    "model": "zhinao-chat",
    "messages": [{"role": "user", "content": "Name an animal."}],
    "max_tokens": 12,
}


def test_several_answers_are_those_of_their_own_seeds_streamed_or_not(mesh: Mesh) -> None:
    client = mesh.client()
    whole = client.chat.completions.create(**ASK, n=3, seed=20, temperature=1)
    streamed: defaultdict[int, str] = defaultdict(str)
    finishes: list[int] = []
    for chunk in client.chat.completions.create(**ASK, n=3, seed=20, temperature=1, stream=True):
        (choice,) = chunk.choices
        streamed[choice.index] += choice.delta.content or ""
        finishes += [choice.index] if choice.finish_reason else []
    alone = [client.chat.completions.create(**ASK, seed=20 + index, temperature=1) for index in range(3)]

    texts = [choice.message.content for choice in whole.choices]
    assert texts == [each.choices[0].message.content for each in alone] == [streamed[index] for index in range(3)]
    assert sorted(finishes) == [0, 1, 2]
    assert len(set(texts)) > 1
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == alone[0].usage.prompt_tokens  # type: ignore[union-attr]
    assert whole.usage.completion_tokens == sum(each.usage.completion_tokens for each in alone)  # type: ignore[union-attr]


def test_echoed_log_probabilities_are_those_of_transformers(mesh: Mesh) -> None:
    folder = mesh.checkpoints["tiny/llama"]  # in fp32, as transformers computes
    ids = load_tokenizer(folder).encode("The capital of France is")
    answer = mesh.client().completions.create(
        model="tiny/llama", prompt=ids, max_tokens=1, temperature=0, logprobs=2, echo=True
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    expected = logits[:, : load_tokenizer(folder).vocab_size].log_softmax(-1)

    (choice,) = answer.choices
    assert choice.text.startswith("The capital of France is")
    assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
    first, *others = choice.logprobs.token_logprobs
    assert first is None
    assert others[:-1] == pytest.approx([float(expected[at, token]) for at, token in enumerate(ids[1:])], abs=1e-4)
    assert others[-1] == pytest.approx(float(expected[-1].max()), abs=1e-4)
    assert choice.logprobs.text_offset is not None and choice.logprobs.tokens is not None
    for offset, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True):
        assert choice.text[offset : offset + len(token)] == token


def test_a_bias_decides_and_a_ban_holds(mesh: Mesh) -> None:
    client = mesh.client()
    (wanted,) = load_tokenizer(mesh.checkpoints["zhinao-chat"]).encode(" cat")
    biased = client.chat.completions.create(**ASK, temperature=0, logit_bias={str(wanted): 100}, logprobs=True)
    assert biased.choices[0].message.content == " cat" * 12
    banned = client.chat.completions.create(**ASK, temperature=0, extra_body={"bad_token_ids": [wanted]})
    assert banned.choices[0].message.content
    fewest = client.chat.completions.create(
        **ASK, temperature=0, extra_body={"ignore_eos": True, "min_tokens": 12, "repetition_penalty": 1.3}
    )
    assert fewest.usage is not None and fewest.usage.completion_tokens == 12


def test_nothing_to_choose_is_a_400_that_says_so(mesh: Mesh) -> None:
    nothing = {"allowed_token_ids": [5], "bad_token_ids": [5], "ignore_eos": True}
    with pytest.raises(openai.BadRequestError, match="allowed_token_ids"):
        mesh.client().chat.completions.create(**ASK, extra_body=nothing)
