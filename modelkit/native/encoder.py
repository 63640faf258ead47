"""Serves an encoder with C++; decides how its weights are stored and how rows are packed, not what is computed."""

from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, c_double, c_int64, c_void_p
from itertools import chain
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modelkit.encoder import EncoderConfig
from modelkit.encoder_checkpoint import EncoderCheckpoint
from modelkit.native.library import Library, LinearStruct, address
from modelkit.native.packing import PANEL, UNIT, Format, pack
from modelkit.sentence import Pooling

FORMATS: Final = (Format.FP32, Format.BF16, Format.INT8)
_HEAD_DIMS: Final = (32, 64)
_PACK_TOKENS: Final = 2048  # of rows that are computed together: more only take more memory
_DEPTH: Final = 32  # halves.h's
_PARTS: Final = {Format.FP32: 2, Format.BF16: 1}


class NormStruct(Structure):
    """encoder_api.h's Norm."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class EncoderLayerStruct(Structure):
    """encoder_api.h's EncoderLayer."""

    _fields_ = (
        *((name, LinearStruct) for name in ("qkv", "o", "up", "down")),
        *((name, NormStruct) for name in ("attention_norm", "output_norm")),
    )


class EncoderModelStruct(Structure):
    """encoder_api.h's EncoderModel."""

    _fields_ = (
        *((name, c_int64) for name in ("num_layers", "hidden_size", "num_heads", "head_dim")),
        ("norm_eps", c_double),
        *((name, c_void_p) for name in ("words", "positions", "types")),
        ("norm", NormStruct),
        ("layers", POINTER(EncoderLayerStruct)),
        ("format", c_int64),
    )


class EncoderRowsStruct(Structure):
    """encoder_api.h's EncoderRows."""

    _fields_ = (
        *((name, c_int64) for name in ("num_rows", "pooling")),
        *((name, c_void_p) for name in ("token_ids", "lengths", "second_from", "vectors")),
    )


def supports(config: EncoderConfig) -> bool:
    """Whether C++ can compute this encoder: whole vectors per head and per layer."""
    return config.head_dim in _HEAD_DIMS and config.hidden_size % UNIT == 0


class NativeEncoder:
    """The CPU fast path's way to compute rows. A row's vector is the same bits whatever is computed beside it."""

    def __init__(self, checkpoint: EncoderCheckpoint, library: Library, form: Format) -> None:
        """form: one of FORMATS."""
        config = self.config = checkpoint.config
        self._library = library
        self._kept: list[Tensor] = []  # what the structs point to
        self._layers = (EncoderLayerStruct * config.num_layers)()
        self._format = form
        self._model = EncoderModelStruct(
            *(config.num_layers, config.hidden_size, config.num_heads, config.head_dim),
            norm_eps=config.norm_eps,
            layers=self._layers,
            format=form,
        )
        for name, tensor in checkpoint.parameters():
            self._take(name, tensor)

    def pool(self, rows: Sequence[Sequence[int]], pooling: Pooling, second_from: Sequence[int] | None = None) -> Tensor:
        """See RowEncoder."""
        vectors = np.empty((len(rows), self.config.hidden_size), np.float32)  # torch would wake threads of its own
        for chosen in _packs([len(row) for row in rows]):
            lengths = np.array([len(rows[row]) for row in chosen], np.int32)
            arrays = (
                np.fromiter(chain.from_iterable(rows[row] for row in chosen), np.int32, int(lengths.sum())),
                lengths,
                lengths if second_from is None else np.array([second_from[row] for row in chosen], np.int32),
                np.empty((len(chosen), self.config.hidden_size), np.float32),
            )
            pointers = (array.ctypes.data for array in arrays)
            self._library.encode(self._model, EncoderRowsStruct(len(chosen), pooling, *pointers))
            vectors[chosen] = arrays[-1]
        return torch.as_tensor(vectors)

    def _take(self, name: str, tensor: Tensor) -> None:
        match name.split("."):
            case [("words" | "positions" | "types") as part, _]:
                setattr(self._model, part, self._keep(tensor))
            case ["norm", kind]:
                setattr(self._model.norm, kind, self._keep(tensor))
            case ["layers", index, ("attention_norm" | "output_norm") as part, kind]:
                setattr(getattr(self._layers[int(index)], part), kind, self._keep(tensor))
            case ["layers", index, part, "bias"]:
                filled = F.pad(tensor, (0, -len(tensor) % UNIT))
                getattr(self._layers[int(index)], part).bias = self._keep(filled)
            case ["layers", index, part, _]:
                self._fill(getattr(self._layers[int(index)], part), tensor)
            case _:
                raise AssertionError(f"{name} is no parameter of an encoder")

    def _fill(self, linear: LinearStruct, weight: Tensor) -> None:
        filled = F.pad(weight, (0, -weight.shape[1] % UNIT, 0, -weight.shape[0] % UNIT))
        linear.rows, linear.columns = filled.shape
        linear.format = self._format
        if self._format in _PARTS and self._library.wants_halves:
            linear.data = self._keep(pack_halves(filled, _PARTS[self._format]))
            return
        packed = pack(filled, self._format)
        linear.data = self._keep(packed.data)
        if packed.scales is not None:
            linear.scales = self._keep(packed.scales)

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor.contiguous())
        return address(self._kept[-1])


def pack_halves(weight: Tensor, parts: int) -> Tensor:
    """A (rows, columns) weight as halves.h reads it: (panels, tiles, parts, 16 pairs, 16 rows, 2) bfloat16.

    rows: a multiple of 16, columns: of 32. parts: 1, or 2 for what the first leaves over too.
    """
    high = weight.bfloat16()
    halves = [high, (weight - high.float()).bfloat16()][:parts]
    tiles = torch.stack(halves).view(parts, -1, PANEL, weight.shape[1] // _DEPTH, _DEPTH // 2, 2)
    return tiles.permute(1, 3, 0, 4, 2, 5).contiguous()


def _packs(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows by number in packs of about _PACK_TOKENS, the longest first: what is left over at the end is short."""
    pack: list[int] = []
    num_tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        pack.append(row)
        num_tokens += lengths[row]
        if num_tokens >= _PACK_TOKENS:
            yield pack
            pack, num_tokens = [], 0
    if pack:
        yield pack
