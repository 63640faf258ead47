"""Kubernetes' metrics APIs on loopback, which tell the autoscaler of every pod what a test wants it to hear."""

import json
import ssl
import subprocess
import threading
import urllib.error
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.k8s.control_plane.cluster import Cluster

CPU = "cpu"  # per cent of what a pod requests; it comes by an API of its own
_CUSTOM, _OF_RESOURCES = "custom.metrics.k8s.io", "metrics.k8s.io"
_APIS = "/apis/apiregistration.k8s.io/v1/apiservices"
_SERVICES = "/api/v1/namespaces/default/services"


@contextmanager
def metrics_api(
    cluster: Cluster, folder: Path, names: Sequence[str], value: Callable[[str, int], float]
) -> Generator[None]:
    """Serve CPU and these pod metrics, as the cluster's own. value: of a metric for each of so many running pods."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = json.dumps(self._answer(url.path, url.query)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self, path: str, query: str) -> dict[str, Any]:
            group, _, place = path.removeprefix("/apis/").partition("/v1beta1")
            told = {"apiVersion": f"{group}/v1beta1"}
            if not place:
                listed = [_resource(f"pods/{name}") for name in names] if group == _CUSTOM else [_resource("pods")]
                return {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": told["apiVersion"],
                    "resources": listed,
                }
            _, _, namespace, *_, name = place.split("/")
            pods = cluster.get(f"/api/v1/namespaces/{namespace}/pods?{query}")["items"]
            running = [each for each in pods if each["status"].get("phase") == "Running"]
            if group == _OF_RESOURCES:
                items = [_usage(each, value(CPU, len(running))) for each in running]
                return {**told, "kind": "PodMetricsList", "metadata": {}, "items": items}
            items = [_value(each, name, value(name, len(running))) for each in running]
            return {**told, "kind": "MetricValueList", "metadata": {}, "items": items}

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = _certificate(folder).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        _register(cluster, server.server_port)
        yield
    finally:
        for each in (f"{_APIS}/v1beta1.{_CUSTOM}", f"{_APIS}/v1beta1.{_OF_RESOURCES}", f"{_SERVICES}/metrics"):
            with suppress(urllib.error.HTTPError):  # it was not registered
                cluster.ask("DELETE", each)
        server.shutdown()
        thread.join()
        server.server_close()


def _resource(name: str) -> dict[str, Any]:
    return {"name": name, "namespaced": True, "kind": "MetricValueList", "verbs": ["get"]}


def _usage(pod: dict[str, Any], per_cent: float) -> dict[str, Any]:
    containers = []
    for each in pod["spec"]["containers"]:
        requested = each["resources"]["requests"]["cpu"]
        processors = float(requested.removesuffix("m")) / (1000 if requested.endswith("m") else 1)
        containers.append(
            {"name": each["name"], "usage": {"cpu": f"{processors * per_cent * 10:.0f}m", "memory": "1Mi"}}
        )
    metadata = {key: pod["metadata"][key] for key in ("name", "namespace")}
    return {"metadata": metadata, "timestamp": _now(), "window": "1s", "containers": containers}


def _value(pod: dict[str, Any], metric: str, value: float) -> dict[str, Any]:
    metadata = pod["metadata"]
    described = {"kind": "Pod", "apiVersion": "/v1", "name": metadata["name"], "namespace": metadata["namespace"]}
    amount = f"{round(value * 1000)}m"
    return {"describedObject": described, "metric": {"name": metric}, "timestamp": _now(), "value": amount} | {
        "metricName": metric  # v1beta1's word
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _certificate(folder: Path) -> ssl.SSLContext:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def _register(cluster: Cluster, port: int) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "metrics", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port, "protocol": "TCP"}]},
    }
    cluster.ask("POST", _SERVICES, service)
    for group in (_CUSTOM, _OF_RESOURCES):
        api = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{group}"},
            "spec": {
                "group": group,
                "version": "v1beta1",
                "service": {"name": "metrics", "namespace": "default", "port": port},
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        }
        cluster.ask("POST", _APIS, api)  # server-side apply of an APIService breaks this API server
        cluster.wait_until(f"the API {group} is available", partial(_is_available, cluster, group))


def _is_available(cluster: Cluster, group: str) -> bool:
    conditions = cluster.get(f"{_APIS}/v1beta1.{group}").get("status", {}).get("conditions", [])
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)
