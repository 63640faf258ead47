"""Turns perf_analyzer's profile export into a row of a table, and requests into its input; pure, runs nothing."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import gaps, percentile
from meshkit.wire import REQUEST_TENSOR, RESPONSE_TENSOR, Operation
from services.gateway.upstream.frames import pack_request

_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Level:
    """What perf_analyzer saw with so many requests open at once; rates are per second, of the level's whole span.

    ttft_s, gap_s: 50th and 99th percentile of the wait for a request's first response, and for each further one; the
    latter is None where each request has one response.
    """

    concurrency: int
    num_requests: int
    infer_per_s: float
    responses_per_s: float
    tokens_per_s: float
    ttft_s: tuple[float, float]
    gap_s: tuple[float, float] | None


def input_data(payloads: Sequence[bytes]) -> dict[str, Any]:
    """The input file of serialised requests."""
    return {"data": [{REQUEST_TENSOR: {"b64": _element(payload)}} for payload in payloads]}


def _element(payload: bytes) -> str:
    frame = pack_request("any", payload, request_id="", operation=Operation.GENERATE)
    return base64.b64encode(frame.raw_input_contents[0]).decode()  # taken as it is: with the length before the element


def read_export(export: Mapping[str, Any], num_tokens: Callable[[Sequence[bytes]], int]) -> Level:
    """The one level that a profile export holds. num_tokens: what the responses to a request say of it.

    Raises ValueError if it holds no request, or one whose answer is not complete.
    """
    (experiment,) = export["experiments"]
    requests: list[Mapping[str, Any]] = experiment["requests"]
    tokens = sum(num_tokens(_payloads(request)) for request in requests)
    times_s = [[stamp * _NS for stamp in (r["timestamp"], *r["response_timestamps"])] for r in requests]
    if not times_s:
        raise ValueError("perf_analyzer has seen no request through")
    span_s = max(each[-1] for each in times_s) - min(each[0] for each in times_s)
    waits = [each[1] - each[0] for each in times_s]
    between = [gap for each in times_s for gap in gaps(each[1:])]
    return Level(
        concurrency=experiment["experiment"]["value"],
        num_requests=len(requests),
        infer_per_s=len(requests) / span_s,
        responses_per_s=sum(len(each) - 1 for each in times_s) / span_s,
        tokens_per_s=tokens / span_s,
        ttft_s=(percentile(waits, 50), percentile(waits, 99)),
        gap_s=(percentile(between, 50), percentile(between, 99)) if between else None,
    )


def _payloads(request: Mapping[str, Any]) -> list[bytes]:
    return [output[RESPONSE_TENSOR].encode("latin-1") for output in request["response_outputs"]]


def to_markdown(levels: Sequence[Level]) -> str:
    """The table of docs/benchmarks.md; waits in milliseconds. Streams have a line of their own kind."""
    streamed = any(level.gap_s is not None for level in levels)
    names = ("concurrency", "requests", "infer/s", *(("responses/s",) if streamed else ()), "tokens/s")
    waits = ("first response p50", "p99", "between responses p50", "p99") if streamed else ("latency p50", "p99")
    lines = [(*names, *waits), ("---",) * (len(names) + len(waits)), *(_cells(level, streamed) for level in levels)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(level: Level, streamed: bool) -> tuple[str, ...]:
    responses = (f"{level.responses_per_s:.0f}",) if streamed else ()
    rates = (f"{level.infer_per_s:.2f}", *responses, f"{level.tokens_per_s:.0f}")
    waits = (*level.ttft_s, *(level.gap_s or (0.0, 0.0))) if streamed else level.ttft_s
    return (str(level.concurrency), str(level.num_requests), *rates, *(f"{seconds * 1000:.1f}" for seconds in waits))
