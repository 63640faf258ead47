"""From Triton's request to Triton's response for workers that answer once, with a model that counts letters."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import MeshError, Reason
from meshkit.wire import Operation, decode_error
from tests.adapter.chat_calls import wait_for
from tests.fakes import pb_utils
from tests.fakes.otlp_sink import OtlpSink
from workerkit.prepared import Prepared
from workerkit.settings import UnarySettings

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
MakeUnary = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Word:
    """An item: one token a letter."""

    text: str
    truncated_tokens: int = 0

    @property
    def token_ids(self) -> list[int]:
        return [ord(letter) for letter in self.text]


class LetterCounter:
    """Answers the length of each word. Some words do harm: the test says which by name."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.threads: list[tuple[int, str]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.has_begun = threading.Event()

    def prepare(self, data: bytes) -> Prepared[Word, int]:
        words = data.decode().split()
        if "refuse" in words:
            raise MeshError(Reason.SPACE_MISMATCH, "refused", param="space")
        if "crash" in words:
            raise RuntimeError("secret words")
        items = [Word(word, truncated_tokens=int(word == "cut")) for word in words]
        return Prepared(items, lambda counts: self._encode(words, counts))

    def _encode(self, words: list[str], counts: Sequence[int]) -> bytes:
        if "unwritable" in words:
            raise RuntimeError("secret words")
        return " ".join(map(str, counts)).encode()

    def use_threads(self, count: int) -> None:
        self.threads.append((count, threading.current_thread().name))

    def run(self, items: Sequence[Word]) -> Sequence[int]:
        self.has_begun.set()
        assert self.may_go.wait(10)
        words = [item.text for item in items]
        self.computed += words
        if "poison" in words:
            raise RuntimeError("secret words")
        return [len(word) for word in words]


@pytest.fixture
def model() -> LetterCounter:
    return LetterCounter()


@pytest.fixture
def make_unary(start_unary: Callable[..., Any], model: LetterCounter) -> Iterator[MakeUnary]:
    """Makes started adapters around the model."""

    def make(**limits: int) -> Any:
        settings = UnarySettings(model_id="counter", model_path=Path(), **limits)  # type: ignore[arg-type]
        return start_unary(model, Operation.EMBED, settings)

    yield make
    model.may_go.set()


def send(adapter: Any, words: str, **parameters: str | int) -> pb_utils.ResponseSender:
    call = pb_utils.InferenceRequest(words.encode(), **parameters)
    adapter.execute([call])
    return call.sender


def answer(sender: pb_utils.ResponseSender) -> str:
    (data,), error = sender.collect()
    assert error is None
    return data.decode()


def failure(sender: pb_utils.ResponseSender) -> MeshError:
    data, error = sender.collect()
    assert error is not None and data == []
    decoded = decode_error(error.message)
    assert decoded is not None and "secret" not in decoded.message
    return decoded


def hold(adapter: Any, model: LetterCounter) -> pb_utils.ResponseSender:
    """Keep the model computing, so that what follows waits."""
    model.may_go.clear()
    model.has_begun.clear()
    sender = send(adapter, "held")
    assert model.has_begun.wait(10)
    return sender


def test_a_request_has_one_answer_in_the_order_of_its_items(make_unary: MakeUnary) -> None:
    assert answer(send(make_unary(), "one three fifteen")) == "3 5 7"


def test_the_operation_may_be_named_and_another_one_is_unknown(make_unary: MakeUnary) -> None:
    adapter = make_unary()

    assert answer(send(adapter, "one", operation="embed")) == "3"
    assert failure(send(adapter, "one", operation="generate")).reason is Reason.UNKNOWN_RPC


def test_a_ping_is_answered_by_the_thread_that_computes_and_may_tell_with_how_many(
    make_unary: MakeUnary, model: LetterCounter
) -> None:
    adapter = make_unary()
    hold(adapter, model)

    sender, telling = send(adapter, "", operation="ping"), send(adapter, "", operation="ping", threads=3)

    assert sender.sent.empty()
    model.may_go.set()
    assert [answer(sender), answer(telling)] == ["", ""]
    assert model.threads == [(3, "compute")]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("refuse", Reason.SPACE_MISMATCH),
        ("crash", Reason.INTERNAL),
        ("poison", Reason.INTERNAL),
        ("unwritable", Reason.INTERNAL),
        ("", Reason.INTERNAL),  # a model that prepares nothing is broken
    ],
)
def test_every_failure_is_answered_and_the_next_request_is_well(
    make_unary: MakeUnary, words: str, reason: Reason
) -> None:
    adapter = make_unary(max_requests=1)  # a place that is not given back would be missed

    assert failure(send(adapter, words)).reason is reason
    assert answer(send(adapter, "well")) == "4"


def test_one_request_too_many_is_refused_with_the_limit(make_unary: MakeUnary, model: LetterCounter) -> None:
    adapter = make_unary(max_requests=2)
    held, waiting = hold(adapter, model), send(adapter, "waits")

    error = failure(send(adapter, "late"))

    assert error.reason is Reason.QUEUE_FULL and "2" in error.message
    model.may_go.set()
    assert (answer(held), answer(waiting)) == ("4", "5")


def test_a_request_that_is_too_long_is_refused_with_both_numbers(make_unary: MakeUnary) -> None:
    error = failure(send(make_unary(max_request_tokens=6), "four four"))

    assert error.reason is Reason.INVALID_REQUEST
    assert "8" in error.message and "6" in error.message


def test_a_client_that_left_costs_no_computation_and_its_place_is_free(
    make_unary: MakeUnary, model: LetterCounter
) -> None:
    adapter = make_unary(max_requests=2)
    words = "gone " * 100  # of one word just come nobody asks: to compute it is cheaper
    held, gone = hold(adapter, model), send(adapter, words)
    gone.leave()

    model.may_go.set()

    assert failure(gone).reason is Reason.CLIENT_CANCELLED
    assert answer(held) == "4"
    assert answer(send(adapter, "next")) == "4"
    assert "gone" not in model.computed


def test_close_answers_what_was_accepted(make_unary: MakeUnary, model: LetterCounter) -> None:
    adapter = make_unary()
    held = hold(adapter, model)
    waiting = send(adapter, "waits")
    closing = threading.Thread(target=adapter.close)
    closing.start()

    model.may_go.set()
    closing.join(10)

    assert answer(held) == "4"
    data, error = waiting.collect()
    assert data == [b"5"] or error is not None  # it was computed, or refused: but answered


def test_batches_requests_and_tokens_are_counted(make_unary: MakeUnary) -> None:
    adapter = make_unary()
    answer(send(adapter, "one cut"))
    failure(send(adapter, "refuse"))

    assert wait_for("mesh_requests_ended_total ok", 1)
    assert wait_for("mesh_requests_ended_total SPACE_MISMATCH", 1)
    assert wait_for("mesh_inputs_total", 2)
    assert wait_for("mesh_input_tokens_total", 6)
    assert wait_for("mesh_truncated_inputs_total", 1)
    assert wait_for("mesh_requests_waiting", 0)
    assert wait_for("mesh_batch_tokens_sum", 6)
    assert wait_for("mesh_batch_tokens_bucket 16", 1)
    assert wait_for("mesh_request_queue_seconds_count", 1)


def test_a_request_is_in_progress_until_it_is_answered(make_unary: MakeUnary, model: LetterCounter) -> None:
    held = hold(make_unary(), model)
    assert wait_for("mesh_requests_in_progress", 1)
    assert wait_for("mesh_requests_waiting", 0)

    model.may_go.set()
    answer(held)

    assert wait_for("mesh_requests_in_progress", 0)


def test_a_requests_spans_join_the_trace_of_its_caller(make_unary: MakeUnary, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpSink().serve() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        assert answer(send(make_unary(), "one two", traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")) == "3 3"
        spans = sink.of_trace(TRACE_ID, {"embeddings counter", "queue", "forward"})
    root = spans["embeddings counter"]
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert root.start_time_unix_nano <= spans["queue"].start_time_unix_nano
    attributes = {each.key: each.value for each in root.attributes}
    assert attributes["gen_ai.usage.input_tokens"].int_value == 6
