"""Decides on which device a decoder runs and what computes its steps there; knows no requests.

Everything here that is said of CUDA has never run on a GPU: this project's machines have none.
"""

from functools import partial

import psutil
import torch

from modelkit.cuda_graphs import GraphedDecoder, cuda_capture
from modelkit.decoder import Decoder
from modelkit.flash import FLASH_BLOCK_LEN, FlashAttention, find_flash_kernels
from modelkit.paged import PagedDecoder, PagedModel


def best_device() -> torch.device:
    """The GPU that CUDA names first, or else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device now."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def fitting_block_len(block_len: int, device: torch.device) -> int:
    """The block length asked for; on CUDA the next multiple of what flash-attn's kernels take."""
    return -(-block_len // FLASH_BLOCK_LEN) * FLASH_BLOCK_LEN if device.type == "cuda" else block_len


def paged_model(decoder: Decoder, *, num_blocks: int, block_len: int, max_batch: int, max_context: int) -> PagedModel:
    """What computes the steps of a decoder on the device where its weights are.

    max_batch: sequences, max_context: tokens of one, in a decode step at most.
    """
    device, dtype = decoder.embed.weight.device, decoder.embed.weight.dtype
    kernels = find_flash_kernels(device, dtype)
    if kernels is None:
        return PagedDecoder(decoder, num_blocks=num_blocks, block_len=block_len)
    attention = partial(FlashAttention, kernels=kernels)
    model = PagedDecoder(decoder, num_blocks=num_blocks + 1, block_len=block_len, attention=attention)
    max_blocks = -(-max_context // block_len)
    return GraphedDecoder(model, cuda_capture(), scratch_block=num_blocks, max_batch=max_batch, max_blocks=max_blocks)
