"""Says what every part of a mesh holds for its clients at a moment; does not know who they are."""

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import httpx

from bench.private_mesh import PrivateMesh
from mesh.plan import load_plan
from mesh.state import StateFolder
from mesh.triton import SHARED_MEMORY

# Zero in a mesh without clients. Of a worker's page, by kind of model:
_OF_WORKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat": ("vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting"),
    "embed": ("mesh_requests_waiting", "mesh_tokens_waiting"),
    "rerank": ("mesh_requests_waiting", "mesh_tokens_waiting"),
}
_OF_GATEWAY: Final = ("mesh_requests_running",)
_OF_ENVOY: Final = r"^(http\.(edge|internal)\.downstream_(cx|rq)_active|cluster\..*\.upstream_rq(_pending)?_active)$"
_POLL_S: Final = 0.02

Holdings = dict[str, float]


class Watch:
    """Looks into the metrics of a private mesh."""

    def __init__(self, mesh: PrivateMesh) -> None:
        plan = load_plan(StateFolder(mesh.state).plan)
        assert plan is not None, "the mesh runs"
        gateways = [part for part in plan.parts if part.kind == "gateway"]
        names = {f"{kind} worker": (worker.metrics, _OF_WORKERS[kind]) for kind, worker in mesh.workers.items()}
        self._pages = names | {part.name: (str(part.metrics), _OF_GATEWAY) for part in gateways}
        self._admin = f"http://{plan.admin}/stats?filter={_OF_ENVOY}"
        self._shared = StateFolder(mesh.state).shm_prefix
        self._client = httpx.AsyncClient(trust_env=False, timeout=10)

    async def close(self) -> None:
        """Leave the mesh's pages."""
        await self._client.aclose()

    async def look(self) -> Holdings:
        """Everything that is not zero, by part and name."""
        looks = [self._page(part, url, names) for part, (url, names) in self._pages.items()]
        found: Holdings = {}
        for look in await asyncio.gather(*looks, self._envoy()):
            found |= look
        return {name: value for name, value in found.items() if value}

    def shared_bytes(self) -> int:
        """Of shared memory, of all workers and their Triton."""
        return sum(path.stat().st_blocks * 512 for path in SHARED_MEMORY.glob(f"{self._shared}*"))

    async def seconds_until(self, baseline: Holdings, *, at_most_s: float) -> tuple[float, Holdings]:
        """How long until the mesh holds no more than that, and what it held too much of in the look before."""
        began_s, held = time.perf_counter(), {}
        while True:
            more = {name: value for name, value in (await self.look()).items() if value > baseline.get(name, 0)}
            seconds = time.perf_counter() - began_s
            if not more or seconds > at_most_s:
                return seconds, held | more
            held = more
            await asyncio.sleep(_POLL_S)

    async def _page(self, part: str, url: str, names: tuple[str, ...]) -> Holdings:
        found: Holdings = {}
        for line in (await self._client.get(url)).text.splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            if name in names:
                key = f"{part}: {name}"
                found[key] = found.get(key, 0) + float(line.rpartition(" ")[2])
        return found

    async def _envoy(self) -> Holdings:
        lines = (await self._client.get(self._admin)).text.splitlines()
        pairs = (line.partition(": ") for line in lines)
        return {f"Envoy: {name}": float(value) for name, _, value in pairs}


def describe(held: Holdings) -> str:
    """In one line, for a table."""
    return ", ".join(f"{name} {value:g}" for name, value in sorted(held.items())) or "nothing"
