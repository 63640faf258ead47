"""Asks each part whether it can really serve; a part that merely listens does not pass."""

import http.client
import json
import socket
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import grpc
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest, ModelStreamInferResponse

from mesh.failure import MeshFailure
from mesh.plan import Model, ModelKind, Part, Plan
from meshkit.wire import OPERATION_PARAMETER, PING_TIMEOUT_S, REQUEST_TENSOR, THREADS_PARAMETER, Operation

_HTTP_TIMEOUT_S: Final = 2.0  # longer than a ping: a gateway says itself which model does not answer
FIRST_ANSWER_TIMEOUT_S: Final = 600.0  # a big model on a CPU
CHANNEL_OPTIONS: Final = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]

# What a model is asked first, by path; where there are two, the second is for those that refuse the first.
_QUESTIONS: Final[Mapping[ModelKind, Mapping[str, Mapping[str, object]]]] = MappingProxyType(
    {
        "chat": {
            "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1},
            "/v1/completions": {"prompt": "Hello", "max_tokens": 1},
        },
        "embed": {"/v1/embeddings": {"input": "Hello"}},
        "rerank": {"/v1/rerank": {"query": "Hello", "documents": ["Hello"]}},
    }
)


class Health(StrEnum):
    """What a probe found."""

    READY = "ready"
    STARTING = "starting"  # nothing listens yet
    NOT_READY = "not_ready"  # something listens and cannot serve


def ping_worker(
    target: str, model: str, timeout_s: float = PING_TIMEOUT_S, *, num_threads: int | None = None
) -> Health:
    """Send the ping that a worker answers between two steps of its work. target: host:port of its Triton's gRPC.

    model: its name inside Triton. num_threads: what it computes with from then on.

    Triton's own ready check is not enough: it passes with a dead Python stub.
    """
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except OSError:
        return Health.STARTING
    # On a thread of its own: Ctrl-C strikes the main thread, and inside gRPC it can leave a lock taken for ever.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_call_worker, target, _ping(model, num_threads), timeout_s).result()


def _call_worker(target: str, ping: ModelInferRequest, timeout_s: float) -> Health:
    with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        infer = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelStreamInferResponse.FromString,
        )
        try:
            # Read to the stream's own end: a stream that is dropped half-way keeps Triton from leaving later.
            replies = list(infer(iter([ping]), timeout=timeout_s))
        except grpc.RpcError:
            return Health.NOT_READY
    answered = bool(replies) and not any(reply.error_message for reply in replies)
    return Health.READY if answered else Health.NOT_READY


def _ping(model: str, num_threads: int | None) -> ModelInferRequest:
    threads = {} if num_threads is None else {THREADS_PARAMETER: InferParameter(int64_param=num_threads)}
    return ModelInferRequest(
        model_name=model,
        parameters={
            OPERATION_PARAMETER: InferParameter(string_param=Operation.PING),
            "triton_enable_empty_final_response": InferParameter(bool_param=True),
            **threads,
        },
        inputs=[ModelInferRequest.InferInputTensor(name=REQUEST_TENSOR, datatype="BYTES", shape=[1])],
        raw_input_contents=[struct.pack("<I", 0)],  # one BYTES element: its length, then nothing
    )


def get_ready(address: str, timeout_s: float = _HTTP_TIMEOUT_S) -> Health:
    """GET /ready of an HTTP server. address: host:port."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", "/ready")
        return Health.READY if connection.getresponse().status == 200 else Health.NOT_READY
    except ConnectionRefusedError:
        return Health.STARTING
    except (OSError, http.client.HTTPException):
        return Health.NOT_READY
    finally:
        connection.close()


def envoy_epoch(admin: str) -> int | None:
    """How many Envoys of this mesh ran before the one that serves now; None while it is not there. admin: host:port."""
    connection = http.client.HTTPConnection(admin, timeout=_HTTP_TIMEOUT_S)
    try:
        connection.request("GET", "/server_info")
        told = json.loads(connection.getresponse().read())
        return told["command_line_options"].get("restart_epoch", 0) if told["state"] == "LIVE" else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def probe(part: Part, plan: Plan) -> Health:
    """The check that fits the part: a worker's ping, the gateway's /ready, Envoy's admin /ready."""
    match part.kind:
        case "envoy":
            return get_ready(plan.admin)
        case "gateway":
            return get_ready(str(part.http).removeprefix("http://"))
        case "chat" | "embed" | "rerank":
            return ping_worker(str(part.grpc), part.kind)


def first_answer(edge: str, model: Model, timeout_s: float = FIRST_ANSWER_TIMEOUT_S, *, key: str | None = None) -> str:
    """Have a model compute one real token, vector or score through the edge. edge: URL. key: of a client.

    Returns the path that works: of a chat, or of a plain completion where the model has no chat template.
    Raises MeshFailure with the mesh's own words if none does.
    """
    status, answer = 0, ""
    for path, question in _QUESTIONS[model.kind].items():
        status, answer = _post(edge, path, {"model": model.id, **question}, timeout_s, key)
        if status == 200:
            return path
        if status != 400:
            break
    raise MeshFailure(f"model {model.id!r} did not answer at {edge}: HTTP {status}: {answer}")


def _post(edge: str, path: str, body: object, timeout_s: float, key: str | None) -> tuple[int, str]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    connection = http.client.HTTPConnection(edge.removeprefix("http://"), timeout=timeout_s)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise MeshFailure(f"{edge}{path}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
