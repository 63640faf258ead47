"""Which items make a batch, for any mix of requests."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workerkit.waiting import Job, Waiting

COSTS = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def take_all(waiting: Waiting[Job]) -> list[list[tuple[Job, int]]]:
    batches: list[list[tuple[Job, int]]] = []
    while batch := waiting.take():
        batches.append(batch)
    return batches


@given(st.lists(COSTS, max_size=8), st.integers(1, 64))
def test_every_item_goes_into_exactly_one_batch_in_the_order_of_its_request(jobs: list[list[int]], budget: int) -> None:
    waiting: Waiting[Job] = Waiting(budget)
    queued = [Job(costs) for costs in jobs]
    for job in queued:
        waiting.add(job)

    taken = [share for batch in take_all(waiting) for share in batch]

    for job in queued:
        assert [index for owner, index in taken if owner is job] == list(range(len(job.costs)))
    assert (len(waiting), waiting.num_tokens) == (0, 0)


@given(st.lists(COSTS, min_size=1, max_size=8), st.integers(1, 64))
def test_a_batch_keeps_to_the_budget_unless_one_item_alone_is_larger(jobs: list[list[int]], budget: int) -> None:
    waiting: Waiting[Job] = Waiting(budget)
    for costs in jobs:
        waiting.add(Job(costs))

    for batch in take_all(waiting):
        assert len(batch) == 1 or sum(job.costs[index] for job, index in batch) <= budget


@given(st.lists(COSTS, min_size=1, max_size=8), st.integers(1, 64))
def test_no_batch_leaves_out_what_would_have_fitted_next(jobs: list[list[int]], budget: int) -> None:
    waiting: Waiting[Job] = Waiting(budget)
    for costs in jobs:
        waiting.add(Job(costs))

    batches = take_all(waiting)

    for batch, following in pairwise(batches):
        job, index = following[0]
        assert sum(owner.costs[i] for owner, i in batch) + job.costs[index] > budget


@given(st.integers(1, 30), st.integers(1, 8))
def test_a_request_waits_for_one_turn_of_each_other_at_most(num_others: int, cost: int) -> None:
    waiting: Waiting[Job] = Waiting(max_batch_tokens=64)  # eight turns of 8 tokens
    for _ in range(num_others):
        waiting.add(Job([8] * 1000))
    short = Job([cost])
    waiting.add(short)

    batches = next(n for n in range(1, 1000) if any(job is short for job, _ in waiting.take()))

    assert batches <= num_others // 8 + 2


def test_requests_that_wait_together_share_a_batch() -> None:
    waiting: Waiting[Job] = Waiting(max_batch_tokens=16)
    long, short = Job([2] * 50), Job([3])
    waiting.add(long)
    waiting.add(short)

    counts = Counter(id(job) for job, _ in waiting.take())

    assert counts[id(short)] == 1
    assert counts[id(long)] == 6


def test_an_item_larger_than_the_budget_goes_alone() -> None:
    waiting: Waiting[Job] = Waiting(max_batch_tokens=10)
    waiting.add(Job([4, 50, 4]))

    assert [[index for _, index in batch] for batch in take_all(waiting)] == [[0], [1], [2]]


def test_what_is_removed_is_never_taken_again() -> None:
    waiting: Waiting[Job] = Waiting(max_batch_tokens=4)
    gone, stays = Job([2] * 10), Job([2] * 3)
    for job in (gone, stays):
        waiting.add(job)
    waiting.take()

    waiting.remove(gone)
    waiting.remove(gone)

    assert waiting.num_tokens == stays.waiting_tokens
    assert {id(job) for batch in take_all(waiting) for job, _ in batch} == {id(stays)}
