"""Cross-encoders against transformers' BertForSequenceClassification."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer

from modelkit.config import CheckpointError
from modelkit.precision import Precision
from services.rerank_worker.ranker import load_ranker
from services.rerank_worker.request import Pair, RerankRequest
from tests.fixtures.tiny_bert import save_tiny_bert

QUERY = "what is the color?"
DOCUMENTS = ("the sky is blue", "", "天空是蓝色的", "[SEP] dog [CLS]", "cat dog " * 40)


@torch.inference_mode()
def reference(folder: Path, pair: Pair) -> list[float]:
    types = [int(at >= pair.num_shared) for at in range(len(pair.token_ids))]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    return model(torch.tensor([pair.token_ids]), token_type_ids=torch.tensor([types])).logits[0].tolist()


def test_scores_are_the_logits_of_transformers(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True)
    ranker = load_ranker(tmp_path, Precision.FP32)
    pairs = ranker.prepare(RerankRequest(QUERY, DOCUMENTS))
    scores = ranker.score(pairs)
    for pair, score in zip(pairs, scores, strict=True):
        assert score == pytest.approx(reference(tmp_path, pair)[0], abs=1e-4)
        assert ranker.relevance(score) == pytest.approx(float(torch.tensor(score).sigmoid()))
    assert [ranker.score([pair])[0] for pair in pairs] == scores


def test_pairs_are_framed_and_cut_as_transformers_does(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True)
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    pairs = load_ranker(tmp_path, Precision.FP32).prepare(RerankRequest(QUERY, DOCUMENTS))
    for document, pair in zip(DOCUMENTS, pairs, strict=True):
        if "[" in document:
            continue  # there it makes control tokens of text
        wanted = tokenizer([QUERY], [document], truncation="only_second", max_length=48)
        assert list(pair.token_ids) == wanted["input_ids"][0]
        assert len(pair.token_ids) - pair.num_shared == sum(wanted["token_type_ids"][0])
    assert [pair.truncated_tokens > 0 for pair in pairs] == [False, False, False, False, True]


def test_of_two_labels_the_second_is_relevant(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True, num_labels=2)
    ranker = load_ranker(tmp_path, Precision.FP32)
    (pair,) = ranker.prepare(RerankRequest(QUERY, DOCUMENTS[:1]))
    probabilities = torch.tensor(reference(tmp_path, pair)).softmax(0)
    assert ranker.relevance(ranker.score([pair])[0]) == pytest.approx(float(probabilities[1]), abs=1e-5)


def test_more_labels_are_refused(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True, num_labels=3)
    with pytest.raises(CheckpointError, match="classifier has 3 labels, must have 1 or 2"):
        load_ranker(tmp_path, Precision.FP32)


def test_a_network_without_a_type_for_the_second_text_is_refused(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True, type_vocab_size=1)
    with pytest.raises(CheckpointError, match="type_vocab_size is 1, a pair's second text has type 1"):
        load_ranker(tmp_path, Precision.FP32)


def test_a_long_query_leaves_half_of_the_room_to_the_document(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True)
    request = RerankRequest("cat " * 60, ("dog " * 60, "dog"))
    long, short = load_ranker(tmp_path, Precision.FP32).prepare(request)
    room = 48 - 3
    assert (len(long.token_ids), long.num_shared) == (48, room // 2 + 2)
    assert (len(short.token_ids), short.num_shared) == (48, room - 1 + 2)
    assert (long.truncated_tokens, short.truncated_tokens) == (120 - room, 61 - room)


def test_documents_are_cut_to_what_the_request_allows(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True)
    (pair,) = load_ranker(tmp_path, Precision.FP32).prepare(RerankRequest(QUERY, ("dog dog cat",), 2))
    assert (len(pair.token_ids) - pair.num_shared, pair.truncated_tokens) == (3, 1)


def test_a_calibration_is_applied_and_its_threshold_reported(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, classifier=True)
    (tmp_path / "calibration.json").write_text(json.dumps({"temperature": 2.0, "threshold": 0.3}))
    ranker = load_ranker(tmp_path, Precision.FP32)
    assert ranker.threshold == 0.3
    assert ranker.relevance(1.5) == pytest.approx(float(torch.tensor(0.75).sigmoid()))
