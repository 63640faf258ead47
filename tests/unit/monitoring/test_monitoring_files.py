"""The alert rules and the dashboard: Prometheus's own tool accepts them, and all they name is exported."""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.fixtures.debian import program
from tests.fixtures.exported import exported_names

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"
OF_PROMETHEUS = {"up"}


@pytest.mark.timeout(180)  # where it must be installed first
@pytest.mark.parametrize("words", [("check", "rules", "alerts.yaml"), ("test", "rules", "tests/alerts.yaml")])
def test_promtool_accepts_the_rules_and_their_tests(words: Sequence[str]) -> None:
    promtool = program("promtool", "prometheus")

    result = subprocess.run([promtool, *words], cwd=FOLDER, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tested_to_fire() -> None:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((FOLDER / "tests" / "alerts.yaml").read_text())["tests"]

    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}

    assert fired == {rule["alert"] for rule in rules}


@pytest.mark.timeout(180)
def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{index}", "expr": query} for index, query in enumerate(dashboard_queries())]
    file = tmp_path / "panels.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}).replace("$__rate_interval", "5m"))

    result = subprocess.run(
        [program("promtool", "prometheus"), "check", "rules", file], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_metric_that_is_asked_for_is_exported() -> None:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    exported = exported_names()

    for query in (*dashboard_queries(), *(rule["expr"] for rule in rules)):
        names = set(re.findall(r"\b(?:vllm:|mesh_|nv_|envoy_|gen_ai_(?:server|client)_)\w+|\bup\b", query))
        assert names, query
        assert names <= exported | OF_PROMETHEUS, f"{names - exported} in {query}"


def dashboard_queries() -> Iterator[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return (target["expr"] for panel in panels for target in panel["targets"])
