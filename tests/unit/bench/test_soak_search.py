"""The plan of a search soak and how it judges answers."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from bench.soak_search import Ask, asks, problem_of


def test_a_seed_gives_the_same_mix_of_both_kinds_with_some_that_leave_or_are_wrong(demo_chat_model: Path) -> None:
    plan = list(asks(3, 1000))

    assert plan == list(asks(3, 1000))
    assert next(islice(asks(4, 1), 1)) != plan[0]
    paths = Counter(ask.path for ask in plan)
    assert min(paths["/v1/embeddings"], paths["/v1/rerank"]) > 300
    assert {ask.status for ask in plan} == {200, 400}
    assert any(ask.leave_s is not None for ask in plan)


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, {"data": [1, 2]}, None),
        (200, {"results": [1, 2]}, None),
        (200, {"data": [1]}, "1 answers instead of 2"),
        (500, {}, "HTTP 500 instead of 200"),
    ],
)
def test_an_answer_is_judged_by_status_and_number(status: int, body: object, problem: str | None) -> None:
    found = problem_of(Ask("/v1/embeddings", {}, num_answers=2), status, json.dumps(body))

    assert (found is None) if problem is None else (found is not None and found.startswith(problem))


def test_a_refusal_must_come_where_one_is_due() -> None:
    assert problem_of(Ask("/v1/rerank", {}, 1, status=400), 400, '{"error": {}}') is None
    assert problem_of(Ask("/v1/rerank", {}, 1, status=400), 200, '{"results": [1]}') is not None
