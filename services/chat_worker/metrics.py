"""Decides what is measured of the engine and under which names, those of vLLM's dashboards; knows no Triton."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.generation import Finish, Load, Piece
from services.chat_worker.engine.sequence import FinishReason
from workerkit.metrics import Kind, MakeMetric, Row, TalliedHistogram

_ABORT, _ERROR = "abort", "error"  # what vLLM calls the end of an answer whose caller left, or that failed


_CACHE: Final = Row("vllm:cache_config_info", "Size of the KV cache: tokens a block, blocks; always 1")
_GAUGES: Final[Mapping[str, Row]] = MappingProxyType(  # by the field of Load
    {
        "num_running": Row("vllm:num_requests_running", "Answers in the running batch"),
        "num_waiting": Row("vllm:num_requests_waiting", "Answers that wait for room"),
        "waiting_tokens": Row("mesh_tokens_waiting", "Prompt tokens that are not computed yet"),
        "kv_usage_ratio": Row("vllm:kv_cache_usage_perc", "Share of KV-cache blocks in use, 0 to 1"),
    }
)
_COUNTERS: Final[Mapping[str, Row]] = MappingProxyType(  # by the field of Load
    {
        "prompt_tokens": Row("vllm:prompt_tokens_total", "Prompt tokens read"),
        "generation_tokens": Row("vllm:generation_tokens_total", "Tokens generated"),
        "num_preemptions": Row("vllm:num_preemptions_total", "Answers that gave up their blocks"),
        "num_prefix_queried": Row("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache"),
        "num_prefix_hit": Row("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache"),
        "num_draft_tokens": Row("vllm:spec_decode_num_draft_tokens_total", "Tokens guessed ahead"),
        "num_accepted_draft_tokens": Row("vllm:spec_decode_num_accepted_tokens_total", "Guessed tokens that held"),
    }
)

# vLLM's bucket bounds, so that its dashboards and alerts fit
_TTFT_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TOKENS: Final = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))

_TTFT: Final = Row("vllm:time_to_first_token_seconds", "From arrival to the first token")
_GAP: Final = Row("vllm:inter_token_latency_seconds", "From a step that added to an answer to the next")
_GAPS_A_TIME: Final = 1024  # how many may be missing from the page while answers grow
_ENDED: Final = Row("vllm:request_success_total", "Answers that ended, by finished_reason; abort: the caller left")
_REJECTED: Final = Row("vllm:admission_rejections_total", "Requests refused for want of room, by reason")


class _OfFinish(NamedTuple):
    """A histogram with one observation per answer; value says which, None for none."""

    row: Row
    buckets: Sequence[float]
    value: Callable[[Finish], float | None]


def _per_token_s(finish: Finish) -> float | None:
    return finish.decode_s / (finish.completion_tokens - 1) if finish.completion_tokens > 1 else None


_OF_FINISH: Final = (
    _OfFinish(Row("vllm:e2e_request_latency_seconds", "From arrival to the last token"), _REQUEST_S, Finish.total_s),
    _OfFinish(Row("vllm:request_queue_time_seconds", "Wait for the first step"), _REQUEST_S, attrgetter("queue_s")),
    _OfFinish(Row("vllm:request_prefill_time_seconds", "Reading the prompt"), _REQUEST_S, attrgetter("prefill_s")),
    _OfFinish(Row("vllm:request_decode_time_seconds", "Writing the answer"), _REQUEST_S, attrgetter("decode_s")),
    _OfFinish(
        Row("vllm:request_time_per_output_token_seconds", "Decode time by tokens after the first"),
        _TOKEN_S,
        _per_token_s,
    ),
    _OfFinish(Row("vllm:request_prompt_tokens", "Tokens of the prompt"), _TOKENS, attrgetter("prompt_tokens")),
    _OfFinish(Row("vllm:request_generation_tokens", "Tokens written"), _TOKENS, attrgetter("completion_tokens")),
)


class EngineMetrics:
    """The engine's load and the story of every answer, which is what the names call a request.

    reject may be called on any thread; what an outbox's Observer promises is called on the outbox's.
    """

    def __init__(self, make: MakeMetric, *, model_id: str) -> None:
        self._make = make
        self._labels = {"model_name": model_id}
        self._gauges = {field: make(Kind.GAUGE, row, self._labels) for field, row in _GAUGES.items()}
        self._counters = {field: make(Kind.COUNTER, row, self._labels) for field, row in _COUNTERS.items()}
        self._shown: dict[str, float] = {}  # by gauges and counters, per field of Load
        self._ended = {
            reason: make(Kind.COUNTER, _ENDED, self._labels | {"finished_reason": reason})
            for reason in (*FinishReason, _ABORT, _ERROR)
        }
        self._rejected = make(Kind.COUNTER, _REJECTED, self._labels | {"reason": Reason.QUEUE_FULL})
        self._ttft = make(Kind.HISTOGRAM, _TTFT, self._labels, _TTFT_S)
        self._gap = TalliedHistogram(make, _GAP, self._labels, _TOKEN_S)
        self._of_finish = [
            (make(Kind.HISTOGRAM, row, self._labels, buckets), value) for row, buckets, value in _OF_FINISH
        ]

    def describe_cache(self, *, num_blocks: int, block_len: int) -> None:
        """Say how large the KV cache is; once, when it is known."""
        sizes = {"block_size": str(block_len), "num_gpu_blocks": str(num_blocks)}  # vLLM's words on any device
        self._make(Kind.GAUGE, _CACHE, self._labels | sizes).set(1)

    def reject(self) -> None:
        """A request was refused at the door: there was no room for it."""
        self._rejected.increment(1)

    def count_piece(self, piece: Piece) -> None:
        """See Observer."""
        (self._ttft if piece.first else self._gap).observe(piece.gap_s)
        ends_all = piece.finish is not None and not self._shown.get("num_running")
        if ends_all or self._gap.num_untold >= _GAPS_A_TIME:
            self._gap.tell()
        if piece.finish is None:
            return
        self._ended[piece.finish.reason].increment(1)
        for metric, value in self._of_finish:
            if (observed := value(piece.finish)) is not None:
                metric.observe(observed)

    def count_failure(self, error: MeshError) -> None:
        """See Observer."""
        if error.reason is Reason.QUEUE_FULL:
            self.reject()
        else:
            self._ended[_ERROR].increment(1)

    def count_departure(self) -> None:
        """See Observer."""
        self._ended[_ABORT].increment(1)

    def publish(self, load: Load) -> None:
        """See Observer. Only what changed is touched: each touch is a call into Triton's process.

        Gaps that are missing from the page are told when nothing runs any more: an answer's end may come before.
        """
        for field, metric in self._gauges.items():
            if (value := getattr(load, field)) != self._shown.get(field):
                metric.set(value)
                self._shown[field] = value
        for field, metric in self._counters.items():
            if gained := getattr(load, field) - self._shown.get(field, 0):
                metric.increment(gained)
                self._shown[field] = getattr(load, field)
        if not load.num_running:
            self._gap.tell()
