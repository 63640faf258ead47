"""Answers every chat with the same tokens at the same pace, by OpenAI's HTTP and by Triton's gRPC; runs no model.

It computes and parses next to nothing, so that what is measured in front of it is the gateway.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from functools import cache
from typing import Any, Final

import grpc
import uvloop
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferResponse, ModelStreamInferResponse

from bench.fake_answer import MODEL, payloads
from meshkit.errors import MeshError, Reason
from meshkit.wire import RESPONSE_TENSOR, encode_error


def _frames() -> list[bytes]:
    """The answer as Triton sends it, with the empty frame that ends it."""
    messages = [ModelInferResponse(parameters={"triton_final_response": InferParameter(bool_param=True)})]
    for payload in reversed(payloads()):
        output = ModelInferResponse.InferOutputTensor(name=RESPONSE_TENSOR, datatype="BYTES", shape=[1])
        content = len(payload).to_bytes(4, "little") + payload
        messages.append(ModelInferResponse(outputs=[output], raw_output_contents=[content]))
    return [ModelStreamInferResponse(infer_response=message).SerializeToString() for message in reversed(messages)]


@cache
def _events() -> list[bytes]:
    """The answer as OpenAI's events, each an HTTP chunk."""
    base = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    num_tokens = len(payloads())
    texts = []
    for index in range(num_tokens):
        is_last = index == num_tokens - 1
        choice = {"index": 0, "delta": {"content": " word"}, "finish_reason": "stop" if is_last else None}
        texts.append(json.dumps({**base, "choices": [choice]}))
    usage = {"prompt_tokens": 9, "completion_tokens": num_tokens, "total_tokens": 9 + num_tokens}
    texts += [json.dumps({**base, "choices": [], "usage": usage}), "[DONE]"]
    events = [f"data: {data}\n\n".encode() for data in texts]
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    return [*chunks[: num_tokens - 1], b"".join(chunks[num_tokens - 1 :]) + b"0\r\n\r\n"]


_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS: Final = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "fake"}]}).encode()


async def _answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gap_s: float) -> None:
    """One connection, request after request."""
    events = _events()
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if length := int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0):
                await reader.readexactly(length)
            if not head.startswith(b"post "):
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(_MODELS), _MODELS)
                )
                continue
            writer.write(_HEAD)
            for event in events:
                await asyncio.sleep(gap_s)
                writer.write(event)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


class _Room:
    """What the engine can do at once: answers that it writes, and places for those and others that wait."""

    def __init__(self, num_servers: int, num_places: int) -> None:
        self.servers = asyncio.Semaphore(num_servers)
        self.num_free = num_places


def _grpc_handler(gap_s: float, room: _Room) -> grpc.GenericRpcHandler:
    frames = _frames()
    full = ModelStreamInferResponse(error_message=encode_error(MeshError(Reason.QUEUE_FULL, "no place is free")))
    refusal = full.SerializeToString()

    async def infer(_requests: Any, _context: Any) -> AsyncGenerator[bytes, None]:  # noqa: ANN401
        if room.num_free == 0:
            yield refusal
            return
        room.num_free -= 1
        try:
            async with room.servers:
                for frame in frames[:-2]:
                    await asyncio.sleep(gap_s)
                    yield frame
                await asyncio.sleep(gap_s)
        finally:
            room.num_free += 1
        yield frames[-2]
        yield frames[-1]

    methods = {"ModelStreamInfer": grpc.stream_stream_rpc_method_handler(infer)}
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)


async def _serve(gap_s: float, room: _Room) -> None:
    """Print both ports as JSON once they are open."""
    http = await asyncio.start_server(lambda reader, writer: _answer_http(reader, writer, gap_s), "127.0.0.1", 0)
    triton = grpc.aio.server(handlers=[_grpc_handler(gap_s, room)])
    ports = {"http": http.sockets[0].getsockname()[1], "grpc": triton.add_insecure_port("127.0.0.1:0")}
    await triton.start()
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await http.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1]), _Room(*map(int, sys.argv[2:] or (2**20, 2**20)))))
