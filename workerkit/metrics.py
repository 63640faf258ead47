"""Says what a metric is to a worker; knows neither which there are nor who shows them."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol


class Kind(Enum):
    """What a metric can do."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Row(NamedTuple):
    """Name and meaning of a metric."""

    name: str
    description: str


class Metric(Protocol):
    """One time series: a gauge is set, a counter incremented, a histogram observes."""

    def set(self, value: float) -> None:
        """Of a gauge."""
        ...

    def increment(self, value: float) -> None:
        """Of a counter."""
        ...

    def observe(self, value: float) -> None:
        """Of a histogram."""
        ...


class MakeMetric(Protocol):
    """Registers a time series with whoever shows it."""

    def __call__(self, kind: Kind, row: Row, labels: Mapping[str, str], buckets: Sequence[float] = ()) -> Metric:
        """buckets: upper bounds, of a histogram only."""
        ...
