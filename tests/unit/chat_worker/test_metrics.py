"""What of the engine is shown, under the names that dashboards know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import pytest

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.generation import Finish, Load, Piece
from services.chat_worker.engine.sequence import FinishReason
from services.chat_worker.metrics import EngineMetrics
from workerkit.metrics import Kind, Row

# conventions of vLLM's v1/metrics/loggers.py
GAUGES = {
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"),
    "mesh_tokens_waiting",  # vLLM has none for that
}
COUNTERS = {
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "num_preemptions_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
    "admission_rejections_total",
    *(f"inter_token_latency_seconds_{part}" for part in ("bucket", "sum", "count")),  # a tallied histogram
}
HISTOGRAMS = {
    "time_to_first_token_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
}
IDLE = Load(0, 0, 0.0, 0, 0, 0)
BUSY = replace(IDLE, num_running=2)
FINISH = Finish(FinishReason.STOP, 7, 5, queue_s=0.5, prefill_s=1.0, decode_s=2.0)


@dataclass
class Page:
    """Stands in for Triton's metrics page: what each series was told."""

    told: dict[str, list[float]] = field(default_factory=dict)
    kinds: dict[Kind, set[str]] = field(default_factory=dict)
    labels: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, kind: Kind, row: Row, labels: Mapping[str, str], buckets: Sequence[float] = ()) -> "Series":
        assert row.name.startswith(("vllm:", "mesh_")) and labels["model_name"] == "tiny"
        assert list(buckets) == sorted(buckets) and bool(buckets) == (kind is Kind.HISTOGRAM)
        name = row.name.removeprefix("vllm:")
        self.kinds.setdefault(kind, set()).add(name)
        self.labels.append(dict(labels))
        more = [value for label, value in labels.items() if label != "model_name"]
        return Series(kind, self.told.setdefault(" ".join([name, *more]), []))

    def total(self, name: str) -> float:
        return sum(self.told[name])


@dataclass
class Series:
    kind: Kind
    told: list[float]

    def set(self, value: float) -> None:
        assert self.kind is Kind.GAUGE
        self.told.append(value)

    def increment(self, value: float) -> None:
        assert self.kind is Kind.COUNTER and value > 0
        self.told.append(value)

    def observe(self, value: float) -> None:
        assert self.kind is Kind.HISTOGRAM
        self.told.append(value)


def gap_buckets(page: Page) -> dict[str, float]:
    name = "inter_token_latency_seconds_bucket "
    return {series.removeprefix(name): sum(told) for series, told in page.told.items() if series.startswith(name)}


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def metrics(page: Page) -> EngineMetrics:
    return EngineMetrics(page, model_id="tiny")


def test_the_names_and_kinds_are_those_of_vllm(page: Page, metrics: EngineMetrics) -> None:
    metrics.describe_cache(num_blocks=9, block_len=32)
    assert page.kinds == {Kind.GAUGE: GAUGES, Kind.COUNTER: COUNTERS, Kind.HISTOGRAM: HISTOGRAMS}
    assert page.labels[-1] == {"model_name": "tiny", "block_size": "32", "num_gpu_blocks": "9"}
    assert page.told["cache_config_info 32 9"] == [1]


@pytest.mark.parametrize("name", [field.name for field in fields(Load)])
def test_every_number_of_the_load_is_shown_and_told_only_when_it_changed(
    page: Page, metrics: EngineMetrics, name: str
) -> None:
    metrics.publish(IDLE)
    before = {series: list(told) for series, told in page.told.items()}
    for value in (3, 3, 5):
        metrics.publish(replace(IDLE, **{name: value}))
    (new,) = [told[len(before[series]) :] for series, told in page.told.items() if told != before[series]]
    assert new in ([3, 5], [3, 2])  # a gauge is set, a counter gains


def test_an_answer_is_observed_once_with_its_times_and_tokens(page: Page, metrics: EngineMetrics) -> None:
    metrics.count_piece(Piece("a", (), gap_s=1.5, first=True))
    metrics.count_piece(Piece("b", (), gap_s=0.25))
    metrics.count_piece(Piece("c", (), finish=FINISH, gap_s=0.5, last=True))
    assert page.told["time_to_first_token_seconds"] == [1.5]
    assert page.total("inter_token_latency_seconds_sum") == 0.75
    assert page.total("inter_token_latency_seconds_count") == 2
    assert page.told["request_queue_time_seconds"] == [0.5]
    assert page.told["request_prefill_time_seconds"] == [1.0]
    assert page.told["request_decode_time_seconds"] == [2.0]
    assert page.told["e2e_request_latency_seconds"] == [3.5]
    assert page.told["request_time_per_output_token_seconds"] == [0.5]
    assert page.told["request_prompt_tokens"] == [7]
    assert page.told["request_generation_tokens"] == [5]
    assert page.told["request_success_total stop"] == [1]


def test_gaps_are_told_many_at_a_time_as_the_counters_of_a_histogram(page: Page, metrics: EngineMetrics) -> None:
    metrics.publish(BUSY)
    for gap_s in (*[0.025] * 1023, 0.026):
        assert set(gap_buckets(page).values()) == {0}
        metrics.count_piece(Piece("a", (), gap_s=gap_s))
    told = gap_buckets(page)
    assert told == {"0.01": 0, "0.025": 1023} | {bound: 1024 for bound in told if bound not in ("0.01", "0.025")}
    assert "+Inf" in told


@pytest.mark.parametrize("piece_first", [True, False])
def test_no_gap_is_missing_once_nothing_runs_whichever_is_heard_of_first(
    page: Page, metrics: EngineMetrics, piece_first: bool
) -> None:
    metrics.publish(BUSY)
    metrics.count_piece(Piece("a", (), finish=FINISH, gap_s=0.5))  # another answer goes on
    assert gap_buckets(page)["+Inf"] == 0
    last = Piece("b", (), finish=FINISH, gap_s=0.5, last=True)
    tell = [lambda: metrics.count_piece(last), lambda: metrics.publish(IDLE)]
    for each in tell if piece_first else reversed(tell):
        each()
    assert gap_buckets(page)["+Inf"] == 2


def test_an_answer_of_one_token_has_no_time_per_further_token(page: Page, metrics: EngineMetrics) -> None:
    metrics.count_piece(Piece("a", (), finish=replace(FINISH, completion_tokens=1), first=True))
    assert page.told["request_time_per_output_token_seconds"] == []


def test_ends_that_are_no_success_are_counted_by_what_they_were(page: Page, metrics: EngineMetrics) -> None:
    metrics.count_departure()
    metrics.count_failure(MeshError(Reason.INTERNAL, "broken"))
    metrics.count_failure(MeshError(Reason.QUEUE_FULL, "no room in the engine"))
    metrics.reject()
    assert page.total("request_success_total abort") == 1
    assert page.total("request_success_total error") == 1
    assert page.total("admission_rejections_total QUEUE_FULL") == 2
