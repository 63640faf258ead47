"""Clients that leave, and a gateway that is asked to."""

import asyncio

import pytest

from tests.contract.gateway.conftest import Mesh, metrics_hold, running_mesh
from tests.fakes.triton import Hold, last, piece

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}


async def test_a_client_that_leaves_a_stream_cancels_it_upstream(mesh: Mesh) -> None:
    mesh.triton.script = [piece("a"), Hold(), last()]

    async with mesh.http.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
        await anext(answer.aiter_lines())
        await mesh.triton.holding.wait()

    await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)
    await metrics_hold(mesh, "mesh_requests_running 0.0")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_byte_cancels_upstream(stream: bool) -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [Hold(), last()]

        asking = asyncio.create_task(mesh.http.post(CHAT, json={**BODY, "stream": stream}))
        await mesh.triton.holding.wait()
        await metrics_hold(mesh, "mesh_requests_running 1.0")
        asking.cancel()

        await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)
        await metrics_hold(mesh, 'mesh_requests_total{code="499",route="/v1/chat/completions"} 1.0')
        await metrics_hold(mesh, "mesh_requests_running 0.0")


async def test_a_client_that_leaves_disturbs_no_other(mesh: Mesh) -> None:
    hold = Hold()
    mesh.triton.script = [piece("a"), hold, last("b")]
    staying = asyncio.create_task(mesh.http.post(CHAT, json=BODY))
    await mesh.triton.holding.wait()

    async with mesh.http.stream("POST", CHAT, json={**BODY, "stream": True}) as leaving:
        await anext(leaving.aiter_lines())
    await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)
    hold.release.set()

    assert (await staying).json()["choices"][0]["message"]["content"] == "ab"


async def test_draining_refuses_new_answers_and_lets_running_ones_end() -> None:
    async with running_mesh() as mesh:
        hold = Hold()
        mesh.triton.script = [piece("a"), hold, last("b")]
        running = asyncio.create_task(mesh.http.post(CHAT, json=BODY))
        await mesh.triton.holding.wait()

        draining = asyncio.create_task(mesh.admission.drain(timeout_s=30))
        await asyncio.sleep(0)  # let it begin
        refused = await mesh.http.post(CHAT, json=BODY)
        ready = await mesh.http.get("/ready")
        alive = await mesh.http.get("/health")
        hold.release.set()
        await draining

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert (ready.status_code, alive.status_code) == (503, 200)
        assert (await running).json()["choices"][0]["message"]["content"] == "ab"


async def test_draining_ends_after_its_bound(caplog: pytest.LogCaptureFixture) -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [Hold()]
        running = asyncio.create_task(mesh.http.post(CHAT, json=BODY))
        await mesh.triton.holding.wait()

        await mesh.admission.drain(timeout_s=0.01)

        assert "1 answers were still running" in caplog.text
        running.cancel()


async def test_one_that_leaves_says_so_and_still_serves() -> None:
    async with running_mesh() as mesh:
        before = await mesh.http.get("/serving")
        mesh.admission.leave()

        told = [(await mesh.http.get(path)).status_code for path in ("/serving", "/ready", "/health")]

        assert before.status_code == 200
        assert told == [503, 503, 200]
        assert (await mesh.http.post(CHAT, json=BODY)).status_code == 200
