"""Runs the engines of a row against each other, round after round; does not know what the row measures."""

from contextlib import ExitStack
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import Progress

from bench.chat_rows import Meter, Row
from bench.engines import Engine, EngineError
from bench.figures import Result, Round, compare, quietest
from bench.prompts import Prompts
from bench.quiet import QUIET_SHARE, wait_until_quiet


@dataclass(slots=True)
class Race:
    """Measures rows. reps: rounds to keep. engines: what each engine that ran says about itself.

    wait_s: for others to be quiet, before each round, at most.
    """

    reps: int
    prompts: Prompts
    console: Console
    engines: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    wait_s: float = 20.0

    def run(self, row: Row) -> Result:
        """Measure one row with every engine that starts; the others are listed with the reason."""
        self.console.print(f"measuring {row.name}")
        missing: dict[str, str] = {}
        with ExitStack() as stack:
            running: list[Engine] = []
            for spec in row.specs:
                try:
                    running.append(stack.enter_context(Engine(spec)))
                except (EngineError, OSError) as error:
                    missing[spec.name] = str(error)
                    self.console.print(f"  without {spec.name}: {error}", style="yellow", markup=False)
            self.engines.update((engine.spec.name, dict(engine.about)) for engine in running)
            rounds = self._rounds(row, running) if running else []
        return compare(row.contest, rounds, missing)

    def _rounds(self, row: Row, running: list[Engine]) -> list[Round]:
        """The quietest of at most twice as many rounds as asked for, after one that warms everything up."""
        self._round(row, running)
        rounds: list[Round] = []
        with Progress(console=self.console, transient=True) as progress:
            for _ in progress.track(range(2 * self.reps), description=row.name):
                rounds.append(self._round(row, running))
                if sum(each.noise < QUIET_SHARE for each in rounds) >= self.reps:
                    break
        return quietest(rounds, self.reps)

    def _round(self, row: Row, running: list[Engine]) -> Round:
        wait_until_quiet([engine.pid for engine in running], at_most_s=self.wait_s)
        meters = [Meter(engine, self.prompts) for engine in running]
        values: dict[str, float] = {}
        for meter in meters:
            values |= row.measure(meter)
        return Round(values, max(meter.noise for meter in meters))
