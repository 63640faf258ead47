"""Log-probabilities against transformers, and what a request says of when its answer ends, on tiny checkpoints."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from meshkit.errors import Reason
from modelkit.tokenizer import load_tokenizer
from tests.adapter.chat_calls import USER, answer, chat, failure, greedy
from tests.adapter.conftest import MakeAdapter
from tests.fixtures.tiny_llama import write_tiny_llama
from zhinao.chat.v1 import chat_pb2
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse, SamplingParams, StopConditions, TokenPrompt

PROMPT = [5, 200, 77, 900, 31, 31, 640, 12]


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama"))


def reference_logprobs(folder: Path, ids: list[int]) -> torch.Tensor:
    """(tokens, vocab) log-probabilities of what follows each token, as transformers computes them."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    return logits[:, : load_tokenizer(folder).vocab_size].log_softmax(-1)


def tokens_of(pieces: list[GenerateResponse]) -> list[int]:
    return [token_id for piece in pieces for token_id in piece.token_ids]


@pytest.mark.parametrize("max_step_tokens", ["512", "3"], ids=["whole", "chunked"])
def test_log_probabilities_of_prompt_and_answer_are_those_of_transformers(
    make_adapter: MakeAdapter, tiny_llama: Path, max_step_tokens: str
) -> None:
    adapter = make_adapter(model_path=str(tiny_llama), max_step_tokens=max_step_tokens)
    tokens = TokenPrompt(ids=PROMPT)
    request = GenerateRequest(tokens=tokens, top_logprobs=3, prompt_logprobs=2, **greedy(8))
    first, pieces = answer(adapter, request), answer(adapter, request)  # by now the prompt is in the prefix cache

    assert pieces[0].prompt_logprobs == first[0].prompt_logprobs
    expected = reference_logprobs(tiny_llama, PROMPT + tokens_of(pieces))
    prompt = pieces[0].prompt_logprobs
    assert [each.token.id for each in prompt] == PROMPT
    assert (prompt[0].token.logprob, len(prompt[0].top)) == (0.0, 0)
    scores = [*prompt[1:], *(each for piece in pieces for each in piece.logprobs)]
    assert len(scores) == len(expected) - 1
    for row, each in zip(expected, scores, strict=False):
        assert each.token.logprob == pytest.approx(float(row[each.token.id]), abs=1e-4)
        best = row.topk(len(each.top)).values.tolist()
        assert [top.logprob for top in each.top] == pytest.approx(best, abs=1e-4)
    assert {len(each.top) for each in prompt[1:]} == {2}


def test_the_bytes_of_the_log_probabilities_are_the_text_however_characters_are_split(
    make_adapter: MakeAdapter, endless_zhinao: Path
) -> None:
    adapter = make_adapter(model_path=str(endless_zhinao))
    for seed in range(4):
        hot = SamplingParams(temperature=2, seed=seed)
        request = chat((USER, "你好"), sampling=hot, stop=StopConditions(max_tokens=60), top_logprobs=0)
        pieces = answer(adapter, request)
        data = b"".join(each.token.data for piece in pieces for each in piece.logprobs)
        assert data.decode("utf-8", errors="replace") == "".join(piece.text for piece in pieces)


def test_an_answer_is_no_shorter_than_asked_and_goes_on_where_its_end_is_ignored(
    make_adapter: MakeAdapter, tiny_zhinao: Path
) -> None:
    adapter = make_adapter()
    request = chat((USER, "hi"), **greedy(24))
    first = tokens_of(answer(adapter, request))[0]
    request.stop.token_ids.append(first)
    assert tokens_of(answer(adapter, request)) == []
    request.stop.min_tokens = 5
    assert len(tokens_of(answer(adapter, request))) >= 5

    request = chat((USER, "hi"), **greedy(24))
    request.sampling.allowed_token_ids.append(first)
    request.sampling.logit_bias[load_tokenizer(tiny_zhinao).control_ids["<|im_end|>"]] = 100
    ended = answer(adapter, request)
    assert (tokens_of(ended), ended[-1].finish_reason) == ([], chat_pb2.FINISH_REASON_STOP)
    request.stop.ignore_eos = True
    endless = answer(adapter, request)
    assert tokens_of(endless) == [first] * 24
    assert endless[-1].finish_reason == chat_pb2.FINISH_REASON_LENGTH


def test_parameters_change_what_is_chosen(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    request = chat((USER, "hi"), **greedy(16))
    request.stop.ignore_eos = True
    plain = tokens_of(answer(adapter, request))

    request.sampling.bad_token_ids.append(plain[0])
    assert plain[0] not in tokens_of(answer(adapter, request))
    request.sampling.bad_token_ids.clear()
    request.sampling.logit_bias[9] = 100
    assert tokens_of(answer(adapter, request)) == [9] * 16
    request.sampling.frequency_penalty = 2
    request.sampling.logit_bias[9] = 99
    request.sampling.logit_bias[10] = 98
    assert set(tokens_of(answer(adapter, request))) == {9, 10}


def test_a_request_that_leaves_nothing_to_choose_is_told_so(make_adapter: MakeAdapter) -> None:
    request = chat((USER, "hi"), **greedy(4))
    request.sampling.allowed_token_ids.append(7)
    request.sampling.bad_token_ids.append(7)
    request.stop.ignore_eos = True
    error = failure(make_adapter(), request)
    assert error.reason is Reason.INVALID_REQUEST
    assert "allowed_token_ids" in error.message


def test_every_answer_of_several_equals_the_single_one_of_its_seed(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    request = chat((USER, "hi"), sampling=SamplingParams(seed=40, top_p=0.9), stop=StopConditions(max_tokens=8), n=3)
    pieces = answer(adapter, request)
    ends = {piece.index: piece for piece in pieces if piece.finish_reason}
    assert sorted(ends) == [0, 1, 2]
    for index, end in ends.items():
        alone = chat((USER, "hi"), sampling=SamplingParams(seed=end.seed, top_p=0.9), stop=request.stop)
        expected = tokens_of(answer(adapter, alone))
        assert tokens_of([piece for piece in pieces if piece.index == index]) == expected
