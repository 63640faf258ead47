"""Measures what it is worth that a conversation returns to its worker: growing conversations on several workers.

`python -m bench.affinity` starts a mesh of its own and holds the same number of conversations twice: with Envoy's
choice by the beginning of the prompt, and with its choice of who has the fewest requests.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles

import httpx

from bench.machine import RESULTS, read_head
from bench.private_mesh import PrivateMesh, private_mesh
from bench.prompts import Prompts
from mesh.launch import wait_for_parts
from mesh.load import parse
from mesh.plan import Plan, load_plan
from mesh.state import StateFolder
from mesh.supervisord import Supervisor

_WORDS_A_TURN, _TOKENS_A_TURN, _SYSTEM_WORDS = 60, 32, 40
_BY_BEGINNING, _BY_LOAD = "lb_policy: RING_HASH", "lb_policy: LEAST_REQUEST"
_HITS, _QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
_ANSWERS = "vllm:e2e_request_latency_seconds_count"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one way to choose. hit_ratio: of prompt tokens. Times in seconds, to the first token of turns after the first.

    spread: answers of the busiest worker over the mean of all.
    """

    choice: str
    hit_ratio: float
    median_s: float
    p95_s: float
    spread: float
    total_s: float


async def _converse(client: httpx.AsyncClient, prompts: Prompts, system: str, num_turns: int) -> list[float]:
    """Hold one conversation; the time to the first token of each turn."""
    messages = [{"role": "system", "content": system}]
    waits: list[float] = []
    for _ in range(num_turns):
        messages.append({"role": "user", "content": prompts.take_text(_WORDS_A_TURN)})
        body = {
            "messages": messages,
            "stream": True,
            "temperature": 0,
            "max_tokens": _TOKENS_A_TURN,
            "ignore_eos": True,
        }
        text, began_s = "", time.perf_counter()
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith('data: {"error"'):
                    raise RuntimeError(line)
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line.removeprefix("data: "))["choices"]
                said = choices[0]["delta"].get("content") if choices else None
                if said and not text:
                    waits.append(time.perf_counter() - began_s)
                text += said or ""
        messages.append({"role": "assistant", "content": text})
    return waits


async def _converse_all(mesh: PrivateMesh, prompts: Prompts, num_conversations: int, num_turns: int) -> list[float]:
    system = prompts.take_text(_SYSTEM_WORDS)  # of one operator, so that all conversations begin alike
    async with httpx.AsyncClient(base_url=mesh.url, timeout=600) as client:
        many = (_converse(client, prompts, system, num_turns) for _ in range(num_conversations))
        return [wait for waits in await asyncio.gather(*many) for wait in waits[1:]]


def _counts(plan: Plan) -> list[dict[str, float]]:
    """What each worker has counted so far."""
    pages = [parse(httpx.get(str(part.metrics)).text) for part in plan.workers]
    return [{name: page.get(name, 0.0) for name in (_HITS, _QUERIES, _ANSWERS)} for page in pages]


def _measure(choice: str, mesh: PrivateMesh, plan: Plan, prompts: Prompts, shape: tuple[int, int]) -> Outcome:
    before, began_s = _counts(plan), time.perf_counter()
    waits = asyncio.run(_converse_all(mesh, prompts, *shape))
    total_s = time.perf_counter() - began_s
    time.sleep(1)  # counters are published every 50 ms, histograms when answers end
    gained = [
        {name: after[name] - was[name] for name in after} for was, after in zip(before, _counts(plan), strict=True)
    ]
    answers = [each[_ANSWERS] for each in gained]
    return Outcome(
        choice,
        hit_ratio=sum(each[_HITS] for each in gained) / sum(each[_QUERIES] for each in gained),
        median_s=median(waits),
        p95_s=quantiles(waits, n=20)[-1],
        spread=max(answers) * len(answers) / sum(answers),
        total_s=total_s,
    )


def _restart_envoy(state: StateFolder, plan: Plan, lb_policy: str) -> None:
    """Start Envoy anew with another choice of workers."""
    text = state.envoy_config.read_text()  # in which gateways are chosen by load either way
    state.envoy_config.write_text(text.replace(_BY_BEGINNING, lb_policy))
    supervisor, envoy = Supervisor(state), plan.part("envoy")
    supervisor.stop([envoy.name])
    supervisor.start_again(envoy.name)
    wait_for_parts([envoy], plan, state, lambda _: None)
    time.sleep(3)  # until Envoy has asked each worker whether it serves


def _table(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| choice | prefix tokens found | first token, median | p95 | busiest / mean | all turns |",
        "|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        lines.append(
            f"| {each.choice} | {each.hit_ratio:.1%} | {each.median_s:.3f} s | {each.p95_s:.3f} s "
            f"| {each.spread:.2f} | {each.total_s:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure both choices, print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--turns", type=int, default=8)
    words = parser.parse_args()
    prompts, outcomes = Prompts(1), list[Outcome]()
    replicas = f"chat={words.workers},embed=0,rerank=0"
    with private_mesh("--replicas", replicas) as mesh:
        state = StateFolder(mesh.state.resolve())
        plan = load_plan(state.plan)
        assert plan is not None, "the mesh runs"
        for choice, policy in (("beginning of the prompt", _BY_BEGINNING), ("fewest requests", _BY_LOAD)):
            _restart_envoy(state, plan, policy)
            outcomes.append(_measure(choice, mesh, plan, prompts, (words.conversations, words.turns)))
    head = read_head()
    sys.stdout.write(f"{head}\n\n{_table(outcomes)}\n")
    RESULTS.mkdir(exist_ok=True)
    report = {"head": asdict(head), "words": vars(words), "outcomes": [asdict(each) for each in outcomes]}
    (RESULTS / "affinity.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
