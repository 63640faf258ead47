"""`zhinao plan`: prints what a model needs of GPUs, each figure with how it comes about; loads no tensor library."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Annotated

import typer

from cli.failures import UsageFailure, shown_failures
from mesh.failure import MeshFailure
from modelkit.capacity import FULLEST, GPUS, ITEM_BYTES, KV_MEMORY_SHARE, Fit, Load, Pace, fit, pace
from modelkit.config import CheckpointError, DecoderConfig, parse_config, read_json

Line = tuple[str, str, str]  # what, how much, how it comes about


def plan(
    model: Annotated[Path, typer.Option(help="Checkpoint folder, or only its config.json; weights are not read.")],
    gpu: Annotated[str, typer.Option(help=f"One of {', '.join(GPUS)}.")],
    context: Annotated[
        int | None, typer.Option(min=1, help="Window in tokens, prompt and answer together; default: the model's.")
    ] = None,
    rps: Annotated[float, typer.Option(min=0.0, help="Requests a second at the busiest time.")] = 1.0,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Prompt of an average request.")] = 1000,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Answer of an average request.")] = 300,
    efficiency: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the data sheet's speed that is reached; measure yours.")
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")] = False,
) -> None:
    """Say how many GPUs a chat model needs, and why; nothing is loaded and no GPU is asked.

    What must fit: the weights, and in the memory they leave the KV cache, which grows by a fixed number of bytes with
    each token of each running request. A window that does not fit even once cannot be served: exit code 1.

    What must be fast enough: a prompt costs arithmetic, an answer costs reading the weights and the cache once per
    token, shared by all answers that run together. How much of a GPU's data sheet is reached (--efficiency) is an
    assumption until you measure it.

    zhinao plan --model config.json --context 360000 --gpu h100 --rps 0.1 --prompt-tokens 100000
    """
    with shown_failures():
        _show(model, context, gpu, Load(rps, prompt_tokens, answer_tokens), efficiency, as_json)


def _show(model: Path, context: int | None, gpu: str, load: Load, efficiency: float, as_json: bool) -> None:
    """Print the plan; see the help of `zhinao plan`. Raises UsageFailure, or MeshFailure if it cannot be served."""
    config = _read(model)
    if gpu not in GPUS:
        raise UsageFailure(f"--gpu {gpu}: expected one of {', '.join(GPUS)}")
    window = context or config.max_position_embeddings
    if window > config.max_position_embeddings:
        raise UsageFailure(
            f"--context is {window}, but the model was trained for a window of {config.max_position_embeddings}"
        )
    request = load.prompt_tokens + load.answer_tokens
    if request > window:
        raise UsageFailure(f"prompt and answer are {request} tokens, more than the window of {window}")
    fitting = fit(config, GPUS[gpu], window)
    served = pace(config, GPUS[gpu], fitting, load, efficiency) if fitting.num_windows else None
    if as_json:
        typer.echo(json.dumps({**asdict(fitting), "settings": _settings(fitting, window), "pace": _facts(served)}))
    else:
        _print(_fit_lines(config, fitting, gpu, window))
        if served is not None:
            _print(_pace_lines(served, load, efficiency))
            typer.echo(f"settings: {' '.join(f'{name}={value}' for name, value in _settings(fitting, window).items())}")
    if not fitting.num_windows:
        raise MeshFailure(
            f"one window of {window} tokens takes {fitting.window_bytes} bytes of KV cache, but {gpu} has "
            f"{fitting.kv_cache_bytes} for it; the longest window that fits is {fitting.longest_window} tokens"
        )


def _read(model: Path) -> DecoderConfig:
    try:
        return parse_config(read_json(model / "config.json" if model.is_dir() else model))
    except CheckpointError as error:
        raise UsageFailure(f"--model {model}: {error}") from None


def _settings(fitting: Fit, window: int) -> dict[str, str]:
    """What a worker must be told to use the whole of its GPU."""
    return {
        "CHAT_MAX_MODEL_LEN": str(window),
        "CHAT_KV_WINDOWS": str(ceil(fitting.kv_cache_bytes / fitting.window_bytes)),
        "CHAT_KV_MEMORY_SHARE": str(KV_MEMORY_SHARE),
    }


def _facts(served: Pace | None) -> dict[str, float] | None:
    return None if served is None else asdict(served)


def _fit_lines(config: DecoderConfig, fitting: Fit, gpu: str, window: int) -> Iterator[Line]:
    heads = f"{config.num_layers} layers × {config.num_kv_heads} KV heads × {config.head_dim}"
    memory = GPUS[gpu].memory_bytes
    yield "weights", _gigabytes(fitting.weights_bytes), f"{fitting.num_parameters:,} parameters × {ITEM_BYTES} bytes"
    yield "KV cache per token", f"{fitting.kv_bytes_per_token:,} B", f"2 × {heads} × {ITEM_BYTES} bytes"
    yield "KV cache", _gigabytes(fitting.kv_cache_bytes), f"{KV_MEMORY_SHARE} of what is left of {_gigabytes(memory)}"
    yield "one window", _gigabytes(fitting.window_bytes), f"{window:,} tokens, prompt and answer together"
    yield "full windows at once", str(fitting.num_windows), f"one {gpu} per worker"
    yield "longest window", f"{fitting.longest_window:,}", "tokens of one request, alone in the cache"


def _pace_lines(served: Pace, load: Load, efficiency: float) -> Iterator[Line]:
    share = f"at {efficiency} of the data sheet"
    yield "first token", f"{served.prefill_s:.2f} s", f"{load.prompt_tokens:,} prompt tokens, alone, {share}"
    yield "token to token", f"{served.step_s * 1000:.1f} ms", f"{served.num_running} answers at once, {share}"
    yield "one worker", f"{served.requests_per_s:.2f}/s", f"answers of {load.answer_tokens:,} tokens"
    yield "workers", str(served.num_workers), f"{load.requests_per_s:g}/s with each worker {FULLEST} full at most"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def _print(lines: Iterator[Line]) -> None:
    for name, value, reason in lines:
        typer.echo(f"{name:<22}{value:>12}  {reason}")
