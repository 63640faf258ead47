"""Asks a running mesh for vectors and scores, by REST and past it by Triton's gRPC; a light client, on purpose."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import grpc
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from bench.chat_rows import Measure, Meter, Row
from bench.embed_rows import CONCURRENCY, LENGTHS, num_jobs
from bench.engines import Spec
from bench.figures import Contest, Goal
from bench.peers.encoders import texts_of, words_of
from bench.peers.protocol import Job
from bench.peers.rankers import QUERY
from bench.private_mesh import PrivateMesh
from bench.quiet import share_of_others
from bench.served import ServedError
from meshkit.wire import Operation
from services.gateway.upstream.frames import pack_request, unpack_response
from zhinao.embedding.v1.embedding_pb2 import EmbedInput, EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse

_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_IN_FLIGHT: Final = 2  # requests of one client, so that it never has the worker wait

# Asks a worker for what is in each group of texts, a request per group, so many at a time; returns the answers' number.
Ask = Callable[[PrivateMesh, str, Sequence[Sequence[str]], int], Awaitable[int]]


def served_rows(kind: str, prefix: str, own: Spec, mesh: PrivateMesh | None) -> list[Row]:
    """The mesh, and Triton alone, against the same engine in process. mesh: None to know only the rows' names."""

    def row(length: int, count: int, *, together: bool) -> Row:
        name = f"served-{prefix.strip()}{'-' * bool(prefix)}{length}x{count}{'' if together else '-clients'}"
        how = "in one request" if together else "from as many clients"
        contest = Contest(f"{prefix}{count} x {length} {how}", own.number_class, "1/s", Goal(0.85))
        return Row(name, contest, _measure(kind, own, mesh, [length] * count, together=together), [own])

    at_once = [row(length, count, together=True) for length in LENGTHS for count in CONCURRENCY]
    return [*at_once, *(row(length, count, together=False) for length in LENGTHS for count in CONCURRENCY[1:])]


def _measure(kind: str, own: Spec, mesh: PrivateMesh | None, lengths: Sequence[int], *, together: bool) -> Measure:
    folder, make = Path(own.arguments[1]), texts_of if kind == "embed" else words_of
    count, jobs = len(lengths), max(2, num_jobs(lengths))

    def measure(meter: Meter) -> dict[str, float]:
        assert mesh

        def prompts() -> list[list[list[int]]]:
            return [[meter.prompts.take(length) for length in lengths] for _ in range(jobs)]

        values = {"in process": jobs * count / sum(meter.run(Job(job, 1)).seconds for job in prompts())}
        for name, ask in {"Triton": _ask_triton, "ours, by REST": _ask_edge}.items():
            groups = [make(folder, job) for job in prompts()]
            groups = groups if together else [[text] for group in groups for text in group]
            asking = ask(mesh, kind, groups, _IN_FLIGHT if together else count)
            seconds, share = share_of_others(
                lambda asking=asking: asyncio.run(_timed(asking, jobs * count)), mesh.pids()
            )
            meter.noise = max(meter.noise, share)
            values[name] = jobs * count / seconds
        return values

    return measure


async def _timed(asking: Awaitable[int], num_wanted: int) -> float:
    began_s = time.perf_counter()
    num_found = await asking
    if num_found != num_wanted:
        raise ServedError(f"{num_found} answers instead of {num_wanted}")
    return time.perf_counter() - began_s


async def _ask_edge(mesh: PrivateMesh, kind: str, groups: Sequence[Sequence[str]], at_once: int) -> int:
    """By REST, one connection per request in flight."""
    rest = [_body(mesh.workers[kind].model, kind, group) for group in groups]
    rest.reverse()

    async def ask_on() -> int:
        reader, writer = await asyncio.open_connection(mesh.host, mesh.port)
        num_found = 0
        while rest:
            path, body = rest.pop()
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (path, len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if not head.startswith(b"http/1.1 200"):
                raise ServedError(answer[:500].decode(errors="replace"))
            num_found += answer.count(b'"index":')
        writer.close()
        return num_found

    return sum(await asyncio.gather(*(ask_on() for _ in range(at_once))))


def _body(model: str, kind: str, texts: Sequence[str]) -> tuple[bytes, bytes]:
    if kind == "embed":
        return b"/v1/embeddings", json.dumps({"model": model, "input": texts, "encoding_format": "base64"}).encode()
    return b"/v1/rerank", json.dumps({"model": model, "query": QUERY, "documents": texts}).encode()


async def _ask_triton(mesh: PrivateMesh, kind: str, groups: Sequence[Sequence[str]], at_once: int) -> int:
    """By Triton's own gRPC over one connection."""
    worker = mesh.workers[kind]
    frames = [_frame(worker.model, kind, group) for group in groups]
    places = asyncio.Semaphore(at_once)
    async with grpc.aio.insecure_channel(worker.grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
        infer = channel.unary_stream(_METHOD)

        async def ask(frame: bytes) -> int:
            async with places:
                messages = [ModelStreamInferResponse.FromString(data) async for data in infer(frame)]
            if problem := next((message.error_message for message in messages if message.error_message), None):
                raise ServedError(problem)
            payload = b"".join(unpack_response(message.infer_response) or b"" for message in messages)
            if kind == "embed":
                return len(EmbedResponse.FromString(payload).embeddings)
            return len(RerankResponse.FromString(payload).scores)

        return sum(await asyncio.gather(*map(ask, frames)))


def _frame(model: str, kind: str, texts: Sequence[str]) -> bytes:
    if kind == "embed":
        request = EmbedRequest(model=model, inputs=[EmbedInput(text=text) for text in texts])
        operation = Operation.EMBED
    else:
        request = RerankRequest(model=model, query=QUERY, documents=texts)
        operation = Operation.RERANK
    return pack_request(kind, request.SerializeToString(), request_id="", operation=operation).SerializeToString()
