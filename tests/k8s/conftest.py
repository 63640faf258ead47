"""One control plane for all tests here, its three nodes, two of four GPUs each and one without, and its transcript."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.k8s.control_plane.cluster import Cluster, build

CRDS = Path(__file__).parents[1] / "fixtures" / "crds.yaml"
GPU_NODES = ("gpu-0", "gpu-1")
COLUMNS = r"custom-columns=NAME:.metadata.name,CPU:.status.capacity.cpu,GPU:.status.capacity.nvidia\.com/gpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--transcript", type=Path, help="write here what kubectl was asked and said, if all tests pass")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    build()
    with Cluster(tmp_path_factory.mktemp("control-plane")) as running:
        running.transcript.clear()
        running.tell(f"Written by make k8s-e2e on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.")
        for name in GPU_NODES:
            running.add_node(name, gpus=4)
        running.add_node("cpu-0")
        running.kubectl("version")
        running.kubectl("apply", "--server-side", "-f", "-", given=list(yaml.safe_load_all(CRDS.read_text())))
        running.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        running.kubectl("get", "nodes", "-o", COLUMNS)
        yield running
        file = request.config.getoption("--transcript", default=None)
        if file is not None and not request.session.testsfailed:
            file.write_text("\n".join([*running.transcript, ""]))


@pytest.fixture(autouse=True)
def chapter(request: pytest.FixtureRequest, cluster: Cluster) -> None:
    """A headline of the transcript for each test."""
    title = request.node.originalname.removeprefix("test_").replace("_", " ")
    cluster.tell(f"\n== {title}{': ' + request.node.callspec.id if hasattr(request.node, 'callspec') else ''}")
