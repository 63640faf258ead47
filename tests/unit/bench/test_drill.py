"""What the drills say of a mesh that was broken."""

import asyncio
import json
from collections.abc import Sequence

import httpx
import pytest

from bench.drill import Look, recovery_s
from bench.drill_load import Load

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
