"""On a real GPU: flash-attn and recorded graphs give what the plain decoder gives on the CPU."""

import pytest
import torch

from modelkit.cuda_graphs import GraphedDecoder
from modelkit.devices import paged_model
from modelkit.paged import PagedDecoder, Segment, Step
from tests.fixtures.tiny_decoder import tiny_decoder

SIZES = {"num_blocks": 8, "block_len": 256}
TOLERANCE = 0.02  # of logits up to 1; bf16 on the CPU stays within 0.005


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that CUDA can use")
def test_prefill_and_decode_on_the_gpu_give_the_logits_of_the_cpu() -> None:
    pytest.importorskip("flash_attn", reason="flash-attn is not installed: pip install .[gpu]")
    slow = PagedDecoder(tiny_decoder(head_dim=64), **SIZES)
    on_gpu = tiny_decoder(head_dim=64).to(torch.device("cuda"), torch.bfloat16)
    fast = paged_model(on_gpu, **SIZES, max_batch=4, max_context=512)
    assert isinstance(fast, GraphedDecoder)
    steps = [Step.build([Segment([7] * (250 + index), 0, [2 * index, 2 * index + 1]) for index in range(3)])]
    for rounds in range(8):  # across the border of a block
        starts = enumerate(range(250 + rounds, 253 + rounds))
        steps.append(Step.build([Segment([9], start, [2 * index, 2 * index + 1]) for index, start in starts]))
    for step in steps:
        assert (fast.forward(step) - slow.forward(step)).abs().max() < TOLERANCE
