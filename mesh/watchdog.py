"""Decides which workers get calls and which are killed, from what they answered and when; the world is passed in.

Triton does not restart a dead Python stub and still calls itself ready, so only a real ping tells. What is killed,
supervisor starts again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from mesh.plan import Part
from mesh.probe import Health

PING_EVERY_S: Final = 2.0
SILENT_S: Final = 2.0  # an unanswered ping this old sends new calls elsewhere, if there is anywhere else
FAILING_S: Final = 3.0  # of failed pings; then it is killed
STILL_S: Final = 10.0  # of silence without work; a busy engine answers between two steps, and works meanwhile
SILENT_TO_KILL_S: Final = 90.0  # a step of a big model on a CPU is long, but not that long
IDLE_SHARE: Final = 0.05  # of one processor: less is no work


class World(Protocol):
    """What the watchdog sees and does."""

    def ping(self, part: Part, asked_s: float) -> None:
        """Ask; the answer is handed to note_answer, with asked_s, after SILENT_TO_KILL_S at the latest."""
        ...

    def cpu_s(self, part: Part) -> float:
        """Processor time that the part and its children took so far."""
        ...

    def kill(self, part: Part, reason: str) -> None:
        """End it at once."""
        ...


@dataclass(slots=True)
class _Worker:
    """What is known of one worker. health: None until it was asked, so that a new watchdog changes nothing."""

    part: Part
    health: Health | None = None
    is_up: bool = True  # as far as supervisor says
    was_ready: bool = False  # since its start
    asked_s: float | None = None  # when the ping was sent that is not answered yet
    answered_s: float | None = None
    failing_since_s: float | None = None
    cpu_s: float = 0.0  # when it was asked

    def restart(self) -> None:
        """Expect nothing until it was ready again: a Triton listens only when its model is loaded."""
        self.health, self.is_up, self.was_ready = Health.STARTING, True, False
        self.asked_s = self.answered_s = self.failing_since_s = None

    def silence_s(self, now_s: float) -> float:
        return 0.0 if self.asked_s is None else now_s - self.asked_s


@dataclass(slots=True)
class Watchdog:
    """What it remembers of every worker."""

    world: World
    serving: dict[str, set[str]] = field(default_factory=dict[str, set[str]])  # names of workers by model
    restarts: Counter[str] = field(default_factory=Counter[str])
    _workers: dict[str, _Worker] = field(default_factory=dict[str, _Worker])

    def watch(self, parts: Iterable[Part]) -> None:
        """These are the workers from now on; those that were known stay as they are."""
        known = self._workers
        self._workers = {part.name: known.get(part.name, _Worker(part)) for part in parts}
        for part in parts:
            self._workers[part.name].part = part

    def note_start(self, name: str, from_state: str) -> None:
        """A part was started. from_state: supervisor's word for what it was before; anything but STOPPED is a crash."""
        if from_state != "STOPPED":
            self.restarts[name] += 1
        if name in self._workers:
            self._workers[name].restart()

    def note_end(self, name: str) -> None:
        """A part ended, or was told to."""
        if name in self._workers:
            self._workers[name].is_up = False

    def note_answer(self, name: str, asked_s: float, health: Health, now_s: float) -> None:
        """What came of the ping that was sent at asked_s; one from before a restart says nothing."""
        worker = self._workers.get(name)
        if worker is None or worker.asked_s != asked_s:
            return
        worker.asked_s, worker.answered_s = None, now_s
        if not worker.is_up or (health is Health.STARTING and not worker.was_ready):
            return
        worker.health = health
        if health is Health.READY:
            worker.was_ready, worker.failing_since_s = True, None
        else:
            worker.failing_since_s = worker.failing_since_s or now_s

    def check(self, now_s: float) -> None:
        """Kill what is beyond hope and ask the others; then `serving` says who gets calls."""
        for worker in self._workers.values():
            if not worker.is_up:
                continue
            if (reason := self._verdict(worker, now_s)) is not None:
                self.world.kill(worker.part, reason)
                worker.health, worker.is_up = Health.NOT_READY, False  # until supervisor says that it starts
            elif worker.asked_s is None and self._is_due(worker, now_s):
                worker.asked_s, worker.cpu_s = now_s, self.world.cpu_s(worker.part)
                self.world.ping(worker.part, now_s)
        self.serving = self._choose(now_s)

    def _is_due(self, worker: _Worker, now_s: float) -> bool:
        is_well = worker.health is Health.READY and worker.answered_s is not None
        return not is_well or now_s - cast(float, worker.answered_s) >= PING_EVERY_S

    def _verdict(self, worker: _Worker, now_s: float) -> str | None:
        """Why it has to go, or None."""
        if worker.failing_since_s is not None and now_s - worker.failing_since_s >= FAILING_S:
            return f"failed its pings for {FAILING_S:.0f} s"
        silence_s = worker.silence_s(now_s)
        if silence_s >= SILENT_TO_KILL_S:
            return f"did not answer for {SILENT_TO_KILL_S:.0f} s"
        if silence_s >= STILL_S and self.world.cpu_s(worker.part) - worker.cpu_s < IDLE_SHARE * silence_s:
            return f"did not answer for {STILL_S:.0f} s and did not work either"
        return None

    def _choose(self, now_s: float) -> dict[str, set[str]]:
        """Those that answer; where none does, those that are only late; whom nobody asked yet stays as it was."""
        chosen: dict[str, set[str]] = {}
        for model, workers in _by_model(self._workers.values()).items():
            there = [worker for worker in workers if worker.is_up and not worker.part.is_leaving]
            able = [each for each in there if self._is_able(each)]
            prompt = [each for each in able if each.silence_s(now_s) < SILENT_S]
            chosen[model] = {each.part.name for each in prompt or able}
        return chosen

    def _is_able(self, worker: _Worker) -> bool:
        if worker.health is None:
            return worker.part.name in self.serving.get(str(worker.part.model), set())
        return worker.health is Health.READY


def _by_model(workers: Iterable[_Worker]) -> Mapping[str, list[_Worker]]:
    found: dict[str, list[_Worker]] = {}
    for worker in workers:
        found.setdefault(str(worker.part.model), []).append(worker)
    return found
