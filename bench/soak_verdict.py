"""Decides whether a soak has passed, from what was sampled; knows no mesh."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Protocol

GROWTH_LIMIT: Final = 0.02
_WARM_UP, _WINDOW = 0.2, 0.1  # of all samples


class Look(Protocol):
    """What was seen of the memory of every part at one time."""

    @property
    def rss_bytes(self) -> dict[str, int]:
        """By part, its processes together."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. rss_bytes: by part, its processes together. kv_share: 0 to 1. at_s: since the start."""

    at_s: float
    rss_bytes: dict[str, int]
    shm_bytes: int
    kv_share: float
    num_running: float
    num_waiting: float

    @property
    def is_idle(self) -> bool:
        """No request, and no block that belongs to one."""
        return (self.kv_share, self.num_running, self.num_waiting) == (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory after the warm-up and at the end, medians of a tenth of the time each, in bytes."""

    name: str
    before_bytes: float
    after_bytes: float

    @property
    def ratio(self) -> float:
        """0.01 is one per cent more at the end."""
        return self.after_bytes / self.before_bytes - 1


def growths(samples: Sequence[Look]) -> list[Growth]:
    """Of the RSS of every part, which is blind to what else runs; samples were taken in equal steps under load."""
    assert samples, "a soak has samples"
    width = max(1, round(len(samples) * _WINDOW))
    start = round(len(samples) * _WARM_UP)

    def typical(part: str, some: Sequence[Look]) -> float:
        return median(sample.rss_bytes[part] for sample in some)

    return [
        Growth(part, typical(part, samples[start : start + width]), typical(part, samples[-width:]))
        for part in samples[0].rss_bytes
    ]


def failures(samples: Sequence[Sample], last: Sample, num_errors: int) -> list[str]:
    """What keeps the soak from passing; last: taken when all answers had ended."""
    found = [
        f"the RSS of {growth.name} grew by {growth.ratio:.2%}"
        for growth in growths(samples)
        if growth.ratio >= GROWTH_LIMIT
    ]
    if not last.is_idle:
        running = f"{last.num_running:.0f} running, {last.num_waiting:.0f} waiting"
        found.append(f"afterwards: {running}, {last.kv_share:.2%} of the KV cache in use")
    if num_errors:
        found.append(f"{num_errors} wrong answers")
    return found
