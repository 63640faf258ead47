"""Drives a running mesh with many streams at once, by REST and past it by Triton's gRPC; a light client, on purpose."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
import uvloop
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from bench.chat_rows import Measure, Meter, Row
from bench.engines import Spec
from bench.figures import Contest, Goal
from bench.private_mesh import PrivateMesh
from bench.quiet import share_of_others
from meshkit.wire import Operation
from services.gateway.upstream.frames import pack_request, unpack_response
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse, SamplingParams, StopConditions, TokenPrompt

_NUM_STREAMS, _PROMPT_LEN, _MAX_TOKENS = 32, 64, 64
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"

# Sends all prompts at once and reads all answers; returns how many tokens they have.
AskAll = Callable[[PrivateMesh, Sequence[list[int]]], Awaitable[int]]


class ServedError(RuntimeError):
    """The mesh answered with something else than was asked for; the message holds it."""


def served_rows(mesh: PrivateMesh, own: Sequence[Spec]) -> list[Row]:
    """The mesh against the same engine in process."""

    def row(name: str, way: str, ratio: float, ask_all: AskAll) -> Row:
        work = f"{_NUM_STREAMS} streams, {_PROMPT_LEN} + {_MAX_TOKENS}, {way}"
        contest = Contest(work, own[0].number_class, "tokens/s", Goal(ratio))
        return Row(name, contest, _against(mesh, ask_all), own)

    return [
        row("triton", "through Triton (gRPC)", 0.9, ask_triton),
        row("mesh", "through the whole mesh (REST)", 0.8, ask_edge),
    ]


def _against(mesh: PrivateMesh, ask_all: AskAll) -> Measure:
    def measure(meter: Meter) -> dict[str, float]:
        in_process = _NUM_STREAMS * _MAX_TOKENS / meter.seconds(_NUM_STREAMS, _PROMPT_LEN, _MAX_TOKENS)
        prompts = meter.prompts.take_many(_NUM_STREAMS, _PROMPT_LEN)
        seconds, share = share_of_others(lambda: uvloop.run(_timed(ask_all(mesh, prompts))), mesh.pids())
        meter.noise = max(meter.noise, share)
        return {"ours, served": _NUM_STREAMS * _MAX_TOKENS / seconds, "in process": in_process}

    return measure


async def _timed(asking: Awaitable[int]) -> float:
    began_s = time.perf_counter()
    num_tokens = await asking
    if num_tokens != _NUM_STREAMS * _MAX_TOKENS:
        raise ServedError(f"the answers have {num_tokens} tokens instead of {_NUM_STREAMS * _MAX_TOKENS}")
    return time.perf_counter() - began_s


async def ask_edge(mesh: PrivateMesh, prompts: Sequence[list[int]]) -> int:
    """Streamed completions by REST, one connection each."""
    return sum(await asyncio.gather(*(_completion(mesh, prompt) for prompt in prompts)))


async def _completion(mesh: PrivateMesh, prompt: list[int]) -> int:
    body = {
        "model": mesh.workers["chat"].model,
        "prompt": prompt,
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "speculate": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(mesh.host, mesh.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
    )
    answer = await reader.read()
    writer.close()
    events = [line for line in answer.splitlines() if line.startswith(b"data: ")]
    if len(events) < 2 or events[-1] != b"data: [DONE]":
        raise ServedError(answer[-500:].decode(errors="replace"))
    return json.loads(events[-2].removeprefix(b"data: "))["usage"]["completion_tokens"]


async def ask_triton(mesh: PrivateMesh, prompts: Sequence[list[int]]) -> int:
    """Streams of Triton's own gRPC over one connection."""
    async with grpc.aio.insecure_channel(mesh.workers["chat"].grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
        infer = channel.unary_stream(_METHOD)  # of bytes: they are parsed when the time is taken
        frames = [_frame(mesh.workers["chat"].model, prompt) for prompt in prompts]

        async def read(frame: bytes) -> list[bytes]:
            return [data async for data in infer(frame)]

        return sum(map(_num_tokens, await asyncio.gather(*map(read, frames))))


def _frame(model: str, prompt: list[int]) -> bytes:
    request = GenerateRequest(
        model=model,
        tokens=TokenPrompt(ids=prompt),
        sampling=SamplingParams(temperature=0),
        stop=StopConditions(max_tokens=_MAX_TOKENS, ignore_eos=True),
        speculate=False,
    )
    frame = pack_request("chat", request.SerializeToString(), request_id="", operation=Operation.GENERATE)
    return frame.SerializeToString()


def _num_tokens(answer: list[bytes]) -> int:
    messages = [ModelStreamInferResponse.FromString(data) for data in answer]
    if problem := next((message.error_message for message in messages if message.error_message), None):
        raise ServedError(problem)
    payloads = filter(None, (unpack_response(message.infer_response) for message in messages))
    return max(GenerateResponse.FromString(payload).usage.completion_tokens for payload in payloads)
