"""Stands in for the module that Triton puts into its stubs; the adapter's tests install it under Triton's name."""

import json
import queue
from typing import Any, ClassVar

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    pass


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self.message, self.code = message, code


class Tensor:
    def __init__(self, name: str, data: Any) -> None:
        self.name, self._data = name, data

    def as_numpy(self) -> Any:
        return self._data


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.output_tensors, self.error = output_tensors or [], error


class ResponseSender:
    """Collects what a caller would get; leave() plays a caller who goes away."""

    def __init__(self) -> None:
        self.sent: queue.Queue[tuple[InferenceResponse | None, int]] = queue.Queue()
        self._cancelled = self._closed = False

    def leave(self) -> None:
        self._cancelled = True

    def is_cancelled(self) -> bool:
        return self._cancelled

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self._closed, "a response after the final flag"
        self._closed = bool(flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self.sent.put((response, flags))

    def collect(self) -> tuple[list[bytes], TritonError | None]:
        """Wait for the final flag: the response tensors' bytes, and the error if there was one."""
        data: list[bytes] = []
        while True:
            response, flags = self.sent.get(timeout=10)
            if response is not None and response.error is not None:
                return data, response.error
            if response is not None:
                data.append(response.output_tensors[0].as_numpy()[0])
            if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
                return data, None


class InferenceRequest:
    def __init__(self, data: bytes, **parameters: str | int) -> None:
        self.tensor = Tensor("request", np.array([data], dtype=np.object_))
        self.sender = ResponseSender()
        self._parameters = parameters

    def request_id(self) -> str:
        return "id-of-triton"

    def parameters(self) -> str:
        return json.dumps(self._parameters) if self._parameters else ""

    def get_response_sender(self) -> ResponseSender:
        return self.sender


class Metric:
    """Does what its kind allows; buckets are real only in Triton."""

    def __init__(self, kind: int) -> None:
        self.value, self.observed, self._kind = 0.0, list[float](), kind

    def set(self, value: float) -> None:
        assert self._kind == MetricFamily.GAUGE
        self.value = value

    def increment(self, value: float) -> None:
        assert self._kind == MetricFamily.COUNTER and value >= 0, "a counter cannot fall"
        self.value += value

    def observe(self, value: float) -> None:
        assert self._kind == MetricFamily.HISTOGRAM
        self.observed.append(value)


class MetricFamily:
    """metrics: by name, and by name with the values of all labels but model_name."""

    COUNTER, GAUGE, HISTOGRAM = 0, 1, 2
    metrics: ClassVar[dict[str, Metric]] = {}

    def __init__(self, name: str, description: str, kind: int) -> None:
        self._name, self._kind = name, kind

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Metric:
        assert (buckets is not None) == (self._kind == self.HISTOGRAM), "buckets are a histogram's"
        assert buckets is None or buckets == sorted(buckets)
        more = [value for label, value in labels.items() if label != "model_name"]
        return self.metrics.setdefault(" ".join([self._name, *more]), Metric(self._kind))


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return request.tensor if request.tensor.name == name else None
