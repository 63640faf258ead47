"""The plan of a soak, how its answers are judged, and its verdict."""

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest

from bench.schemas import cases
from bench.soak_answers import Malformed, check
from bench.soak_plan import CHAT, TEXT, Ask, Plan
from bench.soak_verdict import Sample, failures, growths

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
WHOLE = Ask("short text", TEXT, {"prompt": [1, 2, 3], "max_tokens": 2})
STREAMED = Ask("short text", TEXT, {"prompt": [1, 2, 3], "max_tokens": 2, "stream": True})


def choice(text: str = "ab", *, finish_reason: str | None = "length", index: int = 0) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": finish_reason}


def stream(*choices: dict[str, Any], done: bool = True) -> str:
    bodies = [*({"choices": [each]} for each in choices), {"choices": [], "usage": USAGE}]
    events = [f"data: {json.dumps(body)}\n\n" for body in bodies]
    return "".join([*events, "data: [DONE]\n\n"] if done else events)


def whole(*choices: dict[str, Any], **usage: int) -> str:
    return json.dumps({"choices": choices, "usage": USAGE | usage})


def sample(at_s: float, rss_bytes: int, *, num_running: int = 0) -> Sample:
    return Sample(at_s, {"chat": rss_bytes}, 0, 0.0, num_running, 0)


def asks(seed: int, count: int) -> list[Ask]:
    return list(islice(Plan(seed, "m"), count))


def test_plan_is_the_same_for_the_same_seed_only() -> None:
    assert asks(1, 30) == asks(1, 30)
    assert asks(1, 30) != asks(2, 30)


def test_plan_mixes_everything() -> None:
    many = asks(0, 600)

    assert len({ask.kind for ask in many}) == 10
    assert {ask.path for ask in many} == {CHAT, TEXT}
    assert 0.08 < sum(ask.leave_s is not None for ask in many) / len(many) < 0.2
    assert {bool(ask.body.get("stream")) for ask in many} == {True, False}
    assert {ask.body.get("temperature") for ask in many if ask.status == 200} == {0, 0.8}
    assert max(len(ask.body.get("prompt", ())) for ask in many if ask.status == 200) > 2000


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (WHOLE, whole(choice())),
        (WHOLE, whole(choice(finish_reason="stop"), completion_tokens=1, total_tokens=4)),
        (STREAMED, stream(choice("a", finish_reason=None), choice("b"))),
    ],
)
def test_good_answer_passes(ask: Ask, text: str) -> None:
    check(ask, 200, text)


@pytest.mark.parametrize(
    ("ask", "text", "problem"),
    [
        (WHOLE, whole(choice(), total_tokens=6), "does not add up"),
        (WHOLE, whole(choice(), completion_tokens=1, total_tokens=4), "reached the limit"),
        (WHOLE, whole(choice(), prompt_tokens=4, total_tokens=6), "4 prompt tokens instead of 3"),
        (WHOLE, whole(choice(finish_reason="error")), "ends with error"),
        (WHOLE, whole(choice(), choice(index=1)), r"choices \[0, 1\]"),
        (STREAMED, stream(choice(), done=False), "DONE"),
        (STREAMED, stream(choice(), choice("c")), "after its end"),
        (STREAMED, stream(choice(finish_reason=None)), "ends with None"),
        (STREAMED, "nonsense\n" + stream(choice()), "no event"),
        (STREAMED, 'data: {"error": {"message": "lost"}}\n\ndata: [DONE]\n\n', "lost"),
    ],
)
def test_wrong_answer_is_named(ask: Ask, text: str, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        check(ask, 200, text)


def test_status_must_be_the_expected_one() -> None:
    refusal = json.dumps({"error": {"message": "no"}})

    check(Ask("invalid", TEXT, {}, status=400), 400, refusal)
    with pytest.raises(Malformed, match="HTTP 503 instead of 200"):
        check(WHOLE, 503, refusal)


def test_stop_text_in_an_answer_is_wrong() -> None:
    ask = Ask("stop texts", TEXT, WHOLE.body | {"stop": ["x"]})

    with pytest.raises(Malformed, match="stop text 'x'"):
        check(ask, 200, whole(choice("a x")))


def test_missing_log_probabilities_are_wrong() -> None:
    ask = Ask("logprobs", TEXT, WHOLE.body | {"logprobs": 0})

    check(ask, 200, whole(choice() | {"logprobs": {"tokens": ["a", "b"]}}))
    with pytest.raises(Malformed, match="of 1 tokens instead of 2"):
        check(ask, 200, whole(choice() | {"logprobs": {"tokens": ["a"]}}))


@pytest.mark.parametrize(
    ("text", "finish_reason", "problem"),
    [("{", "stop", "not an example"), ("{}", "stop", "not an example"), ("{", "length", "does not end")],
)
def test_answer_must_be_an_example_of_its_schema(text: str, finish_reason: str, problem: str) -> None:
    flat = next(case for case in cases() if case.name == "flat-1")
    ask = Ask("json_schema", TEXT, WHOLE.body, schema=flat)

    check(ask, 200, whole(choice('{"field_0": 7}', finish_reason="stop")))
    with pytest.raises(Malformed, match=problem):
        check(ask, 200, whole(choice(text, finish_reason=finish_reason)))


def test_growth_is_from_the_end_of_the_warm_up_by_medians() -> None:
    peak = [10_000 if number % 10 == 5 else 1000 for number in range(80)]
    samples = [sample(number, rss) for number, rss in enumerate([*range(20), *peak[:70], *[1010] * 10])]

    (growth,) = growths(samples)

    assert (growth.name, round(growth.ratio, 3)) == ("chat", 0.01)


@pytest.mark.parametrize(
    ("rss", "num_running", "num_errors", "found"),
    [
        ([100] * 10, 0, 0, []),
        ([50, 50, *[100] * 7, 101], 0, 0, []),
        ([100] * 9 + [102], 0, 0, ["the RSS of chat grew by 2.00%"]),
        ([100] * 10, 1, 0, ["afterwards: 1 running, 0 waiting, 0.00% of the KV cache in use"]),
        ([100] * 10, 0, 3, ["3 wrong answers"]),
    ],
)
def test_verdict_names_what_failed(rss: Sequence[int], num_running: int, num_errors: int, found: list[str]) -> None:
    samples = [sample(number, each) for number, each in enumerate(rss)]

    assert failures(samples, sample(99, 100, num_running=num_running), num_errors) == found
