"""The embedding worker in a real Triton behind the real mesh: its vectors, its queue, and what its operator sees."""

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from meshkit.wire import Operation
from modelkit.precision import Precision
from services.embed_worker.encoder import load_encoder
from services.embed_worker.request import EmbedRequest, Truncate
from services.gateway.upstream.frames import pack_request, unpack_response
from tests.e2e.conftest import Mesh, free_port, wait_until, zhinao
from zhinao.embedding.v1 import embedding_pb2

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MODEL = "zhinao-embed"
TEXTS = [
    "天空是什么颜色的",
    "天空是蓝色的",
    "What colour is the sky?",
    "x",
    "def f(x): return x + 1\n" * 8,
    "word " * 400,
]
LIBRARY = json.dumps({"input": ["a long passage about many things " * 36] * 2000})  # half a million tokens


@pytest.fixture(scope="module")
def expected(demo_embed_model: Path) -> NDArray[np.float32]:
    """The vectors of TEXTS in process."""
    encoder = load_encoder(demo_embed_model, Precision.FP32)
    request = EmbedRequest(tuple(TEXTS), False, None, None, Truncate.END, None)
    return encoder.encode([row.token_ids for row in encoder.prepare(request)])


def embed(mesh: Mesh, *texts: str) -> NDArray[np.float32]:
    with mesh.client() as client:
        answer = client.embeddings.create(model=MODEL, input=list(texts), extra_body={"truncate": "end"})
    return np.array([each.embedding for each in answer.data], dtype=np.float32)


def test_vectors_equal_those_in_process_together_and_alone(mesh: Mesh, expected: NDArray[np.float32]) -> None:
    with ThreadPoolExecutor(len(TEXTS)) as clients:
        alone = list(clients.map(lambda text: embed(mesh, text)[0], TEXTS))

    np.testing.assert_allclose(embed(mesh, *TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_a_plain_triton_client_gets_the_same_vectors(mesh: Mesh, expected: NDArray[np.float32]) -> None:
    address = next(part["grpc"] for part in mesh.parts() if part["model"] == MODEL)
    inputs = [embedding_pb2.EmbedInput(text=text) for text in TEXTS]
    asked = embedding_pb2.EmbedRequest(inputs=inputs, truncate=embedding_pb2.TRUNCATE_END).SerializeToString()
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        reply = infer(pack_request("embed", asked, request_id="", operation=Operation.EMBED), timeout=60)
    payload = unpack_response(reply)
    assert payload is not None
    response = embedding_pb2.EmbedResponse.FromString(payload)
    np.testing.assert_allclose([each.values for each in response.embeddings], expected, atol=1e-5)
    assert [each.truncated_tokens > 0 for each in response.embeddings] == [False] * 5 + [True]


def test_a_query_waits_for_a_batch_and_not_for_a_library_and_who_leaves_is_dropped(mesh: Mesh) -> None:
    page = next(part["metrics"] for part in mesh.parts() if part["model"] == MODEL)
    left = 'mesh_requests_ended_total{model_name="zhinao-embed",reason="CLIENT_CANCELLED"}'
    num_left = metric(page, left)
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json"
    with socket.create_connection(("127.0.0.1", mesh.port)) as library:
        library.sendall(f"{head}\r\ncontent-length: {len(LIBRARY)}\r\n\r\n{LIBRARY}".encode())
        assert wait_until(lambda: metric(page, "mesh_tokens_waiting") > 0, 60)
        embed(mesh, "a query")
        assert metric(page, "mesh_tokens_waiting") > 0, "the library was done before the query"
    assert wait_until(lambda: metric(page, left) > num_left, 30)
    assert wait_until(lambda: metric(page, "mesh_tokens_waiting") == 0, 5)


def metric(page: str, name: str) -> float:
    """A number of a worker's metrics page; 0 while it is not there."""
    lines = [line for line in httpx.get(page).text.splitlines() if line.startswith(name)]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def test_a_checkpoint_that_is_cut_short_is_refused_by_file(demo_embed_model: Path, tmp_path: Path) -> None:
    checkpoint = Path(copytree(demo_embed_model, tmp_path / "model"))
    weights = checkpoint / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    words = ("--port", str(free_port()), "--state", str(tmp_path / "state"), "--replicas", "chat=0,rerank=0")

    result = zhinao("up", "--detach", *words, "--embed-model", str(checkpoint), check=False)

    assert result.returncode == 1
    assert "model.safetensors" in result.stderr
