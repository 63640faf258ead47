"""Turns perf_analyzer's profile export into a row of a table, and requests into its input; pure, runs nothing."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import gaps, percentile
from meshkit.wire import REQUEST_TENSOR, RESPONSE_TENSOR, Operation
from services.gateway.upstream.frames import pack_request
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse, SamplingParams, StopConditions, TokenPrompt

_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Level:
    """What perf_analyzer saw with so many requests open at once; rates are per second, of the level's whole span.

    ttft_s, gap_s: 50th and 99th percentile of the wait for a request's first response, and for each further one.
    """

    concurrency: int
    num_requests: int
    infer_per_s: float
    responses_per_s: float
    tokens_per_s: float
    ttft_s: tuple[float, float]
    gap_s: tuple[float, float]


def input_data(prompts: Sequence[Sequence[int]], *, max_tokens: int) -> dict[str, Any]:
    """The input file: one request per prompt for exactly max_tokens tokens, greedy and without guessing ahead."""
    return {"data": [{REQUEST_TENSOR: {"b64": _request(prompt, max_tokens)}} for prompt in prompts]}


def _request(prompt: Sequence[int], max_tokens: int) -> str:
    request = GenerateRequest(
        tokens=TokenPrompt(ids=prompt),
        sampling=SamplingParams(temperature=0),
        stop=StopConditions(max_tokens=max_tokens, ignore_eos=True),
        speculate=False,
    )
    frame = pack_request("chat", request.SerializeToString(), request_id="", operation=Operation.GENERATE)
    return base64.b64encode(frame.raw_input_contents[0]).decode()  # taken as it is: with the length before the element


def read_export(export: Mapping[str, Any]) -> Level:
    """The one level that a profile export holds; tokens are those that the answers themselves count.

    Raises ValueError if it holds no request, or one whose answer is not complete.
    """
    (experiment,) = export["experiments"]
    requests: list[Mapping[str, Any]] = experiment["requests"]
    num_tokens = sum(_completion_tokens(request) for request in requests)
    times_s = [[stamp * _NS for stamp in (r["timestamp"], *r["response_timestamps"])] for r in requests]
    if not times_s:
        raise ValueError("perf_analyzer has seen no request through")
    span_s = max(each[-1] for each in times_s) - min(each[0] for each in times_s)
    waits = [each[1] - each[0] for each in times_s]
    between = [gap for each in times_s for gap in gaps(each[1:])] or [0.0]
    return Level(
        concurrency=experiment["experiment"]["value"],
        num_requests=len(requests),
        infer_per_s=len(requests) / span_s,
        responses_per_s=sum(len(each) - 1 for each in times_s) / span_s,
        tokens_per_s=num_tokens / span_s,
        ttft_s=(percentile(waits, 50), percentile(waits, 99)),
        gap_s=(percentile(between, 50), percentile(between, 99)),
    )


def _completion_tokens(request: Mapping[str, Any]) -> int:
    payloads = [output[RESPONSE_TENSOR].encode("latin-1") for output in request["response_outputs"]]
    last = GenerateResponse.FromString(payloads[-1]) if payloads else GenerateResponse()
    if not last.finish_reason:
        raise ValueError(f"an answer of {len(payloads)} responses is not complete")
    return last.usage.completion_tokens


def to_markdown(levels: Sequence[Level]) -> str:
    """The table of docs/benchmarks.md; waits in milliseconds."""
    names = ("concurrency", "requests", "infer/s", "responses/s", "tokens/s")
    waits = ("first response p50", "p99", "between responses p50", "p99")
    lines = [(*names, *waits), ("---",) * (len(names) + len(waits)), *map(_cells, levels)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(level: Level) -> tuple[str, ...]:
    rates = (f"{level.infer_per_s:.2f}", f"{level.responses_per_s:.0f}", f"{level.tokens_per_s:.0f}")
    waits = (f"{seconds * 1000:.1f}" for seconds in (*level.ttft_s, *level.gap_s))
    return (str(level.concurrency), str(level.num_requests), *rates, *waits)
