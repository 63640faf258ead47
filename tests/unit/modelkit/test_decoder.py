"""The decoder gives the logits of transformers' Llama and Qwen2."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from modelkit.attention import CausalAttention
from modelkit.checkpoint import load_decoder
from modelkit.decoder import Decoder
from tests.fixtures.tiny_checkpoint import save_tiny

LENGTHS = [5, 1, 12]


def random_sequences(vocab_size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(vocab_size, (length,), generator=generator) for length in LENGTHS]


def packed_logits(decoder: Decoder, sequences: list[Tensor]) -> list[Tensor]:
    lengths = [len(sequence) for sequence in sequences]
    positions = torch.cat([torch.arange(length) for length in lengths])
    with torch.inference_mode():
        logits = decoder(torch.cat(sequences), positions, CausalAttention(lengths))
    return list(logits.split(lengths))


def oracle_logits(model: PreTrainedModel, sequences: list[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        return [model(sequence[None]).logits[0] for sequence in sequences]


LLAMA3_1 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("llama", {"num_key_value_heads": 1, "attention_bias": True}),
        ("llama", {"head_dim": 32, "num_key_value_heads": 2}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000_000.0}}),
        ("llama", {"rope_parameters": {"rope_theta": 10_000.0} | LLAMA3_1}),
        ("qwen2", {}),
        ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 50_000_000.0}}),
    ],
    ids=str,
)
def test_packed_sequences_have_the_logits_of_transformers_one_by_one(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    model, folder = save_tiny(tmp_path, family, **changes)
    sequences = random_sequences(model.config.vocab_size)
    for ours, theirs in zip(
        packed_logits(load_decoder(folder), sequences), oracle_logits(model, sequences), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-4


def test_only_the_rows_asked_for_reach_the_head(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    decoder = load_decoder(folder)
    token_ids, positions, rows = torch.arange(9), torch.arange(9), torch.tensor([8, 2])
    seen: list[int] = []
    decoder.head.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.inference_mode():
        every = decoder(token_ids, positions, CausalAttention([9]))
        chosen = decoder(token_ids, positions, CausalAttention([9]), rows)
    torch.testing.assert_close(chosen, every[rows])
    assert seen == [9, 2]


def test_tokens_do_not_see_the_sequence_before_them(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "qwen2")
    decoder = load_decoder(folder)
    one, other, last = random_sequences(96)[0], torch.arange(5), torch.arange(20, 27)
    torch.testing.assert_close(packed_logits(decoder, [one, last])[1], packed_logits(decoder, [other, last])[1])


def test_lengths_that_do_not_sum_to_the_step_are_refused(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    with pytest.raises(ValueError, match="has 4 tokens, the lengths given sum to 5"):
        load_decoder(folder)(torch.arange(4), torch.arange(4), CausalAttention([3, 2]))


def test_demo_model_has_the_logits_of_transformers(demo_chat_model: Path) -> None:
    decoder = load_decoder(demo_chat_model)
    oracle = LlamaForCausalLM.from_pretrained(demo_chat_model, dtype=torch.float32)
    # Alone, not packed: two matrix shapes differ by 1e-4 in the oracle itself, whose logits reach 40.
    for sequence in random_sequences(oracle.config.vocab_size):
        (ours,), (theirs,) = packed_logits(decoder, [sequence]), oracle_logits(oracle, [sequence])
        assert (ours - theirs).abs().max() < 1e-4
