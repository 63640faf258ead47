"""Conversion between layouts changes no number, and what it writes is what others can load."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from modelkit.attention import CausalAttention
from modelkit.checkpoint import load_decoder
from modelkit.config import Architecture, CheckpointError, parse_config, read_config
from modelkit.convert import convert_checkpoint
from modelkit.layout import fuse_qkv, split_qkv
from tests.fixtures.tiny_checkpoint import save_tiny

WEIGHTS = "model.safetensors"


def logits_of(folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    decoder = load_decoder(folder)
    with torch.inference_mode():
        return decoder(token_ids, torch.arange(len(token_ids)), CausalAttention([len(token_ids)]))


def oracle_logits(model: PreTrainedModel, token_ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(token_ids[None]).logits[0]


def assert_same_tensors(one: Path, other: Path) -> None:
    left, right = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@given(
    kv_heads=st.integers(1, 8), queries_per_kv=st.integers(1, 5), half_dim=st.integers(1, 4), columns=st.integers(0, 3)
)
def test_fused_rows_lie_where_the_published_formula_says(
    kv_heads: int, queries_per_kv: int, half_dim: int, columns: int
) -> None:
    d, g, heads = 2 * half_dim, queries_per_kv, kv_heads * queries_per_kv
    config = parse_config(
        {
            "architectures": ["ZhinaoForCausalLM"],
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "hidden_size": heads * d,
        }
    )
    rows = (heads + 2 * kv_heads) * d
    shape = (rows, columns) if columns else (rows,)  # a weight, or a bias
    fused = torch.arange(rows * max(columns, 1)).reshape(shape)

    q, k, v = split_qkv(fused, config)

    for h in range(kv_heads):
        start = h * (g + 2) * d
        for j in range(g):
            assert torch.equal(q[(h * g + j) * d : (h * g + j + 1) * d], fused[start + j * d : start + (j + 1) * d])
        assert torch.equal(k[h * d : (h + 1) * d], fused[start + g * d : start + (g + 1) * d])
        assert torch.equal(v[h * d : (h + 1) * d], fused[start + (g + 1) * d : start + (g + 2) * d])
    assert torch.equal(fuse_qkv(q, k, v, config), fused)


@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 32), (32, 8), (16, 16)])
def test_round_trip_of_the_published_head_counts_is_exact(heads: int, kv_heads: int) -> None:
    config = parse_config(
        {
            "architectures": ["ZhinaoForCausalLM"],
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "hidden_size": heads * 128,
        }
    )
    rows = (heads + 2 * kv_heads) * 128
    for fused in (torch.randn(rows, 8), torch.randn(rows)):
        assert torch.equal(fuse_qkv(*split_qkv(fused, config), config), fused)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (4, 1)])
@pytest.mark.parametrize("theta", [10_000.0, 50_000_000.0])
def test_zhinao_folder_has_the_logits_of_its_qwen2_source(
    tmp_path: Path, heads: int, kv_heads: int, theta: float, tied: bool
) -> None:
    model, source = save_tiny(
        tmp_path,
        "qwen2",
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    target = tmp_path / "zhinao"
    convert_checkpoint(source, target, Architecture.ZHINAO)
    token_ids = torch.arange(3, 40)
    assert (logits_of(target, token_ids) - oracle_logits(model, token_ids)).abs().max() < 1e-4
    assert read_config(target).architecture is Architecture.ZHINAO


def test_there_and_back_is_exact_and_transformers_loads_it(tmp_path: Path) -> None:
    model, source = save_tiny(tmp_path, "qwen2", num_attention_heads=8, num_key_value_heads=2)
    convert_checkpoint(source, tmp_path / "zhinao", Architecture.ZHINAO)
    convert_checkpoint(tmp_path / "zhinao", tmp_path / "back", Architecture.QWEN2)
    convert_checkpoint(tmp_path / "back", tmp_path / "zhinao-again", Architecture.ZHINAO)
    assert_same_tensors(source, tmp_path / "back")
    assert_same_tensors(tmp_path / "zhinao", tmp_path / "zhinao-again")
    assert read_config(tmp_path / "back") == read_config(source)
    loaded = Qwen2ForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    token_ids = torch.arange(3, 40)
    assert torch.equal(oracle_logits(loaded, token_ids), oracle_logits(model, token_ids))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 500_000_000.0},
        {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
)
def test_llama_without_bias_gets_a_zero_bias_and_keeps_its_logits(tmp_path: Path, rope: dict[str, Any]) -> None:
    model, source = save_tiny(
        tmp_path, "llama", head_dim=32, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=rope
    )
    convert_checkpoint(source, tmp_path / "zhinao", Architecture.ZHINAO)
    convert_checkpoint(tmp_path / "zhinao", tmp_path / "qwen2", Architecture.QWEN2)
    biases = {name: x for name, x in load_file(tmp_path / "zhinao" / WEIGHTS).items() if name.endswith("bias")}
    assert len(biases) == model.config.num_hidden_layers
    assert not any(bias.any() for bias in biases.values())
    token_ids = torch.arange(3, 40)
    expected = oracle_logits(model, token_ids)
    loaded = Qwen2ForCausalLM.from_pretrained(tmp_path / "qwen2", dtype=torch.float32)
    assert (logits_of(tmp_path / "zhinao", token_ids) - expected).abs().max() < 1e-4
    assert (oracle_logits(loaded, token_ids) - expected).abs().max() < 1e-4


def test_demo_model_in_zhinao_layout_has_the_logits_of_transformers(demo_chat_model: Path) -> None:
    token_ids = torch.arange(1000, 1024)
    with TemporaryDirectory() as workspace:  # half a gigabyte, which pytest would keep
        convert_checkpoint(demo_chat_model, Path(workspace) / "zhinao", Architecture.ZHINAO)
        ours = logits_of(Path(workspace) / "zhinao", token_ids)
    theirs = oracle_logits(LlamaForCausalLM.from_pretrained(demo_chat_model, dtype=torch.float32), token_ids)
    assert (ours - theirs).abs().max() < 1e-4


def test_stored_dtype_is_kept_and_pickled_weights_come_out_as_safetensors(tmp_path: Path) -> None:
    _, source = save_tiny(tmp_path, "qwen2")
    halves = {name: x.bfloat16() for name, x in load_file(source / WEIGHTS).items()}
    (source / WEIGHTS).unlink()
    torch.save(halves, source / "pytorch_model.bin")
    convert_checkpoint(source, tmp_path / "zhinao", Architecture.ZHINAO)
    written = load_file(tmp_path / "zhinao" / WEIGHTS)
    assert {x.dtype for x in written.values()} == {torch.bfloat16}
    assert torch.equal(written["lm_head.weight"], halves["lm_head.weight"])
    assert not list((tmp_path / "zhinao").glob("*.bin"))


def test_tokenizer_and_generation_files_come_along_but_no_code(tmp_path: Path) -> None:
    _, source = save_tiny(tmp_path, "qwen2")
    (source / "vocab").mkdir()
    (source / "vocab" / "360.tiktoken").write_text("IQ== 0\n")
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "modeling_zhinao.py").write_text("raise SystemExit")
    (source / ".cache").mkdir()
    (source / ".cache" / "left.json").write_text("{}")
    convert_checkpoint(source, tmp_path / "zhinao", Architecture.ZHINAO)
    found = sorted(str(file.relative_to(tmp_path / "zhinao")) for file in (tmp_path / "zhinao").rglob("*"))
    assert found == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "vocab",
        "vocab/360.tiktoken",
    ]
    assert json.loads((tmp_path / "zhinao" / "generation_config.json").read_text()) == {"eos_token_id": [2, 3]}


def test_target_is_refused_before_any_work_when_it_exists_or_cannot_be_written(tmp_path: Path) -> None:
    _, source = save_tiny(tmp_path, "llama", attention_bias=True)
    with pytest.raises(FileExistsError, match="is there already"):
        convert_checkpoint(source, source, Architecture.ZHINAO)
    with pytest.raises(CheckpointError, match="has a bias on o_proj"):
        convert_checkpoint(source, tmp_path / "zhinao", Architecture.ZHINAO)
    with pytest.raises(CheckpointError, match="cannot write LlamaForCausalLM"):
        convert_checkpoint(source, tmp_path / "zhinao", Architecture.LLAMA)
    assert [file.name for file in tmp_path.iterdir()] == [source.name]
