"""Rotary angles: exact where half precision would not be."""

import pytest
import torch

from modelkit.config import parse_config
from modelkit.rotary import Rotary, rotate

SHAPE = {
    "architectures": ["ZhinaoForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 256,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 160,
}


@pytest.mark.parametrize("base", [10_000.0, 50_000_000.0, 500_000_000.0])
def test_angles_are_right_at_the_far_end_of_the_longest_context(base: float) -> None:
    rotary = Rotary(parse_config(SHAPE | {"rope_theta": base}))
    positions = torch.tensor([0, 1, 4095, 364_999])
    cos, signed_sin = rotary.tables(positions)
    frequencies = base ** (-torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    angles = positions[:, None].double() * frequencies
    assert cos.dtype == torch.float32
    # fp32 angles near 365,000 are spaced 0.03 apart in the fastest pairs: half precision would be off by whole turns
    torch.testing.assert_close(cos[:3, 0, :64].double(), angles[:3].cos(), rtol=0, atol=5e-4)
    torch.testing.assert_close(cos[3, 0, :64].double(), angles[3].cos(), rtol=0, atol=5e-2)
    torch.testing.assert_close(signed_sin[..., :64], -signed_sin[..., 64:], rtol=0, atol=0)


def test_rotation_turns_component_t_with_its_partner_half_a_head_away() -> None:
    rotary = Rotary(parse_config(SHAPE))
    x = torch.zeros(1, 1, 128)
    x[0, 0, 3] = 1.0
    turned = rotate(x, *rotary.tables(torch.tensor([5])))
    angle = torch.tensor(5 * 10_000 ** (-2 * 3 / 128))
    torch.testing.assert_close(turned[0, 0, [3, 67]], torch.stack([angle.cos(), angle.sin()]))
    assert turned.count_nonzero() == 2


def test_scores_depend_on_the_distance_alone() -> None:
    rotary = Rotary(parse_config(SHAPE))
    q, k = torch.randn(2, 1, 1, 128, generator=torch.Generator().manual_seed(3))

    def score(q_at: int, k_at: int) -> torch.Tensor:
        return (rotate(q, *rotary.tables(torch.tensor([q_at]))) * rotate(k, *rotary.tables(torch.tensor([k_at])))).sum()

    torch.testing.assert_close(score(17, 4), score(1013, 1000), rtol=1e-3, atol=1e-3)


def test_half_precision_input_keeps_its_dtype_and_is_turned_in_fp32() -> None:
    rotary = Rotary(parse_config(SHAPE))
    x = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(3)).bfloat16()
    tables = rotary.tables(torch.tensor([3000, 4000]))
    turned = rotate(x, *tables)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), *tables).bfloat16())
