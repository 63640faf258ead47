"""What the drills say of a mesh that was broken."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from bench import drill_load
from bench.drill_load import Answer, Load, Tally
from bench.drill_outcome import Course, Look, Outcome, recovery_s

VECTORS = {"data": [{"embedding": [0.25, 0.5]}]}
SCORES = {"results": [{"index": 1, "relevance_score": 0.75}]}


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        ([True, True, True], 0.0),
        ([True, False, False, True, True], 1.5),
        ([False, True, False, True], 1.5),
        ([True, False], None),
    ],
)
def test_a_mesh_has_recovered_when_no_later_look_finds_anything_amiss(found: Sequence[bool], seconds: float) -> None:
    looks = [Look(0.5 * index, is_well) for index, is_well in enumerate(found)]

    assert recovery_s(looks) == seconds


@pytest.mark.parametrize(
    ("right", "other"),
    [
        (VECTORS, {"data": [{"embedding": [0.25, 0.5000001]}]}),
        (SCORES, {"results": [{"index": 0, "relevance_score": 0.75}]}),
    ],
)
def test_another_vector_or_score_than_at_first_is_counted_as_wrong(right: object, other: object) -> None:
    assert asyncio.run(outcomes(right, right)) == {"whole"}
    assert asyncio.run(outcomes(right, other)) == {"wrong"}


async def outcomes(first: object, later: object) -> set[str]:
    """What becomes of requests of which the first is answered otherwise than the later ones."""
    load, num_asked = Load("http://mesh"), 0

    def serve(_: httpx.Request) -> httpx.Response:
        nonlocal num_asked
        num_asked += 1
        return httpx.Response(200, content=json.dumps(first if num_asked == 1 else later))

    async with httpx.AsyncClient(base_url=load.url, transport=httpx.MockTransport(serve)) as client:
        await load.learn(client, [("/v1/embeddings", {"input": "a"})])
        await load.keep_asking(client, "vectors", [("/v1/embeddings", {"input": "a"})], lambda: num_asked > 2)
    return {each.outcome for each in load.answers}


async def told(*steps: bytes | float) -> Answer:
    """What is made of a stream of these lines and pauses."""

    async def lines() -> AsyncIterator[bytes]:
        for step in steps:
            if isinstance(step, bytes):
                yield step + b"\n\n"
            else:
                await asyncio.sleep(step)

    load = Load("http://mesh", expected={drill_load._key({}): "a"})
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=lines()))
    async with httpx.AsyncClient(base_url=load.url, transport=transport) as client:
        await load.keep_asking(client, "stream", [("/", {"stream": True})], lambda: bool(load.answers))
    (answer,) = load.answers
    return answer


A = b'data: {"choices": [{"delta": {"content": "a"}}]}'
DONE, ALIVE = b"data: [DONE]", b": keep-alive"


def test_a_stream_that_only_says_that_it_lives_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_load, "SILENT_S", 0.3)

    answer = asyncio.run(told(A, *[ALIVE, 0.05] * 100, DONE))

    assert (answer.outcome, answer.silence_s) == ("hung", 0.3)
    assert answer.ended_s - answer.began_s < 3


def test_a_sign_of_life_ends_no_silence_and_an_event_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_load, "SILENT_S", 0.5)

    answer = asyncio.run(told(b'data: {"choices": []}', 0.15, ALIVE, 0.15, A, 0.3, DONE))

    assert answer.outcome == "whole"
    assert 0.3 <= answer.silence_s < 0.5


@pytest.mark.parametrize(
    ("name", "tally", "recovery", "faults"),
    [
        ("nothing", Tally(9, 0, 0, 0, 0, 1.0), 0.0, []),
        ("nothing", Tally(9, 1, 2, 3, 4, 1.0), 0.0, ["1 lost", "2 broken", "3 wrong", "4 hung"]),
        ("kill -9 one of two gateways", Tally(9, 1, 2, 0, 0, 1.0), 3.0, ["1 lost"]),
        ("kill -9 Envoy", Tally(9, 1, 2, 0, 1, 1.0), 3.0, ["1 hung"]),
        ("nothing", Tally(9, 0, 0, 0, 0, 1.0), None, ["not well again"]),
    ],
)
def test_a_drill_fails_on_whatever_its_fault_does_not_excuse(
    name: str, tally: Tally, recovery: float | None, faults: list[str]
) -> None:
    assert Outcome(Course(name, 0.0, 1.0, recovery, 0), tally).faults() == faults
