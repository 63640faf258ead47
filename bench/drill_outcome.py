"""What a drill did to the answers and the mesh, as a row of a table and as what should not have been."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bench.drill_load import Tally

KILL_GATEWAY, KILL_ENVOY = "kill -9 one of two gateways", "kill -9 Envoy"
_MAY_BE: Final[Mapping[str, set[str]]] = MappingProxyType({KILL_GATEWAY: {"broken"}, KILL_ENVOY: {"lost", "broken"}})


@dataclass(frozen=True, slots=True)
class Course:
    """Of one drill, on the monotonic clock.

    recovery_s: until every look found every part ready and every worker listed; 0 if all looks did.
    num_retries: times that the gateways asked again; None if they were restarted and forgot.
    """

    name: str
    start_s: float
    end_s: float
    recovery_s: float | None
    num_retries: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the answers that a drill met; known when all have ended."""

    course: Course
    tally: Tally

    def faults(self) -> list[str]:
        """What should not have been, in words."""
        tally = self.tally
        counts = {"lost": tally.num_lost, "broken": tally.num_broken, "wrong": tally.num_wrong, "hung": tally.num_hung}
        allowed = _MAY_BE.get(self.course.name, set())
        found = [f"{number} {word}" for word, number in counts.items() if number and word not in allowed]
        return found if self.course.recovery_s is not None else [*found, "not well again"]


@dataclass(frozen=True, slots=True)
class Look:
    """at_s: when it had ended, since the drill began. is_well: see Scene."""

    at_s: float
    is_well: bool


def recovery_s(looks: Sequence[Look]) -> float | None:
    """When the first look of those was that found all well to the end; 0 if all did, None if the last did not."""
    last_bad = max((index for index, look in enumerate(looks) if not look.is_well), default=-1)
    if last_bad < 0:
        return 0.0
    return looks[last_bad + 1].at_s if last_bad + 1 < len(looks) else None


def _row(outcome: Outcome) -> str:
    course, tally = outcome.course, outcome.tally
    recovery = "never" if course.recovery_s is None else f"{course.recovery_s:.1f}"
    retries = "-" if course.num_retries is None else course.num_retries
    counts = (tally.num_asked, tally.num_lost, tally.num_broken, tally.num_wrong, tally.num_hung, retries)
    return f"| {course.name} | {' | '.join(map(str, counts))} | {tally.longest_silence_s:.1f} | {recovery} |"


def table(outcomes: Sequence[Outcome]) -> str:
    """A row for each drill."""
    head = (
        "| drill | requests | lost in one piece | broken streams | other answer | hung | asked again "
        "| longest silence, s | all well after, s |\n|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(_row, outcomes)])
