"""Says what bench.chat measures and what it must reach; knows no table and no command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.engines import CLASSES, Engine, Spec
from bench.figures import Contest, Goal, gaps, percentile
from bench.peers.protocol import Job, Outcome
from bench.prompts import Prompts

_SHARED_PREFIX = 1000
_LONG_PROMPT = 2000


@dataclass(slots=True)
class Meter:
    """One engine in one round. noise: the worst share of the machine that others used in its jobs so far."""

    engine: Engine
    prompts: Prompts
    noise: float = 0.0

    def run(self, job: Job) -> Outcome:
        """Run a job."""
        outcome, share = self.engine.run(job)
        self.noise = max(self.noise, share)
        return outcome

    def seconds(self, num_streams: int, prompt_len: int, max_tokens: int) -> float:
        """Seconds of a job on new prompts."""
        return self.run(Job(self.prompts.take_many(num_streams, prompt_len), max_tokens)).seconds


# What one engine reaches in one round, by name.
Measure = Callable[[Meter], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. measure runs on each of the specs in turn, round after round."""

    name: str
    contest: Contest
    measure: Measure
    specs: Sequence[Spec]


def rows(specs: Sequence[Spec], own_format: str) -> list[Row]:
    """Every row that the engines of `specs` can be compared in; those about us alone take our own_format."""
    own = [spec for spec in specs if spec.is_ours and spec.number_format == own_format]
    kind = own[0].number_class if own else ""
    llama = [spec for spec in specs if spec.engine == "llama" and spec.number_class == kind]
    by_class = [row for each in CLASSES for row in _class_rows([s for s in specs if s.number_class == each], each)]

    def about_us(name: str, work: str, unit: str, at_most: float, measure: Measure) -> Row:
        return Row(name, Contest(work, kind, unit, Goal(at_most, more_is_better=False)), measure, own)

    sampled = Contest("32 streams, 64 + 64, sampled at temperature 1, top_p 0.95", kind, "tokens/s", Goal(0.9))
    growth = about_us("growth", "time per token with 2,000 of context, in that with 100", "x", 1.0, _growth)
    return [
        *by_class,
        replace(growth, specs=own + llama),
        Row("sampled", sampled, _sampled, own),
        about_us("prefix", "first token after a shared prefix of 1,000", "s", 0.1, _prefix),
        about_us("arrival", "p99 gap of 8 streams while a prompt of 2,000 arrives", "s", 3.0, _arrival),
        about_us("newcomer", "first token of that prompt", "s", 2.0, _newcomer),
    ]


def _class_rows(specs: Sequence[Spec], kind: str) -> list[Row]:
    quantised = kind in ("int8", "int4")

    def row(name: str, work: str, ratio: float, measure: Measure) -> Row:
        return Row(f"{name}-{kind}", Contest(work, kind, "tokens/s", Goal(ratio)), measure, specs)

    return [
        row("single", "decode of 1 stream, 64 + 128", 1.1 if quantised else 1.0, _decode),
        row("prefill", "prefill of 1,024", 1.3, _prefill),
        row("streams-8", "8 streams, 64 + 64, all included", 1.1, _streams(8)),
        row("streams-32", "32 streams, 64 + 64, all included", 1.1, _streams(32)),
    ]


def _decode(meter: Meter) -> dict[str, float]:
    """Tokens per second after the first."""
    first_s = meter.seconds(1, 64, 1)
    return {meter.engine.spec.name: 127 / (meter.seconds(1, 64, 128) - first_s)}


def _prefill(meter: Meter) -> dict[str, float]:
    return {meter.engine.spec.name: 1024 / meter.seconds(1, 1024, 1)}


def _streams(num_streams: int) -> Measure:
    """New tokens per second of the whole job, prompts included."""
    return lambda meter: {meter.engine.spec.name: num_streams * 64 / meter.seconds(num_streams, 64, 64)}


def _sampled(meter: Meter) -> dict[str, float]:
    """What the choice of tokens at random costs, over the whole vocabulary."""
    greedy = Job(meter.prompts.take_many(32, 64), 64)
    drawn = replace(greedy, prompts=meter.prompts.take_many(32, 64), top_p=0.95)
    names = {"ours, sampled": drawn, "greedy": greedy}
    return {name: 32 * 64 / meter.run(job).seconds for name, job in names.items()}


def _growth(meter: Meter) -> dict[str, float]:
    def per_token_s(context: int) -> float:
        return meter.seconds(1, context, 65) - meter.seconds(1, context, 1)

    return {meter.engine.spec.name: per_token_s(_LONG_PROMPT) / per_token_s(100)}


def _prefix(meter: Meter) -> dict[str, float]:
    prefix = meter.prompts.take(_SHARED_PREFIX)

    def first_s() -> float:
        return meter.run(Job([prefix + meter.prompts.take(64)], 1)).token_s[0][0]

    cold_s = first_s()
    return {"ours, prefix known": first_s(), "cold": cold_s}


def _arrival(meter: Meter) -> dict[str, float]:
    streams = Job(meter.prompts.take_many(8, 64), 128)
    quiet = [gap for times_s in meter.run(streams).token_s for gap in gaps(times_s, since_s=times_s[15])]
    outcome = meter.run(Job(meter.prompts.take_many(8, 64), 128, newcomer=meter.prompts.take(_LONG_PROMPT)))
    assert outcome.newcomer_s
    since_s, until_s = outcome.newcomer_s
    busy = [gap for times_s in outcome.token_s for gap in gaps(times_s, since_s=since_s, until_s=until_s)]
    return {"ours, while they arrive": percentile(busy, 99), "quiet": percentile(quiet, 99)}


def _newcomer(meter: Meter) -> dict[str, float]:
    alone_s = meter.seconds(1, _LONG_PROMPT, 1)
    outcome = meter.run(Job(meter.prompts.take_many(8, 64), 128, newcomer=meter.prompts.take(_LONG_PROMPT)))
    assert outcome.newcomer_s
    since_s, until_s = outcome.newcomer_s
    return {"ours, beside 8 streams": until_s - since_s, "alone": alone_s}
