"""Decides what computes the vectors of rows on this machine and in which number format; knows no texts."""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import Tensor

from modelkit.config import CheckpointError
from modelkit.devices import best_device
from modelkit.encoder import Encoder, EncoderConfig
from modelkit.encoder_checkpoint import EncoderCheckpoint, load_encoder
from modelkit.encoder_cuda import cuda_row_encoder
from modelkit.native.encoder import FORMATS, NativeEncoder, supports
from modelkit.native.library import best_library
from modelkit.native.packing import Format
from modelkit.precision import Precision
from modelkit.sentence import Pooling, pool

_ON_CUDA: Final[Mapping[Precision, Precision]] = MappingProxyType(
    {Precision.AUTO: Precision.BF16} | {each: each for each in (Precision.FP32, Precision.FP16, Precision.BF16)}
)

log = logging.getLogger(__name__)


class RowEncoder(Protocol):
    """Turns rows of token ids into one vector each. precision: of its weights. computed_by: for people.

    One thread at a time may call it.
    """

    config: EncoderConfig
    precision: Precision
    computed_by: str

    def pool(self, rows: Sequence[Sequence[int]], pooling: Pooling, second_from: Sequence[int] | None = None) -> Tensor:
        """The vector of each row, (rows, hidden) fp32, not normalised; it does not depend on the other rows.

        rows: of 1 to max_position_embeddings ids each, of any mix of lengths. second_from: in each row, the first
        token of token type 1; None where all are of type 0.
        """
        ...


class TorchRowEncoder:
    """The plain RowEncoder, fp32, row by row: the oracle of the others."""

    precision = Precision.FP32
    computed_by = "torch"

    def __init__(self, encoder: Encoder) -> None:
        self.config = encoder.config
        self._encoder = encoder

    @torch.inference_mode()
    def pool(self, rows: Sequence[Sequence[int]], pooling: Pooling, second_from: Sequence[int] | None = None) -> Tensor:
        """See RowEncoder."""
        firsts = second_from if second_from is not None else [len(row) for row in rows]
        return torch.stack([self._one(row, first, pooling) for row, first in zip(rows, firsts, strict=True)])

    def _one(self, row: Sequence[int], second_from: int, pooling: Pooling) -> Tensor:
        type_ids = (torch.arange(len(row)) >= second_from).long()
        return pool(self._encoder(torch.tensor(row), type_ids, [len(row)]), pooling)


class FastRowEncoder:
    """The C++ RowEncoder."""

    def __init__(self, network: NativeEncoder, precision: Precision, instruction_set: str) -> None:
        self.config, self.precision, self.computed_by = network.config, precision, f"C++ for {instruction_set}"
        self.pool = network.pool


def load_row_encoder(checkpoint: EncoderCheckpoint, precision: Precision) -> RowEncoder:
    """Read an encoder's weights for serving; AUTO is FP32, on a GPU BF16. Raises CheckpointError.

    On a CPU C++ computes it, and plain torch in fp32 where there is none or where the model does not suit it.
    """
    device = best_device()
    if device.type == "cuda":
        if precision not in _ON_CUDA:
            raise CheckpointError(f"dtype is {precision}, of an encoder on a GPU it must be one of {list(_ON_CUDA)}")
        return cuda_row_encoder(load_encoder(checkpoint), _ON_CUDA[precision], device)
    if precision is Precision.AUTO:
        precision = Precision.FP32
    if precision.name not in [form.name for form in FORMATS]:
        offered = [form.name.lower() for form in FORMATS]
        raise CheckpointError(f"dtype is {precision}, of an encoder it must be auto or one of {offered}")
    found = best_library()
    if found and supports(checkpoint.config):
        name, library = found
        return FastRowEncoder(NativeEncoder(checkpoint, library, Format[precision.name]), precision, name)
    reason = f"heads of {checkpoint.config.head_dim}" if found else "no library that runs here"
    log.warning("plain torch computes this encoder, slowly, in fp32: C++ is not there for it (%s)", reason)
    return TorchRowEncoder(load_encoder(checkpoint))
