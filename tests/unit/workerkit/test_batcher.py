"""The thread that computes batches: every request ends exactly once, whatever happens to it."""

import math
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import MeshError, Reason
from workerkit.batcher import BUSY_S, Batch, Batcher, Load, Times

Ending = list[int] | MeshError | None  # results, a failure, or None: the caller had left


@dataclass
class Caller:
    """Waits for a request's end; a second one would be seen."""

    has_left: bool = False
    times: Times | None = None
    endings: queue.SimpleQueue[Ending] = field(default_factory=queue.SimpleQueue)

    def is_cancelled(self) -> bool:
        return self.has_left

    def finish(self, results: Sequence[int], times: Times) -> None:
        self.times = times
        self.endings.put(list(results))

    def fail(self, error: MeshError) -> None:
        self.endings.put(error)

    def drop(self) -> None:
        self.endings.put(None)

    def ending(self) -> Ending:
        return self.endings.get(timeout=10)

    def failure(self) -> Reason:
        ending = self.ending()
        assert isinstance(ending, MeshError)
        return ending.reason


class Model:
    """Doubles numbers; breaks on 13; refuses 14 by name; can be held up before its next batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go, self.has_begun = threading.Event(), threading.Event()
        self.may_go.set()

    def run(self, items: Sequence[int]) -> Sequence[int]:
        self.has_begun.set()
        assert self.may_go.wait(10)
        self.batches.append(list(items))
        if 13 in items:
            raise RuntimeError("the model broke")
        if 14 in items:
            raise MeshError(Reason.INVALID_REQUEST, "14 is no number to double")
        return [2 * item for item in items]


@dataclass
class Notes:
    """Remembers what was observed."""

    batches: list[Batch] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)

    def observe_batch(self, batch: Batch) -> None:
        self.batches.append(batch)

    def observe_load(self, load: Load) -> None:
        self.loads.append(load)


@contextmanager
def running(model: Model, notes: Notes | None = None, max_waiting_tokens: int = 100_000) -> Iterator[Batcher[int, int]]:
    batcher = Batcher(model.run, notes or Notes(), max_batch_tokens=16, max_waiting_tokens=max_waiting_tokens)
    batcher.start()
    yield batcher
    model.may_go.set()
    batcher.close()


def submit(batcher: Batcher[int, int], items: Sequence[int], cost: int = 1) -> Caller:
    caller = Caller()
    batcher.submit(items, [cost] * len(items), caller)
    return caller


def hold(batcher: Batcher[int, int], model: Model) -> Caller:
    """Keep the thread inside of a batch of one item, so that what follows waits."""
    model.may_go.clear()
    caller = submit(batcher, [1])
    assert model.has_begun.wait(10)
    return caller


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.booleans()), max_size=12),
    st.integers(1, 60),
)
def test_every_request_ends_exactly_once_and_rightly(requests: list[tuple[list[int], bool]], limit: int) -> None:
    callers: list[Caller] = []
    model = Model()
    with running(model, max_waiting_tokens=limit) as batcher:
        for items, leaves in requests:
            callers.append(submit(batcher, items))
            callers[-1].has_left = leaves
        endings = [caller.ending() for caller in callers]
    for (items, leaves), ending, caller in zip(requests, endings, callers, strict=True):
        match ending:
            case list():
                assert ending == [2 * item for item in items]
            case MeshError():
                assert ending.reason in (Reason.QUEUE_FULL, Reason.INTERNAL, Reason.INVALID_REQUEST)
            case None:
                assert leaves
        with suppress(queue.Empty):
            pytest.fail(f"ended twice: {caller.endings.get_nowait()}")
    assert all(len(batch) <= 16 for batch in model.batches)


def test_requests_that_wait_are_computed_together() -> None:
    model, notes = Model(), Notes()
    with running(model, notes) as batcher:
        hold(batcher, model)
        callers = [submit(batcher, [n, n + 1], cost=2) for n in (2, 4, 6)]
        model.may_go.set()
        assert [caller.ending() for caller in callers] == [[4, 6], [8, 10], [12, 14]]
    assert [sorted(batch) for batch in model.batches] == [[1], [2, 3, 4, 5, 6, 7]]
    assert [(batch.num_items, batch.num_tokens) for batch in notes.batches] == [(1, 1), (6, 12)]
    assert replace(notes.loads[-1], busy_ratio=0.0) == Load(0, 0, 0, 0.0, 0.0)


class Unreachable(Caller):
    def is_cancelled(self) -> bool:
        raise RuntimeError("nobody knows")


def test_a_caller_who_cannot_be_asked_whether_it_has_left_is_answered_like_all_others() -> None:
    model, caller = Model(), Unreachable()
    with running(model) as batcher:
        hold(batcher, model)
        batcher.submit([2], [1], caller)
        other = submit(batcher, [3])
        model.may_go.set()
        assert (caller.ending(), other.ending()) == ([4], [6])
        assert batcher.is_running


def test_the_share_of_recent_time_spent_computing_is_told() -> None:
    notes, now_s = Notes(), 100.0

    def pass_time() -> None:
        nonlocal now_s
        now_s += BUSY_S

    def run(items: Sequence[int]) -> Sequence[int]:
        pass_time()
        return items

    batcher = Batcher(run, notes, max_batch_tokens=16, max_waiting_tokens=100, clock=lambda: now_s)
    batcher.start()
    submit(batcher, [1]).ending()
    batcher.ping(pass_time)
    batcher.close()

    assert max(load.busy_ratio for load in notes.loads) == pytest.approx(1 - 1 / math.e)
    assert notes.loads[-1].busy_ratio == pytest.approx((1 - 1 / math.e) / math.e)


def test_what_waits_is_told_in_requests_inputs_tokens_and_seconds() -> None:
    model, notes = Model(), Notes()
    with running(model, notes) as batcher:
        hold(batcher, model)
        callers = [submit(batcher, items, cost=16) for items in ([2], [3, 4], [5, 6, 7])]  # one input fills a batch
        model.may_go.set()
        assert [caller.ending() for caller in callers] == [[4], [6, 8], [10, 12, 14]]
    waiting = [(load.num_waiting, load.waiting_items, load.waiting_tokens) for load in notes.loads]
    assert waiting[:7] == [(3, 6, 96), (2, 5, 80), (2, 4, 64), (2, 3, 48), (1, 2, 32), (1, 1, 16), (0, 0, 0)]
    assert [load.oldest_wait_s > 0 for load in notes.loads] == [load.num_waiting > 0 for load in notes.loads]


def test_a_failed_batch_answers_all_its_requests_and_the_next_one_is_computed() -> None:
    model = Model()
    with running(model) as batcher:
        hold(batcher, model)
        failing = [submit(batcher, [2]), submit(batcher, [13, *[3] * 40]), submit(batcher, [4])]
        model.may_go.set()
        assert [caller.failure() for caller in failing] == [Reason.INTERNAL] * 3
        assert submit(batcher, [5]).ending() == [10]
    assert [3] * 16 not in model.batches  # what was left of the failed request is not computed


def test_a_model_may_refuse_in_its_own_words() -> None:
    with running(Model()) as batcher:
        assert submit(batcher, [14]).failure() is Reason.INVALID_REQUEST


def test_a_caller_who_left_costs_no_computation() -> None:
    model = Model()
    with running(model) as batcher:
        hold(batcher, model)
        gone, stays = submit(batcher, [7] * 100), submit(batcher, [8])
        gone.has_left = True
        model.may_go.set()
        assert (gone.ending(), stays.ending()) == (None, [16])
    assert 7 not in [item for batch in model.batches for item in batch]


def test_a_caller_who_leaves_half_way_stops_the_rest() -> None:
    model = Model()
    with running(model) as batcher:
        model.may_go.clear()
        caller = submit(batcher, [7] * 100)
        assert model.has_begun.wait(10)
        caller.has_left = True
        model.may_go.set()
        assert caller.ending() is None
    assert model.batches == [[7] * 16]


def test_what_would_pass_the_limit_is_refused_with_both_numbers_unless_nothing_waits() -> None:
    model = Model()
    with running(model, max_waiting_tokens=20) as batcher:
        hold(batcher, model)
        large, refused = submit(batcher, [1] * 50), submit(batcher, [1, 2])
        model.may_go.set()
        assert large.ending() == [2] * 50
        ending = refused.ending()
    assert isinstance(ending, MeshError) and ending.reason is Reason.QUEUE_FULL
    assert "50" in ending.message and "20" in ending.message


def test_times_run_from_the_queue_over_the_first_batch_to_the_last() -> None:
    model = Model()
    clock = iter(range(100))
    batcher = Batcher(model.run, Notes(), max_batch_tokens=1, max_waiting_tokens=9, clock=lambda: next(clock))
    caller = submit(batcher, [1, 2])  # queued at 0
    batcher.start()
    assert caller.ending() == [2, 4]
    batcher.close()
    assert caller.times == Times(queued_s=0, begun_s=1, ended_s=5)  # read once in between, for the age of the queue


def test_a_ping_is_answered_between_two_batches() -> None:
    model, answered = Model(), threading.Event()
    with running(model) as batcher:
        hold(batcher, model)
        batcher.ping(answered.set)
        assert not answered.is_set()
        model.may_go.set()
        assert answered.wait(10)


def test_close_ends_the_batch_in_hand_and_refuses_what_waits() -> None:
    model = Model()
    with running(model) as batcher:
        held = hold(batcher, model)
        asked_to_stop = threading.Event()
        waiting = submit(batcher, [2] * 10_000)
        batcher.ping(lambda: asked_to_stop.wait(10))  # keeps the thread in its inbox until close has left its word
        closing = threading.Thread(target=batcher.close)
        model.may_go.set()
        closing.start()
        asked_to_stop.set()
        closing.join(10)
        assert held.ending() == [2]
        assert waiting.failure() is Reason.NOT_READY
        assert not batcher.is_running
