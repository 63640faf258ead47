"""Measures what the gateway costs, beside LiteLLM's proxy and SMG in front of the same pretended engine."""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import psutil
from rich.console import Console

from bench.engines import bound, python_of
from bench.fake_answer import MODEL
from bench.figures import percentile
from bench.machine import RESULTS, ROOT, read_head

_DESCRIPTION = """
Streams chats of 8 tokens through this gateway (no Envoy), through LiteLLM's proxy and through SMG, each one process in
front of the same pretended engine, one after another in each round. Shown are the wait for the first event beyond the
wait without a gateway, streams per second, and streams per second of the gateway's own CPU. `make bench-peers` installs
the two.
"""
_CONCURRENCY: Final = (1, 32, 256)
_NUM_STREAMS: Final = {1: 100, 32: 640, 256: 1024}
_GAP_S: Final = 0.01  # between tokens
_START_S: Final = 90.0
_BODY: Final = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "Tell me about the steam engine."}], "stream": True}
).encode()


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway, or the engine itself. pid: whose CPU it uses, with its children; None for the engine."""

    name: str
    port: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One target at one concurrency. first_s: waits for the first event. cpu_s: of the gateway, per stream."""

    first_s: list[float]
    streams_per_s: float
    cpu_s: float


@dataclass(slots=True)
class Line:
    """Medians over the rounds of one target at one concurrency; added_s: beyond the engine's own waits, p50 and p99."""

    name: str
    concurrency: int
    added_s: tuple[float, float]
    streams_per_s: float
    streams_per_cpu_s: float


def main() -> None:
    """Measure, print the table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(prog="make bench-gateway", description=_DESCRIPTION)
    parser.add_argument("--reps", type=int, default=3, help="rounds per concurrency; default: %(default)s")
    parser.add_argument("--peers", default="litellm,smg", help="comma-separated; default: %(default)s")
    arguments = parser.parse_args()
    peers = [peer for peer in arguments.peers.split(",") if peer]
    lines: list[Line] = []
    with ExitStack() as stack:
        targets = _start_all(stack, peers)
        for concurrency in _CONCURRENCY:
            Console(stderr=True).print(f"measuring {concurrency} streams")
            rounds = [{each.name: _read(each, concurrency) for each in targets} for _ in range(arguments.reps + 1)]
            lines += _lines(concurrency, rounds[1:])  # the first one warms everything up
    head = read_head("fastapi", "grpcio")
    RESULTS.mkdir(exist_ok=True)
    report = {"head": asdict(head), "lines": [asdict(line) for line in lines]}
    (RESULTS / "gateway.json").write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(f"{to_markdown(lines)}\n{head}; median of {arguments.reps} rounds\n")


def _start_all(stack: ExitStack, peers: Sequence[str]) -> list[Target]:
    engine = stack.enter_context(_process([sys.executable, "-m", "bench.fake_engine", str(_GAP_S)], pipe=True))
    assert engine.stdout
    ports = json.loads(engine.stdout.readline())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    starts: dict[str, Callable[[int], tuple[Sequence[str | Path], Mapping[str, str]]]] = {
        "ours": lambda port: _ours(port, ports["grpc"]),
        "litellm": lambda port: _litellm(port, ports["http"], folder),
        "smg": lambda port: _smg(port, ports["http"]),
    }
    targets = [Target("engine", ports["http"], None)]
    for name in ("ours", *peers):
        port = _free_port()
        command, environment = starts[name](port)
        process = stack.enter_context(_process(command, environment))
        _wait_for(port, process, name)
        targets.append(Target(name, port, process.pid))
    return targets


@contextmanager
def capped_engine(gap_s: float, num_servers: int, num_places: int) -> Iterator[int]:
    """A gateway, at that port, in front of a pretended engine that refuses what it has no place for."""
    with ExitStack() as stack:
        sizes = [str(gap_s), str(num_servers), str(num_places)]
        engine = stack.enter_context(_process([sys.executable, "-m", "bench.fake_engine", *sizes], pipe=True))
        assert engine.stdout
        command, environment = _ours(port := _free_port(), json.loads(engine.stdout.readline())["grpc"])
        _wait_for(port, stack.enter_context(_process(command, environment)), "ours")
        yield port


def _ours(port: int, grpc_port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    models = json.dumps([{"id": MODEL, "kind": "chat", "created_s": 1}])
    settings = {"HTTP_PORT": str(port), "GRPC_PORT": "0", "UPSTREAM": f"127.0.0.1:{grpc_port}", "MODELS": models}
    return [sys.executable, "-m", "services.gateway"], {f"GATEWAY_{name}": value for name, value in settings.items()}


def _litellm(port: int, http_port: int, folder: Path) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    parameters = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{http_port}/v1", "api_key": "none"}
    config = folder / "litellm.yaml"  # JSON is YAML
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": parameters}]}))
    command = python_of("litellm").with_name("litellm")
    return [command, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"], {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch its price list
        "LITELLM_LOG": "ERROR",
    }


def _smg(port: int, http_port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    url = f"http://127.0.0.1:{http_port}"
    options = [
        "--backend",
        "openai",
        "--worker-urls",
        url,
        "--log-level",
        "error",
        "--prometheus-port",
        str(_free_port()),
    ]
    return [python_of("smg").with_name("smg"), "launch", "--host", "127.0.0.1", "--port", str(port), *options], {}


@contextmanager
def _process(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, *, pipe: bool = False
) -> Iterator["subprocess.Popen[str]"]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            bound(command),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", **(environment or {})},
            stdout=subprocess.PIPE if pipe else log,
            stderr=log,
            text=True,
        )
        try:
            yield process
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read()[-2000:].decode(errors="replace"))
            raise
        finally:
            process.terminate()
            process.communicate()


def _wait_for(port: int, process: "subprocess.Popen[str]", name: str) -> None:
    """Until it answers a chat."""
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            asyncio.run(_stream(port))
        except (OSError, asyncio.IncompleteReadError, RuntimeError):
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"{name} did not answer within {_START_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _read(target: Target, concurrency: int) -> Reading:
    num_streams = _NUM_STREAMS[concurrency]
    before_s, began_s = _cpu_s(target), time.perf_counter()
    first_s = asyncio.run(_streams(target.port, num_streams, concurrency))
    seconds = time.perf_counter() - began_s
    return Reading(first_s, num_streams / seconds, (_cpu_s(target) - before_s) / num_streams)


def _cpu_s(target: Target) -> float:
    if target.pid is None:
        return 0.0
    process = psutil.Process(target.pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


async def _streams(port: int, num_streams: int, concurrency: int) -> list[float]:
    places = asyncio.Semaphore(concurrency)

    async def stream() -> float:
        async with places:
            return await _stream(port)

    return await asyncio.gather(*(stream() for _ in range(num_streams)))


async def _stream(port: int) -> float:
    """Seconds to the first event of a stream on a connection of its own. Raises RuntimeError if it is not complete."""
    began_s = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer none\r\n"
        b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
    )
    try:
        start = await reader.readuntil(b'"content"')
        first_s = time.perf_counter() - began_s
        text = b""
        while b"[DONE]" not in text:
            if not (data := await reader.read(65536)):
                raise RuntimeError((start + text)[-300:].decode(errors="replace"))
            text += data
    finally:
        writer.close()
    return first_s


def _lines(concurrency: int, rounds: Sequence[Mapping[str, Reading]]) -> list[Line]:
    def over(name: str, value: Callable[[Reading], float]) -> float:
        return median(value(each[name]) for each in rounds)

    def added(name: str, percent: float) -> float:
        own = (percentile(each["engine"].first_s, percent) for each in rounds)
        return median(percentile(each[name].first_s, percent) - base for each, base in zip(rounds, own, strict=True))

    return [
        Line(
            name,
            concurrency,
            (added(name, 50), added(name, 99)),
            over(name, lambda reading: reading.streams_per_s),
            1 / over(name, lambda reading: reading.cpu_s),
        )
        for name in rounds[0]
        if name != "engine"
    ]


def to_markdown(lines: Sequence[Line]) -> str:
    """The table of docs/benchmarks.md."""
    rows = ["| streams at once | gateway | added wait p50, ms | p99, ms | streams/s | streams per CPU second |"]
    rows.append("|---|---|---|---|---|---|")
    rows += [
        f"| {line.concurrency} | {line.name} | {line.added_s[0] * 1e3:.2f} | {line.added_s[1] * 1e3:.2f} | "
        f"{line.streams_per_s:.0f} | {line.streams_per_cpu_s:.0f} |"
        for line in lines
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
