"""Whom the watchdog lists for Envoy, when it kills, and what it counts."""

from dataclasses import replace

import pytest

from mesh.plan import Part
from mesh.probe import Health
from mesh.watch import fields
from mesh.watchdog import FAILING_S, PING_EVERY_S, SILENT_S, SILENT_TO_KILL_S, STILL_S, Watchdog

FIRST, SECOND = (
    Part(f"chat-{replica}", "chat", replica, ("tritonserver",), grpc=f"127.0.0.1:{replica}", model="chat")
    for replica in range(2)
)


class World:
    """A clock, and workers whose health and work the test sets; a health of None does not answer."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.health: dict[str, Health | None] = {}
        self.busy: set[str] = set()
        self.killed: list[str] = []
        self.pings: list[tuple[str, float]] = []

    def ping(self, part: Part, asked_s: float) -> None:
        self.pings.append((part.name, asked_s))

    def cpu_s(self, part: Part) -> float:
        return self.now_s if part.name in self.busy else 0.0

    def kill(self, part: Part, reason: str) -> None:
        assert reason
        self.killed.append(part.name)


class Scene:
    """A watchdog over two workers of one model."""

    def __init__(self) -> None:
        self.world = World()
        self.watchdog = Watchdog(self.world)
        self.watchdog.watch([FIRST, SECOND])

    def run(self, seconds: float, **health: Health | None) -> None:
        """Let time pass with these answers, of first and second; a worker that is not named answers as before."""
        names = {"first": "chat-0", "second": "chat-1"}
        self.world.health |= {names[name]: value for name, value in health.items()}
        end_s = self.world.now_s + seconds
        while self.world.now_s < end_s:
            self.watchdog.check(self.world.now_s)
            waiting = [ping for ping in self.world.pings if self.world.health.get(ping[0]) is None]
            for name, asked_s in self.world.pings:
                if (answer := self.world.health.get(name)) is not None:
                    self.watchdog.note_answer(name, asked_s, answer, self.world.now_s)
            self.world.pings = waiting
            self.world.now_s += 0.5
        self.watchdog.check(self.world.now_s)

    @property
    def serving(self) -> set[str]:
        return self.watchdog.serving["chat"]

    def both_ready(self) -> None:
        for name in ("chat-0", "chat-1"):
            self.watchdog.note_start(name, "STOPPED")
        self.run(1, first=Health.READY, second=Health.READY)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_worker_that_still_loads_is_left_alone_and_gets_no_calls(scene: Scene) -> None:
    scene.run(10 * SILENT_TO_KILL_S, first=Health.STARTING, second=Health.READY)

    assert (scene.serving, scene.world.killed) == ({"chat-1"}, [])


@pytest.mark.parametrize("failure", [Health.NOT_READY, Health.STARTING])
def test_a_worker_that_fails_gets_no_calls_at_once_and_is_killed_after_a_while(failure: Health, scene: Scene) -> None:
    scene.both_ready()

    scene.run(PING_EVERY_S + 1, first=failure)
    unlisted, killed_early = scene.serving, list(scene.world.killed)
    scene.run(FAILING_S, first=failure)

    assert (unlisted, killed_early, scene.world.killed) == ({"chat-1"}, [], ["chat-0"])


def test_a_worker_whose_stub_died_before_the_first_ping_is_killed_too(scene: Scene) -> None:
    scene.run(FAILING_S + 2, first=Health.NOT_READY)

    assert scene.world.killed == ["chat-0"]


def test_one_answer_forgives_earlier_failures(scene: Scene) -> None:
    scene.both_ready()

    for _ in range(5):
        scene.run(FAILING_S - 0.5, first=Health.NOT_READY)
        scene.run(PING_EVERY_S, first=Health.READY)

    assert scene.world.killed == []


def test_a_late_worker_gets_no_calls_while_another_answers(scene: Scene) -> None:
    scene.both_ready()
    scene.world.busy = {"chat-0", "chat-1"}

    scene.run(PING_EVERY_S + SILENT_S + 1, first=None)
    one_late = scene.serving
    scene.run(PING_EVERY_S + SILENT_S + 1, second=None)

    assert (one_late, scene.serving) == ({"chat-1"}, {"chat-0", "chat-1"})


def test_silence_without_work_is_killed_soon_and_with_work_late(scene: Scene) -> None:
    scene.both_ready()
    scene.world.busy = {"chat-1"}

    scene.run(PING_EVERY_S + STILL_S + 1, first=None, second=None)
    soon = list(scene.world.killed)
    scene.run(SILENT_TO_KILL_S)

    assert (soon, scene.world.killed) == (["chat-0"], ["chat-0", "chat-1"])


def test_a_restarted_worker_may_load_in_peace_whatever_an_old_ping_says(scene: Scene) -> None:
    scene.both_ready()
    scene.run(PING_EVERY_S + 1, first=None)
    scene.watchdog.note_end("chat-0")
    scene.watchdog.note_start("chat-0", "EXITED")
    (stale,) = (asked_s for name, asked_s in scene.world.pings if name == "chat-0")
    scene.world.pings = [ping for ping in scene.world.pings if ping[0] != "chat-0"]
    scene.run(0.5)

    scene.watchdog.note_answer("chat-0", stale, Health.NOT_READY, scene.world.now_s)
    scene.run(10 * FAILING_S, first=Health.STARTING)

    assert (scene.world.killed, scene.serving) == ([], {"chat-1"})


def test_a_worker_that_is_stopped_or_leaving_gets_no_calls_and_is_not_killed(scene: Scene) -> None:
    scene.both_ready()

    scene.watchdog.note_end("chat-0")
    scene.watchdog.watch([FIRST, replace(SECOND, is_leaving=True)])
    scene.run(10 * FAILING_S, first=Health.NOT_READY)

    assert (scene.serving, scene.world.killed) == (set(), [])


def test_a_new_watchdog_leaves_the_lists_as_they_are_until_it_knows_better(scene: Scene) -> None:
    scene.watchdog.serving = {"chat": {"chat-0"}}

    scene.run(1)
    unasked = scene.serving
    scene.run(1, first=Health.READY, second=Health.READY)

    assert (unasked, scene.serving) == ({"chat-0"}, {"chat-0", "chat-1"})


def test_a_first_start_is_no_restart_and_later_ones_are(scene: Scene) -> None:
    for from_state in ("STOPPED", "EXITED", "BACKOFF"):
        scene.watchdog.note_start("chat-0", from_state)

    assert scene.watchdog.restarts == {"chat-0": 2}


def test_supervisors_event_lines_are_read() -> None:
    line = "ver:3.0 server:supervisor eventname:TICK_5 len:15\n"

    assert fields(line)["len"] == "15"
