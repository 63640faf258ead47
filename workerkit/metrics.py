"""Says what a metric is to a worker; knows neither which there are nor who shows them."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import accumulate
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


class TalliedCounter:
    """A counter told to whoever shows it many gains at a time: each call of a Metric is a message to its process."""

    def __init__(self, metric: Metric) -> None:
        self._metric, self._gain = metric, 0.0

    def increment(self, value: float = 1) -> None:
        """Note a gain."""
        self._gain += value

    def tell(self) -> None:
        """Hand over what was noted since the last time."""
        if self._gain:
            self._metric.increment(self._gain)
            self._gain = 0.0


class TalliedHistogram:
    """A histogram told to whoever shows it many observations at a time, as the counters it consists of."""

    def __init__(self, make: MakeMetric, row: Row, labels: Mapping[str, str], bounds: Sequence[float]) -> None:
        self._bounds = bounds
        name, description = row
        bucket = Row(f"{name}_bucket", description)
        self._buckets = [
            make(Kind.COUNTER, bucket, {**labels, "le": le}) for le in [*(f"{bound:g}" for bound in bounds), "+Inf"]
        ]
        self._sum = make(Kind.COUNTER, Row(f"{name}_sum", description), labels)
        self._count = make(Kind.COUNTER, Row(f"{name}_count", description), labels)
        self._reset()

    def observe(self, value: float) -> None:
        """Note a value."""
        self._num_by_bucket[bisect_left(self._bounds, value)] += 1
        self._total += value
        self.num_untold += 1

    def tell(self) -> None:
        """Hand over what was noted since the last time."""
        gains = [*accumulate(self._num_by_bucket), self._total, self.num_untold]
        for metric, gain in zip([*self._buckets, self._sum, self._count], gains, strict=True):
            if gain:
                metric.increment(gain)
        self._reset()

    def _reset(self) -> None:
        self._num_by_bucket = [0] * len(self._buckets)
        self._total = 0.0
        self.num_untold = 0
