"""Decides in which number format a checkpoint is served here and what computes its steps; knows no requests."""

import logging
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from modelkit.checkpoint import Checkpoint, build_decoder, parameters
from modelkit.config import CheckpointError
from modelkit.decoder import Decoder
from modelkit.devices import paged_model
from modelkit.native.library import Library, best_library
from modelkit.native.model import NativeDecoder, NativeWeights, kv_dtype, supports
from modelkit.native.packing import Format, pack, unpack
from modelkit.paged import PagedModel

log = logging.getLogger(__name__)


class Precision(StrEnum):
    """Number formats of weights. AUTO is int8 where the C++ step computes, bf16 on a GPU, else fp32.

    It is not int4, which is faster: what that costs was measured on the demo weights only (docs/adr/011).
    """

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


class MakePagedModel(Protocol):
    """Gives loaded weights their KV cache."""

    def __call__(self, *, num_blocks: int, block_len: int, max_batch: int, max_context: int) -> PagedModel:
        """max_batch: sequences, max_context: tokens of one, in a decode step at most."""
        ...


@dataclass(frozen=True, slots=True)
class ServedWeights:
    """Weights in memory. computed_by: what runs the steps, for people."""

    precision: Precision
    computed_by: str
    kv_dtype: torch.dtype
    with_cache: MakePagedModel


def load_weights(folder: Path, precision: Precision, device: torch.device, block_len: int) -> ServedWeights:
    """Read a checkpoint folder for serving; see read_weights."""
    return read_weights(Checkpoint.open(folder), precision, device, block_len)


def read_weights(checkpoint: Checkpoint, precision: Precision, device: torch.device, block_len: int) -> ServedWeights:
    """Read a checkpoint for serving on a device with blocks of block_len tokens.

    On a CPU the C++ step computes it, and plain torch in fp32 where there is none or where the model does not suit it:
    the weights are then rounded as asked for, but nothing is gained. Raises CheckpointError.
    """
    if device.type == "cuda":
        return _on_cuda(checkpoint, precision, device)
    found = best_library()
    if found and supports(checkpoint.config, block_len):
        name, library = found
        form = Format[(Precision.INT8 if precision is Precision.AUTO else precision).name]
        weights = NativeWeights.build(checkpoint.config, parameters(checkpoint), form)
        return ServedWeights(
            Precision[form.name], f"C++ for {name}", kv_dtype(form), partial(_native_model, weights, library)
        )
    reason = f"heads of {checkpoint.config.head_dim} or blocks of {block_len}" if found else "no library that runs here"
    log.warning("plain torch computes this model, slowly, in fp32: the C++ step is not there for it (%s)", reason)
    decoder = build_decoder(checkpoint)
    if precision is Precision.AUTO:
        precision = Precision.FP32
    if precision is not Precision.FP32:
        _round_weights(decoder, Format[precision.name])
    return ServedWeights(precision, "torch", torch.float32, partial(paged_model, decoder))


def _on_cuda(checkpoint: Checkpoint, precision: Precision, device: torch.device) -> ServedWeights:
    if precision in (Precision.INT8, Precision.INT4):
        raise CheckpointError(f"dtype is {precision}, on a GPU it must be one of fp32, fp16, bf16")
    if precision is Precision.AUTO:
        precision = Precision.BF16
    decoder = build_decoder(checkpoint, precision).to(device)
    return ServedWeights(precision, f"torch on {device}", decoder.embed.weight.dtype, partial(paged_model, decoder))


def _native_model(
    weights: NativeWeights, library: Library, *, num_blocks: int, block_len: int, max_batch: int, max_context: int
) -> PagedModel:
    del max_batch, max_context  # its memory grows with the steps
    return NativeDecoder(weights, library, num_blocks=num_blocks, block_len=block_len)


@torch.no_grad()
def _round_weights(decoder: Decoder, form: Format) -> None:
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2:
            stored = Format.FP16 if name == "embed.weight" and form > Format.BF16 else form
            parameter.copy_(unpack(pack(parameter, stored)))
