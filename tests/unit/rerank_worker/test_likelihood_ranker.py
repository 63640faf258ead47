"""Query likelihood against transformers' log-probabilities."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from modelkit.precision import Precision
from modelkit.tokenizer import load_tokenizer
from services.rerank_worker import ranker as ranker_module
from services.rerank_worker.ranker import load_ranker
from services.rerank_worker.request import Pair, RerankRequest

QUERY = "what was quiet before sunrise?"
DOCUMENTS = ("The harbour was quiet before sunrise.", "", "blue " * 200, "<|end_of_text|>", "图书馆的灯亮到很晚")


@torch.inference_mode()
def mean_log_likelihood(model: LlamaForCausalLM, pair: Pair, vocab_size: int) -> float:
    ids = [*pair.token_ids, pair.targets[-1]]
    logprobs = model(torch.tensor([ids])).logits[0, :, :vocab_size].log_softmax(-1)
    first = len(ids) - len(pair.targets)
    chosen = [float(logprobs[first - 1 + i, target]) for i, target in enumerate(pair.targets)]
    return sum(chosen) / len(chosen)


def test_scores_are_mean_log_likelihoods_of_the_query(tiny_llama: Path) -> None:
    ranker = load_ranker(tiny_llama, Precision.FP32)
    pairs = ranker.prepare(RerankRequest(QUERY, DOCUMENTS))
    model, vocab_size = LlamaForCausalLM.from_pretrained(tiny_llama), load_tokenizer(tiny_llama).vocab_size
    for pair, score in zip(pairs, ranker.score(pairs), strict=True):
        assert score == pytest.approx(mean_log_likelihood(model, pair, vocab_size), abs=1e-4)
        assert 0 < ranker.relevance(score) < 1


def test_the_query_is_what_is_scored_and_the_prompt_is_shared(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    pairs = load_ranker(tiny_llama, Precision.FP32).prepare(RerankRequest(f" {QUERY}\n", DOCUMENTS))
    assert {tokenizer.decode(pair.targets) for pair in pairs} == {f" {QUERY}"}
    assert {pair.token_ids[: pair.num_shared] for pair in pairs} == {
        (*tokenizer.prefix_ids, *tokenizer.encode("Passage: "))
    }
    assert all(DOCUMENTS[0] in tokenizer.decode(pair.token_ids) for pair in pairs[:1])


def test_steps_of_few_outputs_give_the_same_scores(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = load_ranker(tiny_llama, Precision.FP32).prepare(RerankRequest(QUERY, DOCUMENTS))
    wide = load_ranker(tiny_llama, Precision.FP32).score(pairs)
    monkeypatch.setattr(ranker_module, "_STEP_OUTPUTS", 3)
    monkeypatch.setattr(ranker_module, "_STEP_TOKENS", 7)
    ranker = load_ranker(tiny_llama, Precision.FP32)
    assert ranker.score(pairs) == pytest.approx(wide, abs=1e-5)
    assert ranker.score(pairs[::-1]) == pytest.approx(wide[::-1], abs=1e-5)


def test_neither_a_long_query_nor_a_long_document_erases_the_other(tiny_llama: Path) -> None:
    request = RerankRequest("sky " * 2000, ("blue " * 2000, "blue"))
    long, short = load_ranker(tiny_llama, Precision.FP32).prepare(request)
    tokenizer = load_tokenizer(tiny_llama)
    assert len(long.token_ids) + 1 == 512  # the model's positions
    document = tokenizer.encode("blue " * 2000)[: len(long.targets)]
    assert list(long.token_ids[long.num_shared :][: len(document)]) == document  # half each
    assert "blue" in tokenizer.decode(short.token_ids)
    assert len(short.targets) > len(long.targets)


def test_documents_are_cut_to_what_the_request_allows(tiny_llama: Path) -> None:
    ranker = load_ranker(tiny_llama, Precision.FP32)
    ids = load_tokenizer(tiny_llama).encode(DOCUMENTS[0])
    (whole,) = ranker.prepare(RerankRequest(QUERY, (DOCUMENTS[0],)))
    (cut,) = ranker.prepare(RerankRequest(QUERY, (DOCUMENTS[0],), 3))
    assert len(whole.token_ids) - len(cut.token_ids) == cut.truncated_tokens == len(ids) - 3
