"""When the watchdog kills and what it counts."""

import pytest

from mesh.plan import Part
from mesh.probe import Health
from mesh.watchdog import FAILURES_TO_KILL, Watchdog, fields

WORKER = Part("chat-0", "chat", 0, ("tritonserver",), grpc="127.0.0.1:1", model="chat")


class Worker:
    """A worker whose health the test sets, and who notes being killed."""

    def __init__(self) -> None:
        self.health = Health.STARTING
        self.num_kills = 0

    def kill(self, _part: Part) -> None:
        self.num_kills += 1


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def watchdog(worker: Worker) -> Watchdog:
    return Watchdog((WORKER,), lambda _part: worker.health, worker.kill)


def check(watchdog: Watchdog, times: int) -> None:
    for _ in range(times):
        watchdog.check()


def test_a_worker_that_still_loads_is_left_alone(watchdog: Watchdog, worker: Worker) -> None:
    check(watchdog, 10 * FAILURES_TO_KILL)

    assert worker.num_kills == 0


@pytest.mark.parametrize("failure", [Health.NOT_READY, Health.STARTING])
def test_a_worker_that_was_ready_is_killed_after_failures_in_a_row(
    failure: Health, watchdog: Watchdog, worker: Worker
) -> None:
    worker.health = Health.READY
    watchdog.check()
    worker.health = failure

    check(watchdog, FAILURES_TO_KILL - 1)
    kills_before = worker.num_kills
    watchdog.check()

    assert (kills_before, worker.num_kills) == (0, 1)


def test_a_worker_whose_stub_died_before_the_first_ping_is_killed_too(watchdog: Watchdog, worker: Worker) -> None:
    worker.health = Health.NOT_READY

    check(watchdog, FAILURES_TO_KILL)

    assert worker.num_kills == 1


def test_one_answer_forgives_earlier_failures(watchdog: Watchdog, worker: Worker) -> None:
    for health in (Health.READY, Health.NOT_READY, Health.NOT_READY, Health.READY, Health.NOT_READY, Health.NOT_READY):
        worker.health = health
        watchdog.check()

    assert worker.num_kills == 0


def test_a_restarted_worker_may_load_in_peace(watchdog: Watchdog, worker: Worker) -> None:
    worker.health = Health.READY
    watchdog.check()
    watchdog.note_start("chat-0", "EXITED")
    worker.health = Health.STARTING

    check(watchdog, 10 * FAILURES_TO_KILL)

    assert worker.num_kills == 0


def test_a_first_start_is_no_restart_and_later_ones_are(watchdog: Watchdog) -> None:
    for from_state in ("STOPPED", "EXITED", "BACKOFF"):
        watchdog.note_start("chat-0", from_state)

    assert watchdog.restarts == {"chat-0": 2}


def test_supervisors_event_lines_are_read() -> None:
    line = "ver:3.0 server:supervisor eventname:TICK_5 len:15\n"

    assert fields(line)["len"] == "15"
