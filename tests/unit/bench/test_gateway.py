"""What the gateway bench makes of its readings, and that its pretended engine speaks what the gateway reads."""

import asyncio
import json
import subprocess
import sys

import grpc
import pytest

from bench.fake_answer import NUM_TOKENS, payloads
from bench.gateway import Reading, _lines, _stream
from services.gateway.upstream.triton import TritonWorker
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_STOP, GenerateRequest


def test_a_gateway_is_charged_what_it_adds_to_the_engines_own_wait() -> None:
    rounds = [
        {"engine": Reading([0.010] * 99 + [0.020], 100.0, 0.0), "ours": Reading([0.012] * 99 + [0.030], 80.0, 0.002)},
        {"engine": Reading([0.010] * 100, 100.0, 0.0), "ours": Reading([0.012] * 100, 90.0, 0.004)},
    ]

    (line,) = _lines(32, rounds)

    assert (line.name, line.concurrency, line.streams_per_s) == ("ours", 32, 85.0)
    assert line.added_s == pytest.approx((0.002, 0.002))
    assert line.streams_per_cpu_s == pytest.approx(1 / 0.003)


def test_pretended_engine_answers_whole_streams_by_both_protocols() -> None:
    async def ask(port: int) -> list[str]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            pieces = [piece async for piece in TritonWorker(channel).generate(GenerateRequest(model="m"), timeout_s=10)]
        assert pieces[-1].finish_reason == FINISH_REASON_STOP
        return [piece.text for piece in pieces]

    command = [sys.executable, "-m", "bench.fake_engine", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        try:
            assert engine.stdout
            ports = json.loads(engine.stdout.readline())
            texts = asyncio.run(ask(ports["grpc"]))
            first_s = asyncio.run(_stream(ports["http"]))
        finally:
            engine.terminate()

    assert len(payloads()) == len(texts) == NUM_TOKENS
    assert first_s > 0
