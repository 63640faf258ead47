"""One control plane for all tests here, with three nodes: two of four GPUs each, and one without."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.k8s.control_plane.cluster import Cluster, build

CRDS = Path(__file__).parents[1] / "fixtures" / "crds.yaml"
GPU_NODES = ("gpu-0", "gpu-1")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    build()
    with Cluster(tmp_path_factory.mktemp("control-plane")) as running:
        for name in GPU_NODES:
            running.add_node(name, gpus=4)
        running.add_node("cpu-0")
        running.kubectl("apply", "--server-side", "-f", "-", given=list(yaml.safe_load_all(CRDS.read_text())))
        running.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield running
