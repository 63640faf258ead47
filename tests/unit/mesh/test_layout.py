"""From options to the plan of a mesh."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.envoy import Collector
from mesh.failure import MeshFailure
from mesh.layout import MAX_GATEWAYS, MAX_WORKERS, THREADS, Layout
from mesh.plan import EdgeLimits, Model, Options, Plan, load_plan, save_plan
from mesh.ports import BLOCK_LEN
from mesh.state import StateFolder
from mesh.supervisord import STOP_S
from services.gateway.settings import GatewaySettings


def make_options(*ids: str, host: str = "127.0.0.1", max_model_len: int | None = None) -> Options:
    """Models of the kind before the colon of their id, or chat."""
    pairs = [each.rpartition(":")[::2] for each in ids]
    models = tuple(Model(model_id, kind or "chat", f"/weights/{model_id}") for kind, model_id in pairs)
    return Options(host, 8360, models, {"chat": "fp32", "embed": "bf16", "rerank": "int8"}, max_model_len)


def make_plan(options: Options, tmp_path: Path) -> Plan:
    return Layout(options, StateFolder(tmp_path), 14_000).plan()


def test_every_address_on_loopback_is_used_once_and_lies_in_the_block(tmp_path: Path) -> None:
    kinds = {"chat": MAX_WORKERS - 1}
    options = replace(make_options("a", "embed:b"), num_gateways=MAX_GATEWAYS, replicas=kinds)

    config = Layout(options, StateFolder(tmp_path), 14_000).envoy_config()
    workers = make_plan(options, tmp_path).workers

    ports = [config.internal_port, config.admin_port, *config.gateway_http, *config.gateway_grpc]
    for worker in workers:
        ports += [int(str(url).split(":")[-1].removesuffix("/metrics")) for url in (worker.http, worker.grpc)]
        ports.append(int(str(worker.metrics).split(":")[-1].removesuffix("/metrics")))
    assert len(set(ports)) == len(ports) == 2 + 2 * MAX_GATEWAYS + 3 * MAX_WORKERS
    assert min(ports) == 14_000 and max(ports) < 14_000 + BLOCK_LEN


def test_each_model_gets_its_own_worker_with_its_settings(tmp_path: Path) -> None:
    first, second = make_plan(make_options("org/big", "small", max_model_len=512), tmp_path).workers

    assert (first.name, first.model) == ("org_big-0", "org/big")
    assert first.environment["CHAT_MODEL_PATH"] == "/weights/org/big"
    assert second.environment["CHAT_MAX_MODEL_LEN"] == "512"
    assert first.shm_prefix != second.shm_prefix
    assert f"--backend-config=python,shm-region-prefix-name={second.shm_prefix}" in second.command


def test_each_kind_has_its_own_triton_model_settings_and_cluster(tmp_path: Path) -> None:
    options = make_options("c", "embed:e", "rerank:r", max_model_len=512)
    workers = make_plan(options, tmp_path).workers

    for worker, kind, dtype in zip(workers, ("chat", "embed", "rerank"), ("fp32", "bf16", "int8"), strict=True):
        prefix = kind.upper()
        assert worker.kind == kind
        assert f"--load-model={kind}" in worker.command
        assert worker.environment[f"{prefix}_MODEL_ID"] == worker.model
        assert worker.environment[f"{prefix}_DTYPE"] == dtype
        assert (f"{prefix}_MAX_MODEL_LEN" in worker.environment) == (kind == "chat")
    clusters = [route.cluster for route in Layout(options, StateFolder(tmp_path), 14_000).envoy_config().models]
    assert clusters == ["chat-c", "embed-e", "rerank-r"]


def test_the_gateway_learns_the_models_in_order(tmp_path: Path) -> None:
    gateway = make_plan(make_options("b", "embed:a"), tmp_path).part("gateway-0")

    assert json.loads(gateway.environment["GATEWAY_MODELS"]) == [
        {"id": "b", "kind": "chat"},
        {"id": "a", "kind": "embed"},
    ]
    assert gateway.environment["GATEWAY_UPSTREAM"] == "127.0.0.1:14000"


def test_the_edge_and_the_gateways_have_one_limit_for_bodies(tmp_path: Path) -> None:
    options = replace(make_options("a"), limits=EdgeLimits(max_body_bytes=5))

    gateway = make_plan(options, tmp_path).part("gateway-0")
    config = Layout(options, StateFolder(tmp_path), 14_000).envoy_config()

    assert gateway.environment["GATEWAY_MAX_BODY_BYTES"] == str(config.limits.max_body_bytes) == "5"


def test_ids_that_would_share_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeshFailure, match="a_b-0"):
        make_plan(make_options("a/b", "a_b"), tmp_path)


def test_a_model_cannot_take_the_gateways_name(tmp_path: Path) -> None:
    with pytest.raises(MeshFailure, match="gateway-0"):
        make_plan(make_options("gateway"), tmp_path)


@pytest.mark.parametrize(
    ("host", "edge"),
    [
        ("127.0.0.1", "http://127.0.0.1:8360"),
        ("0.0.0.0", "http://127.0.0.1:8360"),
        ("::", "http://[::1]:8360"),
        ("10.1.2.3", "http://10.1.2.3:8360"),
    ],
)
def test_the_edge_url_can_be_reached_from_this_machine(host: str, edge: str, tmp_path: Path) -> None:
    assert make_plan(make_options("a", host=host), tmp_path).edge == edge


def test_a_plan_survives_the_disk(tmp_path: Path) -> None:
    plan = make_plan(make_options("a", "b"), tmp_path)

    save_plan(plan, tmp_path / "plan.json")

    assert load_plan(tmp_path / "plan.json") == plan


def test_no_plan_is_none_and_an_unknown_part_names_the_known_ones(tmp_path: Path) -> None:
    assert load_plan(tmp_path / "plan.json") is None
    with pytest.raises(KeyError, match="a-0, gateway-0, envoy"):
        make_plan(make_options("a"), tmp_path).part("nobody")


def test_a_plan_of_another_version_says_how_to_clear_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text('{"parts": 1}')

    with pytest.raises(MeshFailure, match=f"zhinao down --state {tmp_path}"):
        load_plan(tmp_path / "run" / "plan.json")


def test_several_gateways_have_their_own_ports_and_linger_when_they_leave(tmp_path: Path) -> None:
    options = replace(make_options("a"), num_gateways=2)
    layout = Layout(options, StateFolder(tmp_path), 14_000)
    first, second = (layout.plan().part(f"gateway-{replica}") for replica in range(2))

    ports = [*layout.envoy_config().gateway_http, *layout.envoy_config().gateway_grpc, *layout.worker_ports(0)]
    assert len(set(ports)) == len(ports) == 2 * 2 + 3
    assert first.http != second.http and first.grpc != second.grpc
    assert float(first.environment["GATEWAY_LEAVE_S"]) > 1
    longest_s = GatewaySettings.model_fields["request_timeout_s"].default
    assert longest_s <= float(first.environment["GATEWAY_DRAIN_TIMEOUT_S"]) < STOP_S["gateway"]
    assert (
        not {"GATEWAY_LEAVE_S", "GATEWAY_DRAIN_TIMEOUT_S"}
        & make_plan(make_options("a"), tmp_path).part("gateway-0").environment.keys()
    )


def test_replicas_of_a_model_are_workers_of_their_own_that_share_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    plan = make_plan(replace(make_options("a", "embed:e"), replicas={"chat": 3}), tmp_path)

    assert [part.name for part in plan.workers] == ["a-0", "a-1", "a-2", "e-0"]
    assert [part.replica for part in plan.replicas("a")] == [0, 1, 2]
    assert len({part.shm_prefix for part in plan.workers}) == len({part.grpc for part in plan.workers}) == 4
    assert [part.environment[THREADS] for part in plan.workers] == ["2", "2", "2", "8"]


def test_more_workers_than_ports_are_refused_with_both_numbers(tmp_path: Path) -> None:
    options = replace(make_options("a"), replicas={"chat": MAX_WORKERS + 1})

    with pytest.raises(MeshFailure, match=f"{MAX_WORKERS + 1} workers .* {MAX_WORKERS}"):
        make_plan(options, tmp_path)


def test_a_layout_is_found_again_from_its_plan(tmp_path: Path) -> None:
    layout = Layout(make_options("a"), StateFolder(tmp_path), 14_000)

    assert Layout.of(layout.plan(), StateFolder(tmp_path)) == layout


def test_envoys_collector_is_the_one_of_the_start_whatever_shell_asks_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(replace(make_options(), collector="http://127.0.0.1:4318"), tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")

    config = Layout.of(plan, StateFolder(tmp_path)).envoy_config()

    assert config.collector == Collector.at("http://127.0.0.1:4318")
