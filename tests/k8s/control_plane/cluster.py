"""A real Kubernetes control plane on loopback, with nodes that only pretend: they call every pod they get ready."""

import json
import secrets
import shlex
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mesh.cache import cache_folder
from tests.fixtures.kubectl import kubectl

Object = dict[str, Any]
VERSION = "1.20.2"
BINARIES = cache_folder() / "kubernetes" / VERSION / "bin"
_PATCH = "application/merge-patch+json"
_CONDITIONS = ("Initialized", "Ready", "ContainersReady", "PodScheduled")


def build() -> None:
    """Build the control plane, unless that was done; some 10 minutes the first time."""
    subprocess.run([Path(__file__).with_name("build.sh"), BINARIES.parent], check=True)


class Cluster:
    """etcd, API server, controllers and scheduler; a context in which they run. folder: theirs, empty.

    transcript: lines of what was asked with kubectl, what was said, and what was waited for.
    """

    def __init__(self, folder: Path) -> None:
        self.transcript: list[str] = []
        self._folder, self._running = folder, ExitStack()
        self._port, self._etcd, self._peers = (_free_port() for _ in range(3))
        self._token = secrets.token_hex(16)
        self._tls = ssl._create_unverified_context()
        self._stopping = threading.Event()
        self._addresses = iter(range(2, 1 << 16))

    def __enter__(self) -> "Cluster":
        self._write_files()
        with ExitStack() as starting:
            starting.push(self._running)
            self._start("etcd", *self._etcd_words())
            self._start(str(BINARIES / "kube-apiserver"), *self._api_words())
            self.wait_until("the API server is ready", self._is_ready)
            common = [f"--kubeconfig={self._folder / 'kubeconfig'}", "--bind-address=127.0.0.1", "--leader-elect=false"]
            common += ["--port=0", "--secure-port=0"]
            key = f"--service-account-private-key-file={self._folder / 'key'}"
            sync = "--horizontal-pod-autoscaler-sync-period=1s"
            self._start(str(BINARIES / "kube-controller-manager"), key, sync, *common)
            self._start(str(BINARIES / "kube-scheduler"), *common)
            starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._running.close()

    def kubectl(self, *words: str, given: Sequence[Object] = (), fails: bool = False) -> str:
        """What kubectl says; `given` is its standard input. fails: whether it must."""
        command = [kubectl(), f"--kubeconfig={self._folder / 'kubeconfig'}", *words]
        text = yaml.safe_dump_all(given)
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
        said = result.stdout + result.stderr
        assert (result.returncode != 0) == fails, said
        self.tell(f"$ kubectl {shlex.join(words)}", said)
        return said

    def tell(self, *texts: str) -> None:
        """Add to the transcript."""
        self.transcript += [line.rstrip() for text in texts for line in text.splitlines()]

    @contextmanager
    def untold(self) -> Generator[None]:
        """What is asked inside is not in the transcript."""
        length = len(self.transcript)
        yield
        del self.transcript[length:]

    def ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        """One request to the API server. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self._token}", "content-type": kind}
        request = urllib.request.Request(f"https://127.0.0.1:{self._port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20, context=self._tls) as answer:
            return json.loads(answer.read() or b"{}")

    def get(self, path: str) -> Object:
        """An object, or the list that lies there."""
        return self.ask("GET", path)

    def wait_until(self, what: str, holds: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait for the controllers to make something so."""
        began_s = time.monotonic()
        while not holds():
            assert time.monotonic() < began_s + timeout_s, f"{what}: not within {timeout_s} s"
            time.sleep(0.2)
        self.tell(f"# {what}: after {time.monotonic() - began_s:.1f} s")

    def add_node(self, name: str, *, gpus: int = 0) -> None:
        """A node of 64 processors; one with GPUs is kept for those who ask for them."""
        capacity = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
        taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if gpus else []
        labels = {"kubernetes.io/hostname": name}
        node = {"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}
        self.ask("POST", "/api/v1/nodes", {"kind": "Node", "apiVersion": "v1", **node})
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [_condition("Ready")]}
        self.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, _PATCH)
        thread = threading.Thread(target=self._pretend, args=(name,))
        thread.start()
        self._running.callback(thread.join)
        self._running.callback(self._stopping.set)

    def _pretend(self, node: str) -> None:
        """Be the node's kubelet: pods that come are ready, pods that are deleted are gone."""
        while not self._stopping.wait(0.4):
            try:
                self.ask(
                    "PATCH", f"/api/v1/nodes/{node}/status", {"status": {"conditions": [_condition("Ready")]}}, _PATCH
                )
                for pod in self.get(f"/api/v1/pods?fieldSelector=spec.nodeName={node}")["items"]:
                    self._pretend_pod(pod)
            except (OSError, urllib.error.HTTPError):  # somebody else changed it, or the server is leaving
                continue

    def _pretend_pod(self, pod: Object) -> None:
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        if "deletionTimestamp" in pod["metadata"]:
            self.ask("DELETE", path, {"gracePeriodSeconds": 0})
        elif pod["status"].get("phase") == "Pending":
            containers = [
                {"name": each["name"], "image": each["image"], "imageID": each["image"], "ready": True}
                | {"restartCount": 0, "state": {"running": {"startedAt": _now()}}}
                for each in pod["spec"]["containers"]
            ]
            address = next(self._addresses)
            status = {
                "phase": "Running",
                "podIP": f"10.1.{address >> 8}.{address & 255}",
                "startTime": _now(),
                "conditions": [_condition(kind) for kind in _CONDITIONS],
                "containerStatuses": containers,
            }
            self.ask("PATCH", f"{path}/status", {"status": status}, _PATCH)

    def _is_ready(self) -> bool:
        try:
            self.get("/api/v1/namespaces/default")
        except (OSError, ValueError):
            return False
        return True

    def _start(self, program: str, *words: str) -> None:
        log = self._running.enter_context((self._folder / f"{Path(program).name}.log").open("wb"))
        process = subprocess.Popen([program, *words], cwd=self._folder, stdout=log, stderr=log)
        self._running.callback(process.wait)
        self._running.callback(process.kill)

    def _write_files(self) -> None:
        for words in (["genrsa", "-out", "key", "2048"], ["rsa", "-in", "key", "-pubout", "-out", "key.pub"]):
            subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)
        (self._folder / "tokens").write_text(f"{self._token},admin,admin,system:masters\n")
        server = {"server": f"https://127.0.0.1:{self._port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
            "current-context": "local",
        }
        (self._folder / "kubeconfig").write_text(yaml.safe_dump(config))

    def _etcd_words(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._peers}"
        words = ["--data-dir=etcd", "--unsafe-no-fsync", f"--listen-client-urls={client}"]
        words += [f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"]
        return [*words, f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]

    def _api_words(self) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # the address of the kubernetes Service cannot be on loopback
            f"--secure-port={self._port}",
            "--cert-dir=certificates",
            "--token-auth-file=tokens",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-signing-key-file=key",
            "--service-account-key-file=key.pub",
            "--service-cluster-ip-range=10.96.0.0/16",
        ]


def _condition(kind: str) -> Object:
    return {
        "type": kind,
        "status": "True",
        "reason": "Pretended",
        "lastTransitionTime": _now(),
        "lastHeartbeatTime": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
