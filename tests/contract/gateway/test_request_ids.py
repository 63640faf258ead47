"""A request has one id, in its answer's header, in its message and in the log, whatever a client sent."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from services.gateway.call import begin_call
from tests.contract.gateway.conftest import Mesh
from tests.contract.gateway.refusals import CHAT, chat
from tests.fakes.triton import ErrorText
from tests.fixtures.envoy import running_envoy
from tests.fixtures.servers import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEPT = ["mine", "x" * 128, "!~", "%REQ(host)%'\"\\"]
REPLACED = ["x" * 129, "a b", "é".encode()]


@pytest.mark.parametrize("sent", [*KEPT, *REPLACED])
async def test_a_failed_answer_names_one_id(mesh: Mesh, tmp_path: Path, sent: str | bytes) -> None:
    mesh.triton.script = [ErrorText("Traceback: secret")]  # a failure of which nothing is told but the id

    async with running_envoy(tmp_path, urlsplit(mesh.url).port or 0, grpc_port=mesh.grpc_port) as port:
        answer = await ask(port, sent)

    assert answer.status_code == 500
    (told,) = answer.headers.get_list("x-request-id")
    assert told in answer.json()["error"]["message"]
    assert (told == sent) == (sent in KEPT)


@pytest.mark.parametrize("sent", REPLACED)
async def test_what_envoy_says_itself_names_an_id_that_a_gateway_would_take(tmp_path: Path, sent: str | bytes) -> None:
    async with running_envoy(tmp_path, free_port(), grpc_port=free_port()) as port:
        answer = await ask(port, sent)

    assert answer.status_code == 503
    (told,) = answer.headers.get_list("x-request-id")
    assert begin_call(told, None, None).request_id == told
    assert f'"request_id":"{told}"' in log_of(tmp_path)


def log_of(folder: Path) -> str:
    return "".join(log.read_text() for log in folder.glob("*.log"))


async def ask(port: int, request_id: str | bytes) -> httpx.Response:
    raw = request_id.encode() if isinstance(request_id, str) else request_id
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        return await http.post(CHAT, json=chat(), headers={"x-request-id": raw})
