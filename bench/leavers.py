"""Asks a mesh for something and leaves before it has come, by REST and by gRPC; does not know what becomes of it."""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from bench.private_mesh import PrivateMesh
from bench.prompts import Prompts
from zhinao.chat.v1.chat_pb2 import GenerateRequest, SamplingParams, StopConditions, TokenPrompt
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub
from zhinao.embedding.v1.embedding_pb2 import EmbedInput, EmbedRequest
from zhinao.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from zhinao.rerank.v1.rerank_pb2 import RerankRequest
from zhinao.rerank.v1.rerank_pb2_grpc import RerankServiceStub

_SHORT, _LONG = 24, 3000  # tokens of a prompt
_MAX_TOKENS: Final = 48
_NUM_TEXTS, _NUM_WORDS = 24, 100
_SOON_S, _LATER_S = 0.05, 1.0
_PATIENCE_S: Final = 60.0
_PATIENCES_S: Final = (0.8, 2.5)  # of a whole wave
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, as a client that dies does

_READING: Final = ("in the middle of the answer", "at the last token")  # they leave once they have read so much

# Where a client leaves, and how often.
MOMENTS: Final = {
    "inside its own request": 10,
    "at once": 15,
    "while its prompt is read": 20,
    "in the middle of the answer": 30,
    "at the last token": 10,
    "during an embedding": 8,
    "during a reranking": 7,
}


@dataclass(frozen=True, slots=True)
class Leaver:
    """One client: where it leaves, by which protocol, and whether with a reset of its connection."""

    moment: str
    protocol: str
    resets: bool

    @property
    def kind(self) -> str:
        """For the count."""
        return f"{self.protocol}, {self.moment}"


class Leavers:
    """Clients of one mesh; the same seed gives the same ones."""

    def __init__(self, mesh: PrivateMesh, seed: int) -> None:
        self._mesh = mesh
        self._random = random.Random(seed)  # noqa: S311  (a plan, not secrets)
        self._prompts = Prompts(seed)

    def draw(self) -> Leaver:
        """The next client; one who breaks off its own request does so over REST, where a request has a middle."""
        (moment,) = self._random.choices(list(MOMENTS), list(MOMENTS.values()))
        protocol = "REST" if moment == "inside its own request" else self._random.choice(("REST", "REST", "gRPC"))
        return Leaver(moment, protocol, resets=self._random.random() < 0.5)

    def draw_patience_s(self) -> float:
        """After how long those leave who are still there."""
        return self._random.uniform(*_PATIENCES_S)

    async def come_and_go(self, leaver: Leaver) -> bool:
        """Be that client; False if the answer was complete before it left."""
        await asyncio.sleep(self._random.random() * 0.5)
        act = self._rest if leaver.protocol == "REST" else self._grpc
        return await act(leaver)

    def _stay_s(self, moment: str) -> float | None:
        """How long it stays at most; None where it waits for what comes."""
        if moment == "at once":
            return self._random.uniform(0, _SOON_S)
        return None if moment in _READING else self._random.uniform(0, _LATER_S)

    def _num_pieces(self, moment: str) -> int:
        """After how many pieces of the answer it leaves."""
        if moment == "in the middle of the answer":
            return self._random.randrange(1, _MAX_TOKENS // 4)
        return _MAX_TOKENS if moment == "at the last token" else 1

    def _prompt(self, moment: str) -> list[int]:
        return self._prompts.take(_LONG if moment == "while its prompt is read" else _SHORT)

    def _texts(self) -> list[str]:
        return [self._prompts.take_text(_NUM_WORDS) for _ in range(_NUM_TEXTS)]

    def _body(self, moment: str) -> tuple[str, dict[str, Any]]:
        if moment == "during an embedding":
            return "/v1/embeddings", {"input": self._texts()}
        if moment == "during a reranking":
            return "/v1/rerank", {"query": "steam", "documents": self._texts()}
        body = {"prompt": self._prompt(moment), "max_tokens": _MAX_TOKENS, "ignore_eos": True, "stream": True}
        return "/v1/completions", body | {"temperature": 0}

    async def _rest(self, leaver: Leaver) -> bool:
        path, body = self._body(leaver.moment)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: leaver\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        request = f"{head}\r\n\r\n".encode() + data
        if leaver.moment == "inside its own request":
            request = request[: self._random.randrange(len(request))]
        reader, writer = await asyncio.open_connection(self._mesh.host, self._mesh.port)
        writer.write(request)
        reading = _read_events(reader, self._num_pieces(leaver.moment)) if leaver.moment in _READING else reader.read()
        try:
            return await _has_left(reading, self._stay_s(leaver.moment))
        finally:
            if leaver.resets:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.close()

    async def _grpc(self, leaver: Leaver) -> bool:
        target = f"{self._mesh.host}:{self._mesh.port}"
        async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = self._call(channel, leaver.moment)
            left = await _has_left(_read_pieces(call, self._num_pieces(leaver.moment)), self._stay_s(leaver.moment))
            if not leaver.resets:
                call.cancel()
        return left  # the channel is closed, and with it a call that was not cancelled

    def _call(self, channel: grpc.aio.Channel, moment: str) -> Any:  # noqa: ANN401  (a call with one answer or many)
        if moment == "during an embedding":
            inputs = [EmbedInput(text=text) for text in self._texts()]
            return EmbeddingServiceStub(channel).Embed(EmbedRequest(inputs=inputs))
        if moment == "during a reranking":
            return RerankServiceStub(channel).Rerank(RerankRequest(query="steam", documents=self._texts()))
        stop = StopConditions(max_tokens=_MAX_TOKENS, ignore_eos=True)
        prompt, sampling = TokenPrompt(ids=self._prompt(moment)), SamplingParams(temperature=0)
        return ChatServiceStub(channel).Generate(GenerateRequest(tokens=prompt, stop=stop, sampling=sampling))


async def _has_left(reading: Awaitable[object], stay_s: float | None) -> bool:
    """Read, but stay no longer than that; False if everything was read. Raises TimeoutError if nothing ever comes."""
    try:
        async with asyncio.timeout(_PATIENCE_S if stay_s is None else stay_s):
            await reading
    except TimeoutError:
        if stay_s is None:
            raise
        return True
    return stay_s is None  # then it has read as much as it wanted, and goes


async def _read_events(reader: asyncio.StreamReader, count: int) -> None:
    """Read so many events, or up to the one that ends the answer: [DONE] is not read."""
    for _ in range(count):
        if b'"finish_reason":"' in await reader.readuntil(b"\n\n"):
            return


async def _read_pieces(call: Any, count: int) -> None:  # noqa: ANN401
    if hasattr(call, "read"):
        for _ in range(count):
            piece = await call.read()
            if piece is grpc.aio.EOF or piece.finish_reason:
                return
    else:
        await call
