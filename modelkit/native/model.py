"""Serves a checkpoint with the C++ step; decides how its weights are stored, not what a step computes."""

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from modelkit.config import DecoderConfig
from modelkit.native.library import (
    CacheStruct,
    HeadsStruct,
    LayerStruct,
    Library,
    LinearStruct,
    ModelStruct,
    address,
)
from modelkit.native.memory import WeightMemory, in_large_pages
from modelkit.native.packing import PANEL, UNIT, Format, Packed, interleave_gate_up, pack
from modelkit.paged import Step
from modelkit.rotary import inverse_frequencies

_TILE: Final = 32  # components of a head and tokens of a block, in what is read at once
_SPAN: Final = 256  # attention.h's
_MAX_GROUP: Final = 32  # attention.h's MAX_ROWS
_EMBEDDINGS: Final[Mapping[Format, torch.dtype]] = MappingProxyType(
    {Format.FP32: torch.float32, Format.FP16: torch.float16, Format.BF16: torch.bfloat16}
)
# How the head is stored where it is not as the layers: its errors go straight into the logits.
_HEADS: Final[Mapping[Format, Format]] = MappingProxyType({Format.INT4: Format.INT8})


def supports(config: DecoderConfig, block_len: int) -> bool:
    """Whether the C++ step can compute this model: whole vectors per head and per block."""
    whole = config.head_dim % _TILE == 0 and block_len % _TILE == 0 and _SPAN % block_len == 0
    whole = whole and config.num_heads * config.head_dim % UNIT == 0
    return whole and config.num_heads // config.num_kv_heads <= _MAX_GROUP


@dataclass(slots=True)
class NativeWeights:
    """A checkpoint's weights as the C++ step reads them."""

    config: DecoderConfig
    format: Format
    _layers: "ctypes.Array[LayerStruct]"
    num_outputs: int = 0  # rows of the head without what fills them up to a panel
    model: ModelStruct = field(
        default_factory=ModelStruct
    )  # what the library wants; valid as long as this object lives
    _kept: list[Tensor] = field(default_factory=list[Tensor])  # what the structs point to
    _memory: WeightMemory = field(default_factory=WeightMemory)

    @classmethod
    def build(cls, config: DecoderConfig, parameters: Iterable[tuple[str, Tensor]], form: Format) -> Self:
        """Store a Decoder's parameters, given by name in any order; each is let go before the next is asked for."""
        weights = cls(config, form, (LayerStruct * config.num_layers)())
        weights.model = ModelStruct(
            *(config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim),
            norm_eps=config.norm_eps,
            frequencies=weights._keep(inverse_frequencies(config)),
            layers=weights._layers,
        )
        for name, tensor in parameters:
            weights._take(name, tensor.detach())
        return weights

    def _take(self, name: str, tensor: Tensor) -> None:
        match name.split("."):
            case ["embed", _]:
                self._take_embedding(tensor)
            case ["head", _]:
                self._take_head(tensor)
            case ["norm", _]:
                self.model.norm = self._norm(tensor)
            case ["layers", index, ("input_norm" | "post_norm") as part, _]:
                setattr(self._layers[int(index)], part, self._norm(tensor))
            case ["layers", index, part, "bias"]:
                getattr(self._layers[int(index)], part).bias = self._keep(
                    F.pad(tensor.float(), (0, -len(tensor) % PANEL))
                )
            case ["layers", index, part, _]:
                rows = interleave_gate_up(tensor) if part == "gate_up" else tensor
                self._fill(getattr(self._layers[int(index)], part), pack(rows, self.format))
            case _:
                raise AssertionError(f"{name} is no parameter of a decoder")

    def _take_embedding(self, tensor: Tensor) -> None:
        stored = self.format if self.format in _EMBEDDINGS else Format.FP16
        self.model.embed = self._keep(tensor.to(_EMBEDDINGS[stored]).contiguous())
        self.model.embed_format = stored
        if self.config.tie_word_embeddings:
            self._take_head(tensor)

    def _take_head(self, tensor: Tensor) -> None:
        self.num_outputs = len(tensor)
        is_vocabulary = self.num_outputs == self.config.vocab_size
        # The few rows of another head cost nothing as they are.
        form = _HEADS.get(self.format, self.format) if is_vocabulary else Format.FP32
        self._fill(self.model.head, pack(tensor, form))

    def _norm(self, tensor: Tensor) -> int:
        return self._keep(F.pad(tensor.float(), (0, -len(tensor) % UNIT)))

    def _fill(self, linear: LinearStruct, packed: Packed) -> None:
        linear.data = self._keep(packed.data)
        if packed.scales is not None:
            linear.scales = self._keep(packed.scales)
        if packed.minima is not None:
            linear.minima = self._keep(packed.minima)
        linear.rows, linear.columns = packed.padded_shape
        linear.format = packed.format

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(self._memory.take(tensor))
        return address(self._kept[-1])


class NativeDecoder:
    """The CPU fast path's PagedModel. Each row's logits are the same bits whatever is computed beside it.

    keys: (blocks, layers, kv_heads, head_dim, block_len); values: (blocks, layers, kv_heads, block_len, head_dim). All
    layers of a block lie together, so that large pages are used up as blocks are.
    """

    def __init__(self, weights: NativeWeights, library: Library, *, num_blocks: int, block_len: int) -> None:
        config = weights.config
        self._weights = weights
        self._library = library
        shape = (num_blocks, config.num_layers, config.num_kv_heads, block_len * config.head_dim)
        dtype = kv_dtype(weights.format)
        self.keys, self.values = in_large_pages(shape, dtype), in_large_pages(shape, dtype)
        self._kv = CacheStruct(address(self.keys), address(self.values), block_len, dtype is torch.float16)

    def forward(self, step: Step) -> Tensor:
        """See PagedModel."""
        logits = torch.empty(len(step.rows), self._weights.model.head.rows)
        self._library.step(self._weights.model, self._kv, step, logits)
        return logits[:, : self._weights.num_outputs]

    def attend(self, layer: int, step: Step, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One layer's attention over this cache, as an Attention of the step: for comparison with the others."""
        q, k, v = q.float().clone(), k.float().contiguous(), v.float().contiguous()
        self._library.attend(
            self._weights.model, self._kv, step, HeadsStruct(address(q), address(k), address(v), layer)
        )
        return q

    def copy_block(self, source: int, target: int) -> None:
        """See PagedModel."""
        for pool in (self.keys, self.values):
            array = cast("NDArray[Any]", np.asarray(pool))  # torch would wake threads of its own for this
            array[target] = array[source]


def kv_dtype(form: Format) -> torch.dtype:
    """How keys and values are kept beside weights of a format."""
    return torch.float32 if form is Format.FP32 else torch.float16
