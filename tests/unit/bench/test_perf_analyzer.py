"""What perf_analyzer is fed, and what its profile export says."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from bench.perf_analyzer.figures import Level, input_data, to_markdown
from bench.perf_analyzer.figures import read_export as read_export_of
from bench.perf_analyzer.subjects import SUBJECTS, ask_chat, count_written
from bench.prompts import Prompts
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_LENGTH, GenerateRequest, GenerateResponse
from zhinao.common.v1.common_pb2 import Usage
from zhinao.embedding.v1.embedding_pb2 import Embedding, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankResponse, RerankScore

MS = 1_000_000  # nanoseconds


def responses(num_tokens: int) -> list[dict[str, str]]:
    """The outputs of one answer, as the export spells bytes."""
    pieces = [GenerateResponse(text="é", token_ids=[200 + number]) for number in range(num_tokens)]
    pieces[-1].finish_reason = FINISH_REASON_LENGTH
    pieces[-1].usage.CopyFrom(Usage(completion_tokens=num_tokens))
    return [{"response": piece.SerializeToString().decode("latin-1")} for piece in pieces]


def export_of(*requests: dict[str, Any], concurrency: int = 2) -> dict[str, Any]:
    experiment = {"experiment": {"mode": "concurrency", "value": concurrency}, "requests": list(requests)}
    return {"experiments": [experiment]}


def request(sent_ms: int, *response_ms: int) -> dict[str, Any]:
    return {
        "timestamp": sent_ms * MS,
        "response_timestamps": [each * MS for each in response_ms],
        "response_outputs": responses(len(response_ms)),
    }


def read_export(export: dict[str, Any]) -> Level:
    return read_export_of(export, count_written)


def test_input_holds_each_request_as_an_element_with_its_length_before_it() -> None:
    data = json.loads(json.dumps(input_data([b"one", b"\x00\xff" * 40])))

    elements = [base64.b64decode(entry["request"]["b64"]) for entry in data["data"]]
    assert [int.from_bytes(element[:4], "little") for element in elements] == [len(each) - 4 for each in elements]
    assert [element[4:] for element in elements] == [b"one", b"\x00\xff" * 40]


def test_chat_is_asked_for_an_exact_number_of_new_tokens(demo_chat_model: Path) -> None:
    request = GenerateRequest.FromString(ask_chat(Prompts(0)))

    assert len(request.tokens.ids) == 64
    assert (request.stop.max_tokens, request.stop.ignore_eos, request.speculate) == (64, True, False)


@pytest.mark.parametrize(
    ("kind", "response"),
    [
        ("embed", EmbedResponse(embeddings=[Embedding(values=[1])], usage=Usage(prompt_tokens=66))),
        ("rerank", RerankResponse(scores=[RerankScore(raw=1)] * 8, usage=Usage(prompt_tokens=66))),
    ],
)
def test_one_response_counts_what_was_read_and_has_a_latency(
    kind: str, response: Message, demo_chat_model: Path
) -> None:
    payload = response.SerializeToString().decode("latin-1")
    asked = {"timestamp": 0, "response_timestamps": [500 * MS], "response_outputs": [{"response": payload}]}

    level = read_export_of(export_of(asked, concurrency=1), SUBJECTS[kind].num_tokens)

    assert SUBJECTS[kind].ask(Prompts(0))
    assert to_markdown([level]).splitlines()[2:] == ["| 1 | 1 | 2.00 | 132 | 500.0 | 500.0 |"]
    with pytest.raises(ValueError, match="an answer of 0 responses is not complete"):
        SUBJECTS[kind].num_tokens([])


def test_rates_are_of_the_whole_span_and_waits_of_each_request() -> None:
    level = read_export(export_of(request(1000, 1100, 1150, 1300), request(1500, 1900, 2000)))

    assert (level.concurrency, level.num_requests) == (2, 2)
    rates = (level.infer_per_s, level.responses_per_s, level.tokens_per_s)
    assert rates == pytest.approx((2.0, 5.0, 5.0))  # in one second
    assert level.ttft_s == pytest.approx((0.1, 0.4))
    assert level.gap_s == pytest.approx((0.1, 0.15))


def test_tokens_are_those_the_answer_counts_however_many_travel_together() -> None:
    merged = request(0, 500, 1000)
    merged["response_outputs"] = [merged["response_outputs"][0], responses(64)[-1]]

    level = read_export(export_of(merged))

    assert (level.responses_per_s, level.tokens_per_s) == pytest.approx((2.0, 64.0))


@pytest.mark.parametrize("num_kept", [0, 2])
def test_answer_that_is_cut_off_is_refused(num_kept: int) -> None:
    cut = request(0, 1, 2, 3)
    cut["response_outputs"] = cut["response_outputs"][:num_kept]

    with pytest.raises(ValueError, match=f"an answer of {num_kept} responses is not complete"):
        read_export(export_of(request(0, 1), cut))


def test_export_without_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="no request"):
        read_export(export_of())


def test_table_has_a_line_per_level_with_waits_in_milliseconds() -> None:
    level = read_export(export_of(request(0, 250, 1000), concurrency=1))

    assert to_markdown([level]).splitlines()[2:] == ["| 1 | 1 | 1.00 | 2 | 2 | 250.0 | 250.0 | 750.0 | 750.0 |"]
