"""The worker's spans on their way to a collector."""

import pytest

from tests.adapter.chat_calls import USER, chat, greedy
from tests.adapter.conftest import MakeAdapter
from tests.fakes import pb_utils
from tests.fakes.otlp_sink import OtlpSink

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def test_a_requests_spans_reach_the_collector_in_the_trace_of_its_caller(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OtlpSink().serve() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        adapter = make_adapter()
        body = chat((USER, "hi"), **greedy(4)).SerializeToString()
        call = pb_utils.InferenceRequest(body, traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
        adapter.execute([call])
        assert call.sender.collect()[1] is None
        spans = sink.of_trace(TRACE_ID, {"chat tiny", "queue", "prefill", "decode"})
        assert {service for service, _ in sink.spans} == {"chat_worker"}
    assert spans["chat tiny"].parent_span_id.hex() == "b7ad6b7169203331"
    root = spans["chat tiny"]
    assert root.start_time_unix_nano <= spans["queue"].start_time_unix_nano
    assert spans["decode"].end_time_unix_nano <= root.end_time_unix_nano
