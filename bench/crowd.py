"""A crowd of clients who ask one server for streamed answers and come back when they are told to; knows no mesh."""

import asyncio
import json
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_HANG_S: Final = 120.0
_COME_S: Final = 2.0  # until all clients are there: one machine cannot open hundreds of connections at once
_REFUSED: Final = 503
_TOTAL: Final = re.compile(r"total;dur=([0-9.]+)")  # milliseconds, in server-timing


@dataclass(frozen=True, slots=True)
class Wait:
    """A client who was refused: what it was told first, and how long it was until it was let in, in seconds."""

    told_s: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One that was complete. Seconds from the question that was let in to the first event, and to the last."""

    first_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 503. Seconds: how long it took, from the client's connect on, and how long by the gateway's own account.

    by_worker: whether a worker was asked.
    """

    took_s: float
    gateway_s: float
    by_worker: bool


@dataclass(slots=True)
class Tally:
    """All that a crowd met with. lost: what was let in and did not end well."""

    answers: list[Answer] = field(default_factory=list[Answer])
    waits: list[Wait] = field(default_factory=list[Wait])
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    lost: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Crowd:
    """Clients of POST path at host:port. body: of every request; each client's own `user` tells them apart."""

    host: str
    port: int
    path: str
    body: Mapping[str, Any]

    async def ask_for(self, seconds: float, num_clients: int) -> Tally:
        """Ask all the time, each client one question after the other; who waits at the end is still served."""
        tally, end_s = Tally(), time.monotonic() + seconds
        await asyncio.gather(*(self._client(tally, end_s, f"client-{number}") for number in range(num_clients)))
        return tally

    async def _client(self, tally: Tally, end_s: float, name: str) -> None:
        await asyncio.sleep(random.random() * _COME_S)  # noqa: S311  (a plan, not secrets)
        number = 0
        while time.monotonic() < end_s:
            number += 1
            await self._ask_until_served(tally, f"{name}-{number}")

    async def _ask_until_served(self, tally: Tally, user: str) -> None:
        began_s, told_s = time.perf_counter(), None
        while True:
            asked_s = time.perf_counter()
            try:
                async with asyncio.timeout(_HANG_S):
                    wait_s = await self._ask(tally, user)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                tally.lost.append(f"{type(error).__name__}: {error}"[:200])
                return
            if wait_s is None:
                if told_s is not None:
                    tally.waits.append(Wait(told_s, asked_s - began_s))
                return
            if told_s is None:
                began_s, told_s = time.perf_counter(), wait_s
            await asyncio.sleep(wait_s)

    async def _ask(self, tally: Tally, user: str) -> float | None:
        """Read one answer; how long to wait if it is refused."""
        asked_s = time.perf_counter()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self._request(user))
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status == _REFUSED:
                await reader.read()
                headers = _headers(head)
                timing = headers["server-timing"]
                gateway_s = sum(float(ms) for ms in _TOTAL.findall(timing)) / 1000
                tally.refusals.append(Refusal(time.perf_counter() - asked_s, gateway_s, "worker" in timing))
                return int(headers["retry-after-ms"]) / 1000
            first = await reader.readuntil(b"\n\n")
            first_s = time.perf_counter() - asked_s
            text = first + await reader.read()
            if status != 200 or b"data: [DONE]" not in text:
                raise ValueError(f"{status} {text[-150:]!r}")
            tally.answers.append(Answer(first_s, time.perf_counter() - asked_s))
        finally:
            writer.close()
        return None

    def _request(self, user: str) -> bytes:
        data = json.dumps({**self.body, "user": user, "stream": True}).encode()
        lines = (
            f"POST {self.path} HTTP/1.1",
            "host: crowd",
            "content-type: application/json",
            "connection: close",
            f"authorization: Bearer {user}",
            f"content-length: {len(data)}",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def _headers(head: bytes) -> dict[str, str]:
    lines = (line.partition(": ") for line in head.decode("latin-1").lower().split("\r\n"))
    return {name: value for name, _, value in lines}
