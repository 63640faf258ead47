"""Turns repeated measurements into medians, ratios and a table; pure, knows no engine and no clock."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median


@dataclass(frozen=True, slots=True)
class Round:
    """One value of everything compared, measured right after each other. noise: the worst share that others used."""

    values: Mapping[str, float]
    noise: float


@dataclass(frozen=True, slots=True)
class Goal:
    """What the ratio of ours to the best of the others must be. more_is_better: of the values."""

    ratio: float
    more_is_better: bool = True

    def is_met(self, ratio: float) -> bool:
        """Whether that ratio is good enough."""
        return ratio >= self.ratio if self.more_is_better else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{'≥' if self.more_is_better else '≤'} {self.ratio:g}x"


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared, in which unit, and what ours must reach. number_class: int8, int4, fp16, fp32, or any."""

    work: str
    number_class: str
    unit: str
    goal: Goal


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: medians of the quietest rounds. ours, best: names; None where nothing was measured.

    missing: names of what could not be measured, with the reasons.

    ratio: the median of the rounds' own ratios, so that a drift of the machine hits both sides of each.
    """

    contest: Contest
    medians: Mapping[str, float]
    ours: str | None
    best: str | None
    ratio: float | None
    noise: float
    missing: Mapping[str, str]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least percent of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def gaps(times_s: Sequence[float], *, since_s: float = -math.inf, until_s: float = math.inf) -> list[float]:
    """Seconds between neighbours, of the gaps that lie at least partly between since_s and until_s."""
    pairs = pairwise(times_s)
    return [after - before for before, after in pairs if after > since_s and before < until_s]


def quietest(rounds: Sequence[Round], count: int) -> list[Round]:
    """The rounds that others disturbed least; they are never chosen by speed."""
    return sorted(rounds, key=lambda each: each.noise)[:count]


def compare(contest: Contest, rounds: Sequence[Round], missing: Mapping[str, str]) -> Result:
    """Hold the best of ours (names that begin with "ours") against the best of the others."""
    names = list(rounds[0].values) if rounds else []
    medians = {name: median(each.values[name] for each in rounds) for name in names}

    def best_of(candidates: list[str]) -> str | None:
        pick = max if contest.goal.more_is_better else min
        return pick(candidates, key=lambda name: medians[name]) if candidates else None

    ours = best_of([name for name in names if name.startswith("ours")])
    best = best_of([name for name in names if not name.startswith("ours")])
    ratio = median(each.values[ours] / each.values[best] for each in rounds) if ours and best else None
    noise = max((each.noise for each in rounds), default=0.0)
    return Result(contest, medians, ours, best, ratio, noise, missing)


def best_of_all(results: Sequence[Result]) -> list[Result]:
    """The best of ours over all number formats against the best of the others over all, for work that has several.

    What is compared was measured in different rounds, so the ratio is that of the medians.
    """
    works: dict[str, list[Result]] = {}
    for result in results:
        works.setdefault(result.contest.work, []).append(result)
    return [_best_of(group) for group in works.values() if len(group) > 1]


def _best_of(group: Sequence[Result]) -> Result:
    medians = {name: value for result in group for name, value in result.medians.items()}
    noise = max(result.noise for result in group)
    total = compare(replace(group[0].contest, number_class="any"), [Round(medians, noise)], {})
    return replace(total, medians={name: medians[name] for name in (total.ours, total.best) if name})


def to_markdown(results: Sequence[Result]) -> str:
    """The table of docs/benchmarks.md."""
    head = ["work", "class", "unit", "ours", "others", "ratio", "goal", "met", "noise"]
    lines = [head, ["---"] * len(head), *map(_cells, results)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _cells(result: Result) -> list[str]:
    def listed(*, ours: bool) -> str:
        parts = [
            f"**{name} {_number(value)}**" if name in (result.ours, result.best) else f"{name} {_number(value)}"
            for name, value in result.medians.items()
            if name.startswith("ours") == ours
        ]
        parts += [f"{name} –" for name in result.missing if name.startswith("ours") == ours]
        return "; ".join(parts)

    contest = result.contest
    ratio = "–" if result.ratio is None else f"{result.ratio:.2f}x"
    met = "not measured" if result.ratio is None else "yes" if contest.goal.is_met(result.ratio) else "**no**"
    return [
        *(contest.work, contest.number_class, contest.unit, listed(ours=True), listed(ours=False)),
        *(ratio, str(contest.goal), met, f"{result.noise:.0%}"),
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
