"""Lays weight matrices out for the C++ step, and back; knows no networks.

Rows come in panels of 16 that are multiplied side by side, so that a vector register holds 16 results. Floats:
(panels, columns, 16). INT8: (panels, columns / 4, 16, 4), four neighbouring columns of a row together; each 64 columns
are rotated, and a block, which shares a scale, is the longest of 256, 192, 128 and 64 columns that divides them. INT4:
(panels, blocks, 4, 16, 4) bytes for blocks of 32 columns, the low half a weight of the first 16 of them, the high half
the one 16 columns on.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional as F

PANEL = 16
UNIT = 64  # columns are filled up to it


class Format(IntEnum):
    """How a weight is stored; the values are those of api.h."""

    FP32 = 0
    FP16 = 1
    BF16 = 2
    INT8 = 3
    INT4 = 4


_FLOATS = {Format.FP32: torch.float32, Format.FP16: torch.float16, Format.BF16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight matrix of `shape` as the C++ step reads it, filled up with zeros to whole panels and blocks.

    INT8 w = scale * q with q in -127..127; INT4 w = scale * q + minimum with q in 0..15. scales, minima: (panels,
    blocks, 16) fp16.
    """

    format: Format
    shape: tuple[int, int]
    data: Tensor
    scales: Tensor | None = None
    minima: Tensor | None = None

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Rows and columns with the filling."""
        rows, columns = self.shape
        return -(-rows // PANEL) * PANEL, -(-columns // UNIT) * UNIT

    @property
    def block(self) -> int:
        """Columns that share a scale."""
        return _block(self.format, self.padded_shape[1])


def pack(weight: Tensor, form: Format) -> Packed:
    """Store a (rows, columns) weight in a format; integers round each block of columns on a grid of its own."""
    rows, columns = weight.shape
    filled = F.pad(weight.float(), (0, -columns % UNIT, 0, -rows % PANEL))
    if form in _FLOATS:
        panels = filled.to(_FLOATS[form]).view(-1, PANEL, filled.shape[1])
        return Packed(form, (rows, columns), panels.transpose(1, 2).contiguous())
    block = _block(form, filled.shape[1])
    if form is Format.INT8:
        filled = rotate(filled)
    blocks = filled.view(-1, PANEL, filled.shape[1] // block, block)  # (panels, 16, blocks, columns)
    if form is Format.INT8:
        scales = (blocks.abs().amax(-1, keepdim=True) / 127).half()
        q = _divide(blocks, scales.float()).round().clamp(-127, 127).to(torch.int8)
        data = q.view(len(q), PANEL, -1, 4).transpose(1, 2).contiguous()
        return Packed(form, (rows, columns), data, _per_block(scales))
    minima = blocks.amin(-1, keepdim=True).half()
    scales = ((blocks.amax(-1, keepdim=True) - minima.float()).clamp(min=0) / 15).half()
    q = _divide(blocks - minima.float(), scales.float()).round().clamp(0, 15).to(torch.uint8)
    low, high = q.view(*q.shape[:3], 2, 4, 4).unbind(3)  # each (panels, 16, blocks, 4, 4)
    data = (low | (high << 4)).permute(0, 2, 3, 1, 4).contiguous()
    return Packed(form, (rows, columns), data, _per_block(scales), _per_block(minima))


def unpack(packed: Packed) -> Tensor:
    """The (rows, columns) fp32 matrix that a packed one stands for: what the plain path computes with."""
    rows, columns = packed.padded_shape
    if packed.scales is None:
        full = packed.data.float().transpose(1, 2).reshape(rows, columns)
    else:
        if packed.format is Format.INT8:
            q = packed.data.transpose(1, 2).reshape(-1, PANEL, packed.scales.shape[1], packed.block)
        else:
            halves = torch.stack((packed.data & 15, packed.data >> 4), dim=2)  # (panels, blocks, 2, 4, 16, 4)
            q = halves.permute(0, 4, 1, 2, 3, 5).flatten(3)
        full = q.float() * _per_row(packed.scales)
        if packed.minima is not None:
            full += _per_row(packed.minima)
        full = full.reshape(rows, columns)
        if packed.format is Format.INT8:
            full = rotate(full)
    return full[: packed.shape[0], : packed.shape[1]].contiguous()


def rotate(matrix: Tensor) -> Tensor:
    """Each 64 columns of a matrix times the Walsh-Hadamard matrix over 8, which is its own inverse.

    A product stays what it is if both its sides are rotated. What few columns of activations hold is spread over 64 of
    them: a scale for many columns then fits all. Source: Ashkboos et al., QuaRot (2024).
    """
    hadamard = torch.ones(1, 1)
    while len(hadamard) < UNIT:
        hadamard = torch.cat((torch.cat((hadamard, hadamard), 1), torch.cat((hadamard, -hadamard), 1)))
    return (matrix.view(len(matrix), -1, UNIT) @ (hadamard / UNIT**0.5)).flatten(1)


def interleave_gate_up(gate_up: Tensor) -> Tensor:
    """Rows of a (2 inner, columns) matrix as the step wants them: 64 of the gate, then the same 64 of up, and so on."""
    gate, up = (F.pad(half, (0, 0, 0, -half.shape[0] % UNIT)) for half in gate_up.chunk(2))
    return torch.stack((gate.view(-1, UNIT, gate.shape[1]), up.view(-1, UNIT, up.shape[1])), dim=1).flatten(0, 2)


def _block(form: Format, columns: int) -> int:
    """Columns that share a scale: as gemm.h has it."""
    if form is Format.INT4:
        return 32
    return next(block for block in (256, 192, 128, 64) if columns % block == 0)


def _divide(x: Tensor, scales: Tensor) -> Tensor:
    return x / scales.masked_fill(scales == 0, 1.0)


def _per_block(values: Tensor) -> Tensor:
    """(panels, 16, blocks, 1) as the step reads them: (panels, blocks, 16)."""
    return values.squeeze(-1).transpose(1, 2).contiguous()


def _per_row(values: Tensor) -> Tensor:
    """(panels, blocks, 16) as they multiply (panels, 16, blocks, columns)."""
    return values.float().transpose(1, 2).unsqueeze(-1)
