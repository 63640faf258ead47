"""A plain BERT folder as 360Zhinao-search ships it: vectors against transformers' BertModel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel, BertTokenizer

from modelkit.precision import Precision
from services.embed_worker.encoder import load_encoder
from services.embed_worker.request import EmbedRequest, Truncate
from tests.fixtures.tiny_bert import TINY, VOCABULARY, save_tiny_bert

NUM_TOKENS, LIMIT = 21_128, TINY["max_position_embeddings"]
INSTRUCTION = "为这个句子生成表示以用于检索相关文章："
TEXTS = ("天空是什么颜色的", "What is the color of the sky?", "cat dog " * 50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """No modules.json, no tokenizer.json, and weights of torch's own format."""
    save_tiny_bert(tmp_path, vocab_size=NUM_TOKENS)
    unused = [f"[unused{number}]" for number in range(NUM_TOKENS - len(VOCABULARY))]
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY, *unused]) + "\n", "utf-8")
    (weights,) = tmp_path.glob("*.safetensors")
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "pytorch_model.bin", "vocab.txt"}
    return tmp_path


@torch.inference_mode()
def reference(folder: Path, texts: list[str]) -> list[list[float]]:
    """The first token's state at length one."""
    model, tokenizer = BertModel.from_pretrained(folder).eval(), BertTokenizer(str(folder / "vocab.txt"))
    batch = tokenizer(texts, truncation=True, max_length=LIMIT, padding=True, return_tensors="pt")
    states = model(**batch).last_hidden_state[:, 0]
    return torch.nn.functional.normalize(states, dim=-1).tolist()


@pytest.mark.parametrize(("is_query", "before"), [(False, ""), (True, INSTRUCTION)])
def test_vectors_are_the_first_tokens_states_at_length_one(folder: Path, *, is_query: bool, before: str) -> None:
    encoder = load_encoder(folder, Precision.FP32)
    rows = encoder.prepare(EmbedRequest(TEXTS, is_query, None, None, Truncate.END, None))

    found = encoder.encode([row.token_ids for row in rows])

    expected = reference(folder, [before + text for text in TEXTS])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    assert encoder.max_tokens == len(rows[2].token_ids) == LIMIT
    assert [row.truncated_tokens > 0 for row in rows] == [False, False, True]
