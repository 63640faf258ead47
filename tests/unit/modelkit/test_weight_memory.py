"""Copies of weights in large areas, and tensors in large pages."""

import torch

from modelkit.native.memory import WeightMemory, in_large_pages


def test_what_is_taken_is_kept_and_starts_with_a_cache_line() -> None:
    memory = WeightMemory()
    tensors = [
        torch.arange(7, dtype=torch.int8),
        torch.arange(10.0).view(2, 5).T,
        torch.zeros(0, 3),
        torch.arange(6, dtype=torch.float16).view(3, 2),
    ]
    copies = [memory.take(tensor) for tensor in tensors]
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(copy, tensor) and copy.dtype == tensor.dtype
        assert copy.is_contiguous() and copy.data_ptr() % 64 == 0


def test_copies_share_an_area_and_one_too_large_for_it_gets_its_own() -> None:
    memory = WeightMemory()
    first, second = memory.take(torch.ones(16)), memory.take(torch.ones(16))
    assert second.data_ptr() - first.data_ptr() == 64
    large = torch.ones((64 << 20) + 1, dtype=torch.uint8)
    assert torch.equal(memory.take(large), large)


def test_a_tensor_in_large_pages_holds_zeros_until_it_is_written() -> None:
    tensor = in_large_pages((3, 5, 7), torch.float16)
    assert tensor.shape == (3, 5, 7) and tensor.dtype is torch.float16 and tensor.is_contiguous()
    assert not tensor.any()
    tensor[1].fill_(2)
    assert tensor.sum() == 2 * 5 * 7
