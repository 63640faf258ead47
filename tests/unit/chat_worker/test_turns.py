"""Whose turn it is in the whole engine without a thread, and what counts as waiting."""

import pytest

from services.chat_worker.engine.sequence import Priority, RequestId
from tests.fakes.stepped_engine import Job, SteppedEngine, expected_tokens


def test_a_tenant_does_not_wait_longer_for_having_used_an_idle_machine() -> None:
    engine = SteppedEngine(num_blocks=2000, max_running=4)
    for number in range(4):
        engine.add(number, Job(b"long", max_tokens=400, tenant="early"))
    for _ in range(380):
        engine.step()
    for number in range(10, 90):  # far more than there is room for
        engine.add(number, Job(b"late", max_tokens=10, tenant="late"))
    for _ in range(30):  # the long answers end
        engine.step()
    again = engine.add(4, Job(b"next", max_tokens=10, tenant="early"))
    num_ended = sum(engine.sink.is_finished(RequestId(number)) for number in range(10, 90))
    while not engine.sink.is_finished(again):
        engine.step()
    num_passed = sum(engine.sink.is_finished(RequestId(number)) for number in range(10, 90)) - num_ended
    assert num_passed <= 12  # those that ran, and what the tenants are apart by since both want to run


def test_bulk_gives_its_place_and_its_blocks_to_an_interactive_request() -> None:
    for limits in ({"max_running": 1}, {"num_blocks": 8}):
        engine = SteppedEngine(**limits)
        bulk, urgent = Job(b"bulk" * 4, max_tokens=12, priority=Priority.BULK), Job(b"now!" * 4, max_tokens=3)
        engine.add(0, bulk)
        engine.step()
        engine.add(1, urgent)
        engine.finish()
        order = [request_id for step in engine.runner.steps for request_id, _ in step]
        assert order[1] == 1
        assert engine.sink.tokens(RequestId(0)) == expected_tokens(bulk)
        assert engine.sink.tokens(RequestId(1)) == expected_tokens(urgent)


def test_an_interactive_request_waits_for_another_and_for_bulk_that_would_not_help() -> None:
    engine = SteppedEngine(num_blocks=12)
    engine.add(0, Job(b"interactive, and long", max_tokens=8))
    engine.add(1, Job(b"bulk", priority=Priority.BULK))
    engine.step()
    engine.step()
    engine.add(2, Job(b"waits, and is long too, so", max_tokens=8))
    engine.step()
    assert [len(step) for step in engine.runner.steps] == [1, 2, 2]
    assert engine.scheduler.batch.num_preemptions == 0


@pytest.mark.parametrize(
    "bulk",
    [
        Job(b"bulk" * 4, n=3, priority=Priority.BULK),  # its answers hold the prompt's blocks together
        Job(b"interactive, and lon", priority=Priority.BULK),  # the other request holds these too
    ],
)
def test_bulk_keeps_blocks_that_would_not_become_free_for_an_interactive_request(bulk: Job) -> None:
    engine = SteppedEngine(num_blocks=16)
    engine.add(0, Job(b"interactive, and lon", max_tokens=12))
    engine.step()
    engine.add(1, bulk)
    engine.step()
    engine.add(2, Job(b"w" * 47, max_tokens=8))
    engine.step()
    assert engine.scheduler.batch.num_preemptions == 0
    assert [request_id for request_id, _ in engine.runner.steps[-1]] == [0] + [1] * bulk.n


def test_bulk_gives_all_its_blocks_if_together_they_are_enough() -> None:
    engine = SteppedEngine(num_blocks=16)
    engine.add(0, Job(b"interactive, and lon", max_tokens=12))
    engine.step()
    engine.add(1, Job(b"bulk" * 4, n=3, priority=Priority.BULK))
    engine.step()
    engine.add(2, Job(b"w" * 39))  # needs 10 blocks: bulk holds 4 together and 1 each, and 3 are free
    engine.step()
    assert [request_id for request_id, _ in engine.runner.steps[-1]] == [0, 2]


def test_bulk_ends_although_interactive_requests_never_stop_coming() -> None:
    engine = SteppedEngine(max_running=2)
    bulk = engine.add(0, Job(b"bulk", max_tokens=20, priority=Priority.BULK))
    for number in range(1, 200):
        engine.add(number, Job(b"quick", max_tokens=4))
        engine.step()
        engine.step()
        if engine.sink.is_finished(bulk):
            break
    assert engine.sink.is_finished(bulk)
    assert len(engine.scheduler.batch.waiting) > 0


def test_tokens_wait_until_they_are_computed_and_generated_ones_never_do() -> None:
    engine = SteppedEngine(max_step_tokens=16, max_running=1)
    engine.add(0, Job(b"x" * 40, max_tokens=3))
    engine.add(1, Job(b"y" * 20, max_tokens=1))
    while engine.engine.has_work:
        engine.step()
    waiting = [load.waiting_tokens for load in engine.sink.loads]
    assert waiting == [44, 28, 20, 20, 20, 4, 0]


def test_answers_that_wait_behind_their_computed_prompt_lock_nobody_out() -> None:
    engine = SteppedEngine(max_waiting_tokens=200, max_running=2)
    engine.add(0, Job(b"x" * 41, n=50, max_tokens=9))
    engine.step()
    assert engine.sink.loads[-1].num_waiting == 48
    assert engine.sink.loads[-1].waiting_tokens <= 48 * 4  # of each less than a block is not found again
    assert engine.add(1, Job(b"hello", tenant="other")) not in engine.sink.errors


def test_an_answer_that_gave_way_waits_with_what_is_to_be_computed_again() -> None:
    for prefix_cache, expected in ((True, 2), (False, 22)):
        engine = SteppedEngine(num_blocks=12, max_running=1, prefix_cache=prefix_cache)
        engine.add(0, Job(b"x" * 21, max_tokens=20, priority=Priority.BULK))
        engine.step()
        engine.add(1, Job(b"now", max_tokens=2))
        engine.step()
        assert engine.scheduler.batch.num_preemptions == 1
        assert engine.sink.loads[-1].waiting_tokens == expected, prefix_cache


def test_a_long_prompt_does_not_stall_running_streams() -> None:
    engine = SteppedEngine(max_step_tokens=2048, num_blocks=2048)
    streams = [engine.add(number, Job(bytes([number]), max_tokens=100)) for number in range(4)]
    for _ in range(10):
        engine.step()
    before = [len(engine.sink.tokens(stream)) for stream in streams]
    engine.add(9, Job(b"long" * 300, max_tokens=1))
    engine.step()
    engine.step()
    assert [len(engine.sink.tokens(stream)) for stream in streams] == [count + 2 for count in before]
    assert max(dict(engine.runner.steps[-1]).values()) < 1200
