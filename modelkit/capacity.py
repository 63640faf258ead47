"""Decides what a decoder needs of a GPU, and how much of a load one can carry, by arithmetic alone; loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Final

from modelkit.config import DecoderConfig
from modelkit.shapes import kv_bytes_per_token, num_parameters

ITEM_BYTES: Final = 2  # bf16 or fp16, the formats that a GPU serves at speed
BLOCK_LEN: Final = 256  # tokens; what flash-attn's paged kernels take
KV_MEMORY_SHARE: Final = 0.9  # of what the weights leave; the rest is for the activations of a step and for CUDA itself
MAX_RUNNING: Final = 64  # answers at once; a chat worker's default
FULLEST: Final = 0.8  # of a worker's pace that is planned with: nearer to 1, queues grow without end


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet: bytes of memory, bytes read from it a second, dense 16-bit operations a second."""

    memory_bytes: float
    bytes_per_s: float
    flop_per_s: float


# NVIDIA's data sheets; gigabytes are taken as 10^9 bytes.
GPUS: Final[Mapping[str, Gpu]] = MappingProxyType(
    {
        "a10": Gpu(24e9, 600e9, 125e12),
        "a100-40gb": Gpu(40e9, 1555e9, 312e12),
        "a100-80gb": Gpu(80e9, 2039e9, 312e12),
        "h100": Gpu(80e9, 3350e9, 989e12),  # SXM
        "h200": Gpu(141e9, 4800e9, 989e12),
        "l4": Gpu(24e9, 300e9, 121e12),
        "l40s": Gpu(48e9, 864e9, 362e12),
    }
)


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a model fits one GPU, in bytes and tokens. num_windows: 0 if not one fits."""

    num_parameters: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_cache_bytes: int
    window_bytes: int
    num_windows: int
    longest_window: int


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of all workers together: requests a second, and the tokens of one."""

    requests_per_s: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Pace:
    """What one worker does of a load. step_s: one token for each of num_running answers."""

    prefill_s: float
    step_s: float
    num_running: int
    requests_per_s: float
    num_workers: int


def fit(config: DecoderConfig, gpu: Gpu, window: int) -> Fit:
    """How many windows of that many tokens, prompt and answer together, the KV cache of one GPU holds."""
    parameters, token_bytes = num_parameters(config), kv_bytes_per_token(config, ITEM_BYTES)
    cache_bytes = max(0, int((gpu.memory_bytes - ITEM_BYTES * parameters) * KV_MEMORY_SHARE))
    num_blocks = cache_bytes // (token_bytes * BLOCK_LEN)
    return Fit(
        num_parameters=parameters,
        weights_bytes=ITEM_BYTES * parameters,
        kv_bytes_per_token=token_bytes,
        kv_cache_bytes=cache_bytes,
        window_bytes=window * token_bytes,
        num_windows=num_blocks // ceil(window / BLOCK_LEN),
        longest_window=min(num_blocks * BLOCK_LEN, config.max_position_embeddings),
    )


def pace(config: DecoderConfig, gpu: Gpu, fitting: Fit, load: Load, efficiency: float) -> Pace:
    """What a worker does at that share of the data sheet's figures, and how many workers the load takes.

    A prompt is bound by arithmetic, a step of decoding by reading the weights once and every answer's cache, or by
    arithmetic if many answers run. The whole request must fit, see Fit.longest_window.
    """
    prompt, answer = load.prompt_tokens, load.answer_tokens
    num_blocks = fitting.kv_cache_bytes // (fitting.kv_bytes_per_token * BLOCK_LEN)
    num_running = min(num_blocks // ceil((prompt + answer) / BLOCK_LEN), MAX_RUNNING)
    per_token = 2 * (fitting.num_parameters - config.vocab_size * config.hidden_size)  # a row of the embedding is read
    attention = 2 * config.num_layers * config.num_heads * config.head_dim  # causal: half of scores and sums
    prefill_s = (per_token * prompt + attention * prompt**2) / (gpu.flop_per_s * efficiency)
    context = prompt + answer / 2
    read_bytes = fitting.weights_bytes + num_running * context * fitting.kv_bytes_per_token
    flop = num_running * (per_token + 2 * attention * context)
    step_s = max(read_bytes / gpu.bytes_per_s, flop / gpu.flop_per_s) / efficiency
    requests_per_s = 1 / (prefill_s + answer * step_s / num_running)
    return Pace(prefill_s, step_s, num_running, requests_per_s, ceil(load.requests_per_s / (requests_per_s * FULLEST)))
