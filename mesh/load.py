"""Reads from a worker's metrics page how much it has to do; decides nothing."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """running, waiting: requests. kv_usage: share of the KV cache, 0 to 1; None for a worker that has none."""

    running: int
    waiting: int
    kv_usage: float | None


def read_metrics(url: str | None) -> Mapping[str, float] | None:
    """The numbers on that page, of all series of a name together; None where nobody answers."""
    address = urlsplit(url or "")
    connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", address.path)
        return parse(connection.getresponse().read().decode())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def read_load(url: str | None) -> Load | None:
    """The load of the worker with that metrics page; None where it does not answer, or is no worker's."""
    values = read_metrics(url) or {}
    if "vllm:num_requests_running" in values:
        running, waiting = values["vllm:num_requests_running"], values["vllm:num_requests_waiting"]
        return Load(int(running), int(waiting), values["vllm:kv_cache_usage_perc"])
    if "mesh_requests_in_progress" in values:
        in_progress, waiting = values["mesh_requests_in_progress"], values["mesh_requests_waiting"]
        return Load(max(0, int(in_progress - waiting)), int(waiting), None)  # they are not of the same moment
    return None


def parse(page: str) -> Mapping[str, float]:
    """The numbers of a page in Prometheus' text format, of all series of a name together."""
    values: dict[str, float] = {}
    for line in page.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
    return values
