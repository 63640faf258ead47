"""Speaks Triton's Python-backend language for every worker; decides nothing about what is asked or answered."""

from __future__ import annotations  # Triton's module has no types to import at run time

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils

from meshkit.errors import MeshError, Reason
from meshkit.garbage import keep_what_is_loaded
from meshkit.logs import setup_logging
from meshkit.wire import (
    OPERATION_PARAMETER,
    REQUEST_TENSOR,
    RESPONSE_TENSOR,
    THREADS_PARAMETER,
    TRACE_PARAMETER,
    encode_error,
)
from workerkit.metrics import Kind, Metric, Row

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, InferenceResponse, MetricFamily, ResponseSender

log = logging.getLogger(__name__)

FINAL: Final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

Adapter = TypeVar("Adapter")


@dataclass(frozen=True, slots=True)
class Call:
    """One request as Triton hands it over. operation: None if it names none; traceparent: of W3C's Trace Context.

    num_threads: what a ping may ask for.
    """

    sender: ResponseSender
    request: InferenceRequest
    operation: str | None
    traceparent: str | None
    num_threads: int | None

    @property
    def request_id(self) -> str:
        """As the caller chose it, or empty."""
        return self.request.request_id()

    def payload(self) -> bytes:
        """The serialised request inside."""
        tensor = pb_utils.get_input_tensor_by_name(self.request, REQUEST_TENSOR)
        assert tensor is not None, "Triton refuses requests without their input tensor"
        return bytes(tensor.as_numpy().reshape(-1)[0])


def accept_all(requests: Sequence[InferenceRequest], accept: Callable[[Call], None]) -> None:
    """Hand each request to accept, which answers it later or raises; what it raises is answered here."""
    for request in requests:
        sender = request.get_response_sender()
        try:
            parameters = json.loads(request.parameters() or "{}")
            names = (OPERATION_PARAMETER, TRACE_PARAMETER, THREADS_PARAMETER)
            accept(Call(sender, request, *map(parameters.get, names)))
        except MeshError as error:
            send_error(sender, error)
        except Exception:  # boundary: a request without an answer is a hung client
            log.exception("a request could not be accepted")
            send_error(sender, MeshError(Reason.INTERNAL, "the request could not be accepted"))


def load(service: str, build: Callable[[], Adapter]) -> Adapter:
    """Set up the process's log and build its adapter; a failure becomes Triton's load error, in the model's words."""
    setup_logging(service)
    try:
        adapter = build()
    except (ValueError, OSError) as error:
        raise pb_utils.TritonModelException(str(error)) from error
    keep_what_is_loaded()
    return adapter


def response(data: bytes) -> InferenceResponse:
    """A response with a serialised message in it."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(RESPONSE_TENSOR, np.array([data], dtype=np.object_))])


def answer_ping(call: Call, use_threads: Callable[[int], None]) -> None:
    """Do what a ping asks and answer it; called on the thread that computes, which must survive it."""
    try:
        if call.num_threads is not None:
            use_threads(call.num_threads)
        call.sender.send(response(b""), flags=FINAL)
    except Exception:  # boundary: see above
        log.exception("a ping could not be answered")


def send_error(sender: ResponseSender, error: MeshError) -> None:
    """End a request with a failure."""
    code = getattr(pb_utils.TritonError, error.row.triton or "INTERNAL")
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(encode_error(error), code)), flags=FINAL)


class TritonMetrics:
    """Registers metrics with Triton, which shows them on its metrics page."""

    def __init__(self) -> None:
        self._families: dict[str, MetricFamily] = {}  # a family that is garbage-collected leaves the page

    def __call__(self, kind: Kind, row: Row, labels: Mapping[str, str], buckets: Sequence[float] = ()) -> Metric:
        """See MakeMetric."""
        if row.name not in self._families:
            number = getattr(pb_utils.MetricFamily, kind.name)
            self._families[row.name] = pb_utils.MetricFamily(name=row.name, description=row.description, kind=number)
        more = {"buckets": list(buckets)} if kind is Kind.HISTOGRAM else {}
        return self._families[row.name].Metric(labels=dict(labels), **more)
