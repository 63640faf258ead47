"""Scripts of web pages, which a browser lets in only where the mesh says so."""

import pytest

from tests.contract.gateway.conftest import Mesh, running_mesh

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS, OTHER = {"origin": "https://chat.example"}, {"origin": "https://other.example"}
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
CHAT = "/v1/chat/completions"


async def test_no_page_is_let_in_by_default(mesh: Mesh) -> None:
    asked = await mesh.http.options(CHAT, headers={**OURS, **ASKS})
    answered = await mesh.http.get("/v1/models", headers=OURS)

    assert asked.status_code == 405
    assert "access-control-allow-origin" not in answered.headers


async def test_a_named_page_is_let_in_and_sees_failures_and_headers() -> None:
    async with running_mesh(cors_origins=["https://chat.example"]) as mesh:
        asked = await mesh.http.options(CHAT, headers={**OURS, **ASKS})
        refused = await mesh.http.post(CHAT, json={}, headers=OURS)
        foreign = await mesh.http.options(CHAT, headers={**OTHER, **ASKS})

    assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (
        200,
        ASKS["access-control-request-headers"],
    )
    assert refused.status_code == 400
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"
    assert refused.headers["access-control-expose-headers"] == "*"
    assert foreign.status_code == 400
    assert "access-control-allow-origin" not in foreign.headers
