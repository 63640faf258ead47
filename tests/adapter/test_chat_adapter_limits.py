"""What the chat worker refuses, at the start and at the door, and what it frees when callers leave."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from meshkit.errors import Reason
from modelkit import threads
from services.chat_worker.engine.sequence import FinishReason
from services.chat_worker.spans import ChatTracer
from services.chat_worker.worker import ChatWorker
from tests.adapter.chat_calls import (
    USER,
    answer,
    chat,
    failure,
    greedy,
    send,
    wait_for,
)
from tests.adapter.conftest import MakeAdapter
from tests.fakes import pb_utils
from tests.fixtures.tiny_zhinao import write_tiny_zhinao
from workerkit.traces import RequestTrace
from zhinao.chat.v1 import chat_pb2


@pytest.mark.parametrize(
    ("request_", "reason", "param", "words"),
    [
        (chat(), Reason.INVALID_REQUEST, "messages", ["empty"]),
        (chat((0, "x")), Reason.INVALID_REQUEST, "messages[0].role", ["system"]),
        (chat_pb2.GenerateRequest(), Reason.INVALID_REQUEST, "prompt", ["missing"]),
        (chat_pb2.GenerateRequest(text=""), Reason.INVALID_REQUEST, "prompt", ["no tokens"]),
        (chat((USER, "x"), model="other"), Reason.MODEL_NOT_FOUND, "model", ["tiny", "other"]),
        (chat((USER, "好" * 300)), Reason.PROMPT_TOO_LONG, "messages", ["256"]),
        (chat((USER, "x"), **greedy(250)), Reason.PROMPT_TOO_LONG, "max_tokens", ["250", "256"]),
        (chat((USER, "x"), **greedy(0)), Reason.INVALID_REQUEST, "max_tokens", ["0", "1"]),
        (
            chat_pb2.GenerateRequest(tokens=chat_pb2.TokenPrompt(ids=[5, 1024])),
            Reason.INVALID_REQUEST,
            "prompt",
            ["1024"],
        ),
        (
            chat((USER, "x"), sampling=chat_pb2.SamplingParams(temperature=2.5)),
            Reason.INVALID_REQUEST,
            "temperature",
            ["2.5", "2"],
        ),
        (chat((USER, "x"), sampling=chat_pb2.SamplingParams(top_p=0)), Reason.INVALID_REQUEST, "top_p", ["0", "1"]),
        (chat((USER, "x"), top_logprobs=21), Reason.INVALID_REQUEST, "top_logprobs", ["21", "20"]),
        (
            chat((USER, "x"), stop=chat_pb2.StopConditions(texts=[str(n) for n in range(17)])),
            Reason.INVALID_REQUEST,
            "stop",
            ["17", "16"],
        ),
    ],
)
def test_a_bad_request_is_refused_naming_the_field_and_the_numbers(
    make_adapter: MakeAdapter, request_: chat_pb2.GenerateRequest, reason: Reason, param: str, words: list[str]
) -> None:
    error = failure(make_adapter(), request_)
    assert (error.reason, error.param) == (reason, param)
    for word in words:
        assert word in error.message


def test_bytes_that_are_no_request_are_refused(make_adapter: MakeAdapter) -> None:
    call = pb_utils.InferenceRequest(b"\xff\xff\xff")
    make_adapter().execute([call])
    _, error = call.sender.collect()
    assert error is not None
    assert "GenerateRequest" in error.message


def test_a_ping_is_answered_by_the_engine_with_nothing_in_it(make_adapter: MakeAdapter) -> None:
    call = pb_utils.InferenceRequest(b"", operation="ping")
    make_adapter().execute([call])
    assert call.sender.collect() == ([b""], None)


def test_a_ping_may_tell_how_many_threads_compute(make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, str]] = []
    monkeypatch.setattr(threads, "best_library", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: told.append((count, threading.current_thread().name)))
    adapter = make_adapter()

    for count in (2, 3):
        call = pb_utils.InferenceRequest(b"", operation="ping", threads=count)
        adapter.execute([call])
        assert call.sender.collect() == ([b""], None)

    assert told == [(3, "engine")]


def test_an_unknown_operation_is_refused(make_adapter: MakeAdapter) -> None:
    call = pb_utils.InferenceRequest(b"", operation="dance")
    make_adapter().execute([call])
    _, error = call.sender.collect()
    assert error is not None
    assert error.code == pb_utils.TritonError.UNSUPPORTED


def test_a_caller_who_leaves_frees_the_blocks_and_ends_the_stream(
    make_adapter: MakeAdapter, endless_zhinao: Path
) -> None:
    adapter = make_adapter(model_path=str(endless_zhinao))
    sender = send(adapter, chat((USER, "go on"), **greedy(4000)))
    sender.sent.get(timeout=10)
    assert wait_for("vllm:num_requests_running", 1)
    assert pb_utils.MetricFamily.metrics["vllm:kv_cache_usage_perc"].value > 0
    sender.leave()
    _, error = sender.collect()
    assert error is None
    assert wait_for("vllm:num_requests_running", 0)
    assert pb_utils.MetricFamily.metrics["vllm:kv_cache_usage_perc"].value == 0
    assert wait_for("vllm:request_success_total abort", 1)


def test_more_requests_than_the_worker_takes_are_refused_at_the_door(
    make_adapter: MakeAdapter, endless_zhinao: Path
) -> None:
    adapter = make_adapter(max_requests="1", model_path=str(endless_zhinao))
    running = send(adapter, chat((USER, "go on"), **greedy(4000)))
    running.sent.get(timeout=10)
    error = failure(adapter, chat((USER, "me too"), **greedy(4)))
    assert error.reason is Reason.QUEUE_FULL
    assert pb_utils.MetricFamily.metrics["vllm:admission_rejections_total QUEUE_FULL"].value == 1
    running.leave()
    running.collect()
    assert wait_for("vllm:num_requests_running", 0)
    assert answer(adapter, chat((USER, "and now"), **greedy(4)))


def test_bulk_requests_leave_places_for_interactive_ones(make_adapter: MakeAdapter, endless_zhinao: Path) -> None:
    adapter = make_adapter(max_requests="4", model_path=str(endless_zhinao))
    bulk = {"priority": chat_pb2.PRIORITY_BULK}
    running = [send(adapter, chat((USER, "go on"), **greedy(4000), **bulk)) for _ in range(3)]
    for sender in running:
        sender.sent.get(timeout=10)
    assert failure(adapter, chat((USER, "me too"), **greedy(4), **bulk)).reason is Reason.QUEUE_FULL
    assert answer(adapter, chat((USER, "and I"), **greedy(4)))
    for sender in running:
        sender.leave()
        sender.collect()
    assert wait_for("vllm:num_requests_running", 0)
    assert answer(adapter, chat((USER, "me again"), **greedy(4), **bulk))


def test_a_burst_is_refused_at_the_door_before_any_of_it_is_tokenised(
    make_adapter: MakeAdapter, endless_zhinao: Path
) -> None:
    adapter = make_adapter(max_requests="2", model_path=str(endless_zhinao))
    request = chat((USER, "go on"), **greedy(4000)).SerializeToString()
    calls = [pb_utils.InferenceRequest(request) for _ in range(50)]
    adapter.execute(calls)
    for call in calls:
        call.sender.leave()
    refusals = [error.message for _, error in (call.sender.collect() for call in calls) if error is not None]
    assert len(refusals) == 48
    assert all("QUEUE_FULL" in message for message in refusals)


@pytest.mark.parametrize("max_tokens", [1, 9999], ids=["answered", "refused"])
def test_a_request_that_ended_makes_room_for_the_next(make_adapter: MakeAdapter, max_tokens: int) -> None:
    adapter = make_adapter(max_requests="1")
    num_ended, deadline = 0, time.monotonic() + 5
    while num_ended < 3 and time.monotonic() < deadline:
        _, error = send(adapter, chat((USER, "hi"), **greedy(max_tokens))).collect()
        num_ended += error is None or "QUEUE_FULL" not in error.message
    assert num_ended == 3


def test_the_time_before_the_engine_counts_for_the_deadline_and_the_metrics(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, metrics = make_adapter(), pb_utils.MetricFamily.metrics
    monkeypatch.setattr(RequestTrace, "age_s", lambda _: 100.0)
    assert answer(adapter, chat((USER, "hi"), timeout_s=200, **greedy(4)))
    assert failure(adapter, chat((USER, "hi"), timeout_s=50, **greedy(4))).reason is Reason.DEADLINE
    assert wait_for("vllm:request_success_total error", 1)
    for name in ("vllm:request_queue_time_seconds", "vllm:time_to_first_token_seconds"):
        assert [100 <= seconds < 150 for seconds in metrics[name].observed] == [True]


def test_tokens_are_counted_in_the_metrics(make_adapter: MakeAdapter) -> None:
    pieces = answer(make_adapter(), chat((USER, "count"), **greedy(5)))
    assert wait_for("vllm:prompt_tokens_total", pieces[-1].usage.prompt_tokens)
    assert wait_for("vllm:generation_tokens_total", pieces[-1].usage.completion_tokens)
    assert wait_for(f"vllm:request_success_total {FinishReason.LENGTH}", 1)
    metrics = pb_utils.MetricFamily.metrics
    assert len(metrics["vllm:time_to_first_token_seconds"].observed) == 1
    assert metrics["vllm:inter_token_latency_seconds_count"].value == 4
    assert metrics["vllm:request_generation_tokens"].observed == [5]
    (size,) = [name for name in metrics if name.startswith("vllm:cache_config_info")]
    assert metrics[size].value == 1


def test_a_broken_checkpoint_is_tritons_load_error_in_its_own_words(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    with pytest.raises(pb_utils.TritonModelException, match=r"config\.json"):
        make_adapter(model_path=str(tmp_path))


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused_with_both_numbers(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = write_tiny_zhinao(tmp_path, vocab_size=1000)
    with pytest.raises(pb_utils.TritonModelException, match=r"config\.json: vocab_size is 1000, .* 1024 ids"):
        make_adapter(model_path=str(folder))


def test_a_window_beyond_the_checkpoints_is_refused_with_both_numbers(make_adapter: MakeAdapter) -> None:
    with pytest.raises(pb_utils.TritonModelException, match=r"300.*256"):
        make_adapter(max_model_len="300")


@pytest.mark.parametrize(
    ("owner", "name"),
    [(ChatTracer, "begin"), (ThreadPoolExecutor, "submit"), (ChatWorker, "told"), (ChatWorker, "submit")],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_a_request_on_whose_way_something_breaks_is_answered_and_gives_its_place_up(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, owner: type[object], name: str
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    adapter = make_adapter(max_requests="1")
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, break_down)
        assert failure(adapter, chat((USER, "hi"), **greedy(4))).reason is Reason.INTERNAL
    assert answer(adapter, chat((USER, "hi"), **greedy(4)))
