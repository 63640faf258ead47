"""The pods of k8s/ run as their manifests say: not root, on a read-only tree, with their variables and probes."""

import os
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.architecture.source_tree import ROOT
from tests.e2e.conftest import wait_until
from tests.fixtures.container import copy_context, require_namespaces, running, variables
from tests.fixtures.manifests import Object, of_kind, pod
from tests.fixtures.tiny_zhinao import write_tiny_zhinao

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BUILD: Final = "cpu-demo"
MAPS: Final = {each["metadata"]["name"]: each["data"] for each in of_kind(BUILD, "ConfigMap")}
SOONER: Final = {"GATEWAY_LEAVE_S": "0"}  # nobody needs to hear that it leaves


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Containerfiles copy."""
    require_namespaces()
    folder = tmp_path_factory.mktemp("context")
    copy_context(folder)
    (folder / ".venv").mkdir()
    folder.chmod(0o755)  # pytest's own are closed to others
    return folder


def deployment(workload: str) -> Object:
    (found,) = [each for each in of_kind(BUILD, "Deployment") if each["metadata"]["name"] == workload]
    return found


def volumes(workload: str, folder: Path) -> dict[str, Path]:
    """A folder for each volume, that anybody may write to."""
    folders = {}
    for volume in pod(deployment(workload))["volumes"]:
        folders[volume["name"]] = folder / volume["name"]
        folders[volume["name"]].mkdir()
        for name, text in MAPS.get(volume.get("configMap", {}).get("name"), {}).items():
            (folders[volume["name"]] / name).write_text(text)
        folders[volume["name"]].chmod(0o1777)
    return folders


@pytest.mark.parametrize("workload", ["gateway", "envoy", "chat-worker"])
def test_a_pod_starts_answers_its_probes_and_ends(workload: str, context: Path, tmp_path: Path) -> None:
    built, folders = deployment(workload), volumes(workload, tmp_path) | {"context": context}
    if "models" in folders:
        checkpoint = folders["models"] / "chat" / "demo"
        checkpoint.parent.mkdir()
        write_tiny_zhinao(tmp_path).rename(checkpoint)
        (checkpoint / ".complete").touch()  # so that nothing is fetched
    for container in pod(built).get("initContainers", []):
        with running(built, container, variables(container, MAPS), folders, tmp_path / container["name"]) as prepared:
            assert prepared.process.wait(60) == 0
    (container,) = pod(built)["containers"]

    with running(built, container, variables(container, MAPS) | SOONER, folders, tmp_path / workload) as started:
        up = container["startupProbe"]
        assert wait_until(lambda: started.process.poll() is not None or started.passes(up), 90), log(
            tmp_path / workload
        )
        for probe in ("readinessProbe", "livenessProbe"):
            assert started.passes(container[probe]), log(tmp_path / workload)
        status = started.run("cat", "/proc/1/status").stdout
        assert f"Uid:\t{pod(built)['securityContext']['runAsUser']}\t" in status
        assert "CapEff:\t0000000000000000\n" in status and "NoNewPrivs:\t1\n" in status
        for place in ("/", "/usr", str(ROOT)):
            assert started.run("test", "-w", place).returncode == 1
        os.kill(started.pid, signal.SIGTERM)
        assert started.process.wait(60) == 0, log(tmp_path / workload)


def log(root: Path) -> str:
    return root.with_suffix(".log").read_text()
