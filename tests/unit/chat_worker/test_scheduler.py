"""The scheduler and its blocks: order, budgets, preemption, and that nothing is ever lost."""

import pytest

from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.scheduler import MOST_SAT_OUT, Scheduler
from services.chat_worker.engine.sequence import Priority, RequestId, Sampling, Sequence, Status, Stop

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, seed=0)


def make_scheduler(
    *,
    num_blocks: int,
    block_len: int = 4,
    max_step_tokens: int = 100,
    max_running: int = 8,
    max_waiting_tokens: int = 1000,
    prefix_cache: bool = False,
) -> Scheduler:
    blocks = BlockPool(num_blocks, block_len, prefix_cache=prefix_cache)
    return Scheduler(
        blocks, max_step_tokens=max_step_tokens, max_running=max_running, max_waiting_tokens=max_waiting_tokens
    )


def make_sequence(number: int, prompt_len: int, max_tokens: int = 100) -> Sequence:
    return Sequence(RequestId(number), [7] * prompt_len, prompt_len, GREEDY, Stop(max_tokens, frozenset()))


def add(scheduler: Scheduler, *prompt_lens: int) -> list[Sequence]:
    sequences = [make_sequence(number, prompt_len) for number, prompt_len in enumerate(prompt_lens)]
    for sequence in sequences:
        scheduler.add(sequence)
    return sequences


def step(scheduler: Scheduler) -> list[tuple[int, int]]:
    """Run one step in which every finished prompt and every decoding sequence samples token 9."""
    plan = scheduler.schedule()
    scheduler.batch.check_integrity()
    tokens = [(int(chunk.sequence.request_id), chunk.num_tokens) for chunk in plan.chunks]
    scheduler.commit(plan, {chunk.sequence: [9] for chunk in plan.chunks if chunk.samples})
    return tokens


def test_prompts_run_whole_and_together_when_the_budget_allows() -> None:
    scheduler = make_scheduler(num_blocks=10)
    add(scheduler, 5, 3)
    assert step(scheduler) == [(0, 5), (1, 3)]
    assert step(scheduler) == [(0, 1), (1, 1)]


def test_bulk_sits_out_while_an_interactive_prompt_is_computed_but_for_a_step_now_and_then() -> None:
    scheduler = make_scheduler(num_blocks=200, max_step_tokens=4)
    decoding, prompt = make_sequence(0, 2), make_sequence(1, 40)
    decoding.priority = prompt.priority = Priority.BULK
    for sequence in (decoding, prompt):
        scheduler.add(sequence)
    assert step(scheduler) == [(0, 2), (1, 2)]

    scheduler.add(make_sequence(2, 4 * (MOST_SAT_OUT + 1)))

    assert [step(scheduler) for _ in range(MOST_SAT_OUT)] == [[(2, 4)]] * MOST_SAT_OUT
    assert step(scheduler) == [(0, 1), (2, 3)]
    assert step(scheduler) == [(0, 1), (2, 1), (1, 2)]


def test_a_long_prompt_runs_in_chunks_behind_decoding_sequences() -> None:
    scheduler = make_scheduler(num_blocks=20, max_step_tokens=6)
    short, long = add(scheduler, 2, 10)
    assert step(scheduler) == [(0, 2), (1, 4)]
    assert step(scheduler) == [(0, 1), (1, 5)]
    assert step(scheduler) == [(0, 1), (1, 1)]
    assert (short.completion_len, long.completion_len) == (3, 1)


def test_a_prefilling_sequence_cannot_take_the_budget_of_decoding_ones() -> None:
    scheduler = make_scheduler(num_blocks=20, max_step_tokens=4)
    add(scheduler, 12, 2)
    assert step(scheduler) == [(0, 4)]
    assert step(scheduler) == [(0, 4)]
    assert step(scheduler) == [(0, 4)]
    assert step(scheduler) == [(0, 1), (1, 2)]


def test_interactive_prompts_to_be_read_are_those_that_run_and_those_with_a_place() -> None:
    scheduler = make_scheduler(num_blocks=100, max_step_tokens=8, max_running=3)
    add(scheduler, 4, 20, 4, 4, 4)
    bulk = make_sequence(9, 4)
    bulk.priority = Priority.BULK
    scheduler.add(bulk)
    assert scheduler.batch.num_reading == 3  # places
    assert step(scheduler) == [(0, 4), (1, 4)]
    assert scheduler.batch.num_reading == 2  # one is half read, one has the last place


def test_no_more_than_max_running_sequences_run() -> None:
    scheduler = make_scheduler(num_blocks=20, max_running=2)
    sequences = add(scheduler, 1, 1, 1)
    assert step(scheduler) == [(0, 1), (1, 1)]
    scheduler.batch.remove(sequences[0])
    assert step(scheduler) == [(1, 1), (2, 1)]


def test_a_sequence_waits_until_all_of_its_prompt_and_one_token_fit() -> None:
    scheduler = make_scheduler(num_blocks=2)
    first, second = add(scheduler, 3, 4)
    assert step(scheduler) == [(0, 3)]
    scheduler.batch.remove(first)
    assert step(scheduler) == [(1, 4)]
    assert second.status is Status.RUNNING


def test_newest_sequence_is_preempted_when_blocks_run_out() -> None:
    scheduler = make_scheduler(num_blocks=2)
    older, newer = add(scheduler, 3, 3)
    step(scheduler)
    assert step(scheduler) == [(0, 1), (1, 1)]
    assert step(scheduler) == [(0, 1)]  # the older one needs a second block
    assert (older.status, newer.status) == (Status.RUNNING, Status.WAITING)
    assert (newer.num_computed, newer.block_ids, newer.token_ids[3:]) == (0, [], [9, 9])
    assert scheduler.batch.num_preemptions == 1


def test_a_preempted_sequence_is_computed_again_and_goes_on() -> None:
    scheduler = make_scheduler(num_blocks=3)
    older, newer = add(scheduler, 7, 3)
    step(scheduler)
    step(scheduler)
    assert step(scheduler) == [(0, 1)]
    scheduler.batch.remove(older)
    assert step(scheduler) == [(1, 5)]
    assert newer.completion_len == 3


def test_removing_a_waiting_or_running_sequence_frees_everything() -> None:
    scheduler = make_scheduler(num_blocks=4, max_running=1)
    running, waiting = add(scheduler, 6, 6)
    step(scheduler)
    for sequence in (running, waiting):
        scheduler.batch.remove(sequence)
        scheduler.batch.check_integrity()
        assert (sequence.status, sequence.block_ids) == (Status.FINISHED, [])
    assert not scheduler.has_work


def test_a_lost_block_is_noticed() -> None:
    blocks = BlockPool(4, 4)
    sequence = make_sequence(0, 4)
    blocks.allocate(sequence, 4)
    sequence.block_ids.clear()
    with pytest.raises(AssertionError, match="a block is"):
        blocks.check_integrity([sequence])
