"""Who is next: classes, tenants' shares, arrival, and that bulk work has its turn."""

import random
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from services.chat_worker.engine.sequence import Priority, RequestId, Sampling, Sequence, Stop
from services.chat_worker.engine.waiting import BULK_TURN, WaitingQueue

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, seed=0)


def make_sequence(
    number: int, tenant: str = "", length: int = 10, priority: Priority = Priority.INTERACTIVE
) -> Sequence:
    stop = Stop(9, frozenset())
    return Sequence(RequestId(number), [7] * length, length, GREEDY, stop, priority=priority, tenant=tenant)


def make_queue(*sequences: Sequence) -> WaitingQueue:
    queue = WaitingQueue()
    for sequence in sequences:
        queue.add(sequence)
    return queue


def let_in(queue: WaitingQueue) -> Sequence:
    """Let the head in, and charge its prompt."""
    sequence = queue.head()
    assert sequence is not None
    queue.let_in(sequence)
    queue.charge(sequence, len(sequence.token_ids))
    return sequence


def let_all_in(queue: WaitingQueue) -> list[int]:
    return [int(let_in(queue).request_id) for _ in range(len(queue))]


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    assert let_all_in(make_queue(*(make_sequence(number) for number in range(5)))) == [0, 1, 2, 3, 4]


def test_a_tenant_with_one_request_does_not_wait_for_another_with_many() -> None:
    queue = make_queue(*(make_sequence(number, "many") for number in range(50)), make_sequence(99, "one"))
    assert 99 in let_all_in(queue)[:2]


def test_tenants_get_equal_tokens_not_equal_requests() -> None:
    queue = make_queue(
        *(make_sequence(number, "long", 40) for number in range(50)),
        *(make_sequence(number, "short", 10) for number in range(100, 300)),
    )
    first = [let_in(queue).tenant for _ in range(50)]
    assert Counter(first) == {"short": 40, "long": 10}


def test_generated_tokens_count_too_while_others_wait() -> None:
    writer = make_sequence(0, "writer")
    queue = make_queue(writer)
    let_in(queue)
    queue.add(make_sequence(30, "reader"))
    queue.charge(writer, 500)
    for number in range(1, 10):
        queue.add(make_sequence(10 + number, "writer"))
        queue.add(make_sequence(30 + number, "reader"))
    assert let_all_in(queue)[:10] == [30, 31, 32, 33, 34, 35, 36, 37, 38, 39]


def test_tokens_generated_while_nobody_waits_are_held_against_nobody() -> None:
    alone = make_sequence(0, "alone")
    queue = make_queue(alone)
    let_in(queue)
    queue.charge(alone, 500)
    for number in range(10):
        queue.add(make_sequence(10 + number, "other"))
        queue.add(make_sequence(30 + number, "alone"))
    assert let_all_in(queue)[:4] == [10, 30, 11, 31]


def test_ever_new_tenants_do_not_starve_one_who_comes_twice() -> None:
    queue = make_queue(make_sequence(0, "twice", 100), make_sequence(1, "twice", 100))
    num_passed = -1
    while queue.head() is not None and 1 in (int(each.request_id) for each in queue):
        num_passed += 1
        queue.add(make_sequence(10 + num_passed, f"tenant {num_passed}"))
        let_in(queue)
    assert num_passed <= 100


def test_accounts_of_tenants_who_went_are_forgotten_though_somebody_always_waits() -> None:
    queue = make_queue(make_sequence(0, "a"), make_sequence(1, "b"))
    for number in range(2, 3000):
        queue.add(make_sequence(number, f"tenant {number}"))
        let_in(queue)
    assert len(queue._classes[Priority.INTERACTIVE]._served) < 300


def test_a_pause_earns_no_claim() -> None:
    queue = make_queue(*(make_sequence(number, "busy") for number in range(50)))
    for _ in range(40):
        let_in(queue)
    for number in range(100, 120):
        queue.add(make_sequence(number, "back"))
    served = let_all_in(queue)[:10]
    assert sum(number < 100 for number in served) >= 4


def test_a_sequence_that_gave_way_is_the_first_of_its_tenant() -> None:
    queue = make_queue(make_sequence(0), make_sequence(1))
    queue.put_back(make_sequence(2), 4)
    assert queue.num_tokens == 24
    assert let_all_in(queue) == [2, 0, 1]


def test_a_request_with_many_answers_lets_others_of_its_tenant_in_between() -> None:
    queue = make_queue()
    for index in range(1, 20):  # the first has branched
        queue.put_back(replace(make_sequence(0), index=index), 1)
    queue.add(make_sequence(1))
    queue.add(make_sequence(2))
    assert let_all_in(queue) == [0, 1, 2, *[0] * 18]


def test_requests_with_many_answers_take_turns_and_none_starves() -> None:
    queue = make_queue()
    for number in range(2):
        for index in range(1, 4):
            queue.put_back(replace(make_sequence(number), index=index), 1)
    for number in range(2, 50):
        queue.add(make_sequence(number))
    assert let_all_in(queue) == [0, 1, *range(2, 50), 0, 1, 0, 1]


def test_another_answer_that_gave_way_is_the_first_of_its_request_only() -> None:
    queue = make_queue(make_sequence(0))
    for index in (1, 2):
        queue.put_back(replace(make_sequence(1), index=index), 1)
    assert [each.index for each in (let_in(queue), let_in(queue), let_in(queue))] == [0, 2, 1]


def test_interactive_sequences_go_before_bulk_ones() -> None:
    bulk = [make_sequence(number, priority=Priority.BULK) for number in range(3)]
    queue = make_queue(*bulk, make_sequence(10), make_sequence(11))
    assert let_all_in(queue) == [10, 11, 0, 1, 2]


def test_a_bulk_sequence_has_its_turn_however_many_interactive_ones_come() -> None:
    bulk = make_sequence(999, priority=Priority.BULK)
    queue = make_queue(bulk, *(make_sequence(number) for number in range(100)))
    assert let_all_in(queue).index(999) == BULK_TURN
    assert bulk.priority is Priority.INTERACTIVE


def test_a_bulk_sequence_let_in_for_want_of_others_stays_bulk() -> None:
    bulk = make_sequence(0, priority=Priority.BULK)
    let_in(make_queue(bulk))
    assert bulk.priority is Priority.BULK


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.sampled_from(Priority))), st.integers())
def test_whatever_comes_and_goes_each_is_let_in_or_taken_out_once(
    arrivals: list[tuple[str, int, Priority]], seed: int
) -> None:
    queue, choice = WaitingQueue(), random.Random(seed)
    inside: list[Sequence] = []
    gone: list[int] = []
    for number, (tenant, length, priority) in enumerate(arrivals):
        sequence = make_sequence(number, tenant, length, priority)
        if choice.random() < 0.2:
            queue.put_back(sequence, length)
        else:
            queue.add(sequence)
        inside.append(sequence)
        if choice.random() < 0.3:
            removed = inside.pop(choice.randrange(len(inside)))
            queue.remove(removed)
            gone.append(int(removed.request_id))
        if inside and choice.random() < 0.4:
            entered = let_in(queue)
            inside.remove(entered)
            gone.append(int(entered.request_id))
        assert queue.num_tokens == sum(len(sequence.token_ids) for sequence in inside)
        assert set(queue) == set(inside)
    gone += let_all_in(queue)
    assert sorted(gone) == list(range(len(arrivals)))
    assert queue.head() is None
