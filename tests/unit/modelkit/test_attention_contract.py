"""Every paged attention gives what attention over whole sequences without a cache gives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from modelkit.attention import Attention, CausalAttention
from modelkit.config import DecoderConfig
from modelkit.decoder import Decoder
from modelkit.flash import FlashAttention
from modelkit.native.build import available
from modelkit.native.library import open_library
from modelkit.native.model import NativeDecoder, NativeWeights
from modelkit.native.packing import Format
from modelkit.paged import KVPool, PagedAttention, Segment, Step
from tests.fakes import flash_attn
from tests.fixtures.tiny_decoder import tiny_config

TOLERANCE = 1e-5  # fp32, inputs of unit variance
NUM_LAYERS = 2


@dataclass(frozen=True)
class Implementation:
    """block_len: what it is tried with. make_cache: an empty cache of 16 blocks. attention: a step's over it."""

    block_len: int
    make_cache: Callable[[DecoderConfig, int], Any]
    attention: Callable[[Any, Step], Attention]


def make_pool(config: DecoderConfig, block_len: int) -> KVPool:
    pool = KVPool(config, num_blocks=16, block_len=block_len, like=torch.empty(0))
    pool.keys.fill_(torch.nan)  # what nobody wrote must not be read
    pool.values.fill_(torch.nan)
    return pool


def make_native(config: DecoderConfig, block_len: int, *, name: str) -> NativeDecoder:
    weights = NativeWeights.build(config, Decoder(config).named_parameters(), Format.FP32)
    cache = NativeDecoder(weights, open_library(name), num_blocks=16, block_len=block_len)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return cache


def native_attention(cache: NativeDecoder, step: Step) -> Attention:
    return lambda layer, q, k, v: cache.attend(layer, step, q, k, v)


IMPLEMENTATIONS = {
    "sdpa": Implementation(16, make_pool, PagedAttention),
    "flash-attn": Implementation(256, make_pool, partial(FlashAttention, kernels=flash_attn)),
} | {f"native {name}": Implementation(32, partial(make_native, name=name), native_attention) for name in available()}

Steps = list[dict[str, int]]  # the new tokens of each sequence, step by step

# name: the steps, by the block length
CASES: dict[str, Callable[[int], Steps]] = {
    "a prompt of one token, then decode": lambda _: [{"a": 1}, {"a": 1}, {"a": 1}],
    "chunks of a prompt over what was computed before": lambda block: [{"a": 5}, {"a": 7}, {"a": block}, {"a": 3}],
    "prefill and decode in one step": lambda block: [{"a": 7}, {"a": 1, "b": 9}, {"b": 1, "c": block + 3, "a": 1}],
    "contexts that end at the border of a block": lambda block: [
        {"a": block - 1, "b": block, "c": block + 1},
        *[{"a": 1, "b": 1, "c": 1}] * 2,
    ],
    "decode of many lengths": lambda block: [{"a": 1, "b": 2 * block, "c": 17}, *[{"c": 1, "a": 1, "b": 1}] * 3],
    "several tokens after a context, as a draft is checked": lambda block: [{"a": block - 2, "b": 4}, {"a": 5, "b": 5}],
}


@dataclass(frozen=True)
class Sequence:
    """q, k and v of a whole sequence in every layer, and the blocks it lies in."""

    q: Tensor  # (layers, length, heads, head_dim)
    k: Tensor  # (layers, length, kv_heads, head_dim)
    v: Tensor
    block_ids: list[int]

    def expected(self, layer: int) -> Tensor:
        return CausalAttention([self.q.shape[1]])(layer, self.q[layer], self.k[layer], self.v[layer])


def make_sequence(config: DecoderConfig, length: int, block_ids: list[int], seed: int) -> Sequence:
    generator = torch.Generator().manual_seed(seed)
    heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    q, k, v = (torch.randn(NUM_LAYERS, length, count, config.head_dim, generator=generator) for count in heads)
    return Sequence(q, k, v, block_ids)


def run_step(implementation: Implementation, cache: object, parts: list[tuple[Sequence, int, int]]) -> None:
    """Compute (sequence, start, new tokens) together and compare each token in each layer with the oracle."""
    segments = [
        Segment([0] * new, start, sequence.block_ids[: -(-(start + new) // implementation.block_len)])
        for sequence, start, new in parts
    ]
    attend = implementation.attention(cache, Step.build(segments))
    for layer in range(NUM_LAYERS):
        new_rows = [
            torch.cat([getattr(sequence, name)[layer, start : start + new] for sequence, start, new in parts])
            for name in "qkv"
        ]
        wanted = [sequence.expected(layer)[start : start + new] for sequence, start, new in parts]
        assert (attend(layer, *new_rows) - torch.cat(wanted)).abs().max() < TOLERANCE


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys())
def implementation(request: pytest.FixtureRequest) -> Implementation:
    return request.param


@pytest.fixture(params=[(4, 4, 64), (6, 2, 64), (4, 1, 128)], ids=["gqa1-d64", "gqa3-d64", "gqa4-d128"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    num_heads, num_kv_heads, head_dim = request.param
    return tiny_config(num_layers=NUM_LAYERS, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_token_sees_its_own_past_and_nothing_else(
    implementation: Implementation, config: DecoderConfig, case: Callable[[int], Steps]
) -> None:
    block_len = implementation.block_len
    steps = case(block_len)
    names = sorted({name for step in steps for name in step})
    sequences = {
        name: make_sequence(config, sum(step.get(name, 0) for step in steps), [3 + place, 9 + place, place], place)
        for place, name in enumerate(names)
    }
    starts = dict.fromkeys(names, 0)
    cache = implementation.make_cache(config, block_len)
    for step in steps:
        run_step(implementation, cache, [(sequences[name], starts[name], new) for name, new in step.items()])
        for name, new in step.items():
            starts[name] += new


def test_a_block_shared_by_two_sequences_serves_both(implementation: Implementation, config: DecoderConfig) -> None:
    block_len = implementation.block_len
    first = make_sequence(config, block_len + 9, [7, 2], seed=1)
    other = make_sequence(config, block_len + 5, [7, 11], seed=2)
    for name in "kv":  # the same tokens, so the same keys and values
        getattr(other, name)[:, :block_len] = getattr(first, name)[:, :block_len]
    cache = implementation.make_cache(config, block_len)
    run_step(implementation, cache, [(first, 0, block_len + 8)])
    run_step(implementation, cache, [(other, block_len, 4), (first, block_len + 8, 1)])
    run_step(implementation, cache, [(other, block_len + 4, 1)])
