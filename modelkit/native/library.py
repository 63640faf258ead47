"""Opens the C++ step and hands it tensors; mirrors api.h, knows no checkpoints."""

import ctypes
import logging
from ctypes import POINTER, Structure, byref, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelkit.native.build import available, library_path
from modelkit.paged import Step

log = logging.getLogger(__name__)


class LinearStruct(Structure):
    """api.h's Linear."""

    _fields_ = (
        *((name, c_void_p) for name in ("data", "scales", "minima", "bias")),
        *((name, c_int64) for name in ("rows", "columns", "format")),
    )


class LayerStruct(Structure):
    """api.h's Layer."""

    _fields_ = (
        *((name, c_void_p) for name in ("input_norm", "post_norm")),
        *((name, LinearStruct) for name in ("qkv", "o", "gate_up", "down")),
    )


class ModelStruct(Structure):
    """api.h's Model."""

    _fields_ = (
        *((name, c_int64) for name in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim")),
        ("norm_eps", c_double),
        ("frequencies", c_void_p),
        ("embed", c_void_p),
        ("embed_format", c_int64),
        ("norm", c_void_p),
        ("layers", POINTER(LayerStruct)),
        ("head", LinearStruct),
    )


class CacheStruct(Structure):
    """api.h's Cache."""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        *((n, c_int64) for n in ("block_len", "is_half")),
    )


class StepStruct(Structure):
    """api.h's Step."""

    _fields_ = (
        *((name, c_int64) for name in ("num_tokens", "num_sequences", "max_blocks", "num_rows")),
        *(
            (n, c_void_p)
            for n in ("token_ids", "positions", "num_new", "context_lens", "block_tables", "rows", "logits")
        ),
    )


class HeadsStruct(Structure):
    """api.h's Heads."""

    _fields_ = (*((name, c_void_p) for name in ("q", "k", "v")), ("layer", c_int64))


class ChoiceStruct(Structure):
    """api.h's Choice."""

    _fields_ = (
        ("logits", c_void_p),
        *((n, c_int64) for n in ("num_rows", "vocab", "stride")),
        *((n, c_void_p) for n in ("temperatures", "min_p", "top_k", "top_p", "seeds", "positions")),
        *((n, c_void_p) for n in ("token_ids", "highest")),
    )


class Ways(NamedTuple):
    """How a token is chosen from each row; all (rows,). temperatures: 0 takes the best. top_k 0, top_p 1: keep all."""

    temperatures: NDArray[np.float32]
    min_p: NDArray[np.float32]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float64]
    seeds: NDArray[np.uint64]
    positions: NDArray[np.int64]


def installed() -> list[str]:
    """The instruction sets whose libraries are built and run here, best first."""
    return [name for name in available() if library_path(name).exists()]


class Library:
    """One built library. Calls release the GIL; only one thread at a time may call."""

    def __init__(self, path: Path) -> None:
        self._functions: Any = ctypes.CDLL(str(path))
        for name in ("open", "step", "attend", "encode", "wants_halves"):
            getattr(self._functions, f"zhinao_{name}").restype = c_int
        self._functions.zhinao_choose.restype = None
        self.wants_halves = self._functions.zhinao_wants_halves() != 0
        if self._functions.zhinao_open(c_int(torch.get_num_threads())) != 0:
            raise OSError(f"the kernel does not allow what {path.name} needs")

    def use_threads(self, count: int) -> None:
        """Compute with so many from now on."""
        self._functions.zhinao_open(c_int(count))

    def step(self, model: ModelStruct, kv: CacheStruct, step: Step, logits: Tensor) -> None:
        """Compute a step into logits, (rows, vocab filled up to 16) fp32. Raises MemoryError."""
        arguments = (byref(model), byref(kv), byref(_step_struct(step, logits)))
        if self._functions.zhinao_step(*arguments) != 0:
            raise MemoryError(f"no memory for a step of {len(step.token_ids)} tokens")

    def attend(self, model: ModelStruct, kv: CacheStruct, step: Step, heads: HeadsStruct) -> None:
        """Attention of one layer alone; the result replaces heads.q. Raises MemoryError."""
        arguments = (byref(model), byref(kv), byref(_step_struct(step, step.rows)), byref(heads))
        if self._functions.zhinao_attend(*arguments) != 0:
            raise MemoryError(f"no memory for a step of {len(step.token_ids)} tokens")

    def choose(self, logits: Tensor, ways: Ways) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Choose a token from each row of logits, (rows, vocab) fp32. Returns them and the rows' highest logits."""
        assert logits.stride(1) == 1 and logits.device.type == "cpu"
        num_rows, vocab = logits.shape
        token_ids, highest = np.empty(num_rows, np.int64), np.empty(num_rows, np.float32)
        places = (array.ctypes.data for array in (*ways, token_ids, highest))
        task = ChoiceStruct(logits.data_ptr(), num_rows, vocab, logits.stride(0), *places)
        self._functions.zhinao_choose(byref(task))
        return token_ids, highest

    def encode(self, model: Structure, rows: Structure) -> None:
        """Encode rows; the structs are those of native/encoder.py. Raises MemoryError."""
        if self._functions.zhinao_encode(byref(model), byref(rows)) != 0:
            raise MemoryError("no memory for these rows")


@cache
def open_library(name: str) -> Library:
    """The library for an instruction set, one of installed(). Raises OSError if the kernel does not let it run."""
    return Library(library_path(name))


def best_library() -> tuple[str, Library] | None:
    """The best library that is built and that the kernel lets run, with its instruction set; None if there is none."""
    for name in installed():
        try:
            return name, open_library(name)
        except OSError as error:
            log.warning("the C++ step for %s is built and cannot run: %s", name, error)
    return None


def address(tensor: Tensor) -> int:
    """Where a contiguous tensor's values lie."""
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


def _step_struct(step: Step, logits: Tensor) -> StepStruct:
    tensors = (step.token_ids, step.positions, step.num_new, step.context_lens, step.block_tables, step.rows, logits)
    sizes = (len(step.token_ids), len(step.num_new), step.block_tables.shape[1], len(step.rows))
    return StepStruct(*sizes, *map(address, tensors))
