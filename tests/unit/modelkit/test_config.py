"""config.json: what is read, what is assumed, what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from modelkit.config import Architecture, CheckpointError, parse_config, read_config
from modelkit.decoder import Decoder
from modelkit.rotary import inverse_frequencies
from modelkit.shapes import tensor_shapes

PUBLISHED = json.loads((Path(__file__).parents[2] / "fixtures" / "published_variants.json").read_text())
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def published_config(variant: dict[str, Any]) -> dict[str, Any]:
    content = {"architectures": ["ZhinaoForCausalLM"], "model_type": "zhinao", "vocab_size": 158464}
    content |= {key: value for key, value in variant.items() if key not in ("name", "shared")}
    content |= {key: value for key, value in PUBLISHED["shared"][variant["shared"]].items() if key != "parameters"}
    content |= {"auto_map": {"AutoConfig": "configuration_zhinao.ZhinaoConfig"}, "use_focal": False}
    if content["rope_theta"] is None:
        del content["rope_theta"]
    return content


@pytest.mark.parametrize("variant", PUBLISHED["variants"], ids=lambda variant: variant["name"])
def test_published_variant_has_its_parameter_count_and_rope_base(variant: dict[str, Any]) -> None:
    config = parse_config(published_config(variant))
    with torch.device("meta"):
        decoder = Decoder(config)
    assert (
        sum(parameter.numel() for parameter in decoder.parameters())
        == (PUBLISHED["shared"][variant["shared"]]["parameters"])
    )
    assert config.max_position_embeddings == variant["max_position_embeddings"]
    base = variant["rope_theta"] or 10000
    expected = torch.tensor([base ** (-2 * i / 128) for i in range(64)], dtype=torch.float64)
    torch.testing.assert_close(inverse_frequencies(config).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("shared", "qkv_shape", "qkv_bias", "gate_shape"),
    [
        ("7b", (12288, 4096), (12288,), (11008, 4096)),
        ("7b-gqa", (6144, 4096), (6144,), (13056, 4096)),
        ("1.8b", (6144, 2048), (6144,), (5632, 2048)),
    ],
)
def test_zhinao_layout_has_the_published_shapes(
    shared: str, qkv_shape: tuple[int, ...], qkv_bias: tuple[int, ...], gate_shape: tuple[int, ...]
) -> None:
    variant = next(variant for variant in PUBLISHED["variants"] if variant["shared"] == shared)
    config = parse_config(published_config(variant))
    shapes = dict(tensor_shapes(config))
    layer = "model.layers.0"
    assert len(shapes) == 8 * config.num_layers + 3
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (158464, qkv_shape[1])
    assert shapes[f"{layer}.self_attn.qkv_proj.weight"] == qkv_shape
    assert shapes[f"{layer}.self_attn.qkv_proj.bias"] == qkv_bias
    assert shapes[f"{layer}.mlp.gate_proj.weight"] == shapes[f"{layer}.mlp.up_proj.weight"] == gate_shape
    assert shapes[f"{layer}.mlp.down_proj.weight"] == gate_shape[::-1]


def test_silent_zhinao_config_takes_the_defaults_of_its_configuration_class() -> None:
    config = parse_config({"architectures": ["ZhinaoForCausalLM"]})
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (32000, 4096, 11008)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (32, 32, 32, 128)
    assert (config.norm_eps, config.rope_theta, config.max_position_embeddings) == (1e-6, 10000.0, 2048)
    assert (config.tie_word_embeddings, config.qkv_bias, config.rope_scaling) == (False, True, None)


def test_bias_of_the_projections_follows_the_architecture() -> None:
    for architecture, expected in (("LlamaForCausalLM", False), ("Qwen2ForCausalLM", True)):
        assert parse_config(LLAMA | {"architectures": [architecture]}).qkv_bias is expected
    config = parse_config(LLAMA | {"attention_bias": True})
    assert (config.qkv_bias, config.o_bias) == (True, True)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3"}},
        {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3"}},
    ],
)
def test_both_spellings_of_rope_settings_are_read(spelling: dict[str, Any]) -> None:
    numbers = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    nested = {key: value | numbers if isinstance(value, dict) else value for key, value in spelling.items()}
    config = parse_config(LLAMA | nested)
    assert config.rope_theta == 500000.0
    assert config.rope_scaling is not None
    assert (config.rope_scaling.factor, config.rope_scaling.original_max_position_embeddings) == (8.0, 8192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, r"architectures is \['MistralForCausalLM'\]"),
        ({"architectures": None}, "architectures is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .*sliding_attention"),
        ({"layer_types": 5}, "layer_types is 5"),
        ({"layer_types": [["full_attention"]]}, "layer_types is"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config is .*gptq"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is None"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps is inf"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple of num_attention_heads 4"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
    ],
)
def test_config_we_cannot_run_is_refused_with_key_and_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_config(LLAMA | change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b'{"archi', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "must hold a JSON object, not list"),
    ],
)
def test_broken_config_file_is_refused_by_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^[^:]*config.json {message}"):
        read_config(tmp_path)


def test_refusal_names_the_file_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"mlp_bias": True}))
    with pytest.raises(CheckpointError, match=r"config.json: mlp_bias is True"):
        read_config(tmp_path)


def test_sliding_window_that_is_not_in_use_is_no_obstacle() -> None:
    content = LLAMA | {"sliding_window": 4096, "use_sliding_window": False, "architectures": ["Qwen2ForCausalLM"]}
    assert parse_config(content).architecture is Architecture.QWEN2
