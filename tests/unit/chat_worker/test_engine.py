"""The whole engine without a thread: whatever arrives, every answer is the plain one, and every request ends once."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from meshkit.errors import Reason
from services.chat_worker.engine.sequence import Priority, RequestId
from tests.fakes.engine import FakeRunner
from tests.fakes.stepped_engine import GREEDY, Job, SteppedEngine, expected_tokens

# few letters and shared beginnings, so that prefixes are found and guesses hold
PROMPTS = st.builds(
    lambda first, start, end: first + b"a shared beginning"[:start] + bytes(end),
    st.sampled_from([b"", b"~"]),
    st.integers(0, 17),
    st.lists(st.sampled_from(b"ab"), min_size=1, max_size=12),
)
JOBS = st.builds(
    Job,
    prompt=PROMPTS,
    max_tokens=st.integers(1, 12),
    n=st.sampled_from([1, 1, 1, 2, 3, 5]),
    priority=st.sampled_from(Priority),
    tenant=st.sampled_from(["x", "y", "z"]),
    arrives=st.integers(0, 25),
    leaves=st.none() | st.integers(0, 20),
    timeout=st.none() | st.none() | st.integers(0, 40),
    speculate=st.booleans(),
    sampling=st.sampled_from([GREEDY, replace(GREEDY, prompt_logprobs=0)]),
)


@settings(max_examples=150, deadline=None)
@given(
    jobs=st.lists(JOBS, min_size=1, max_size=14),
    num_blocks=st.integers(12, 20),  # one window is 42 tokens, 11 blocks
    max_step_tokens=st.integers(1, 40),
    max_running=st.integers(1, 6),
    prefix_cache=st.booleans(),
)
def test_every_request_ends_once_with_the_plain_answer_or_by_its_own_wish(
    jobs: list[Job], num_blocks: int, max_step_tokens: int, max_running: int, prefix_cache: bool
) -> None:
    engine = SteppedEngine(
        num_blocks=num_blocks,
        max_step_tokens=max_step_tokens,
        max_running=max_running,
        prefix_cache=prefix_cache,
    )
    left: set[int] = set()
    while engine.now <= 50 or engine.engine.has_work:
        assert engine.now < 5000, "starvation"
        for number, job in enumerate(jobs):
            if job.arrives == engine.now:
                engine.add(number, job)
            if job.leaves is not None and job.arrives + job.leaves == engine.now:
                engine.engine.drop(RequestId(number))
                left.add(number)
        engine.step()
    assert all(sum(tokens for _, tokens in step) <= max_step_tokens for step in engine.runner.steps)
    assert engine.blocks.num_free == num_blocks
    for number, job in enumerate(jobs):
        assert_ended_rightly(engine, RequestId(number), job, may_be_silent=number in left)


def assert_ended_rightly(engine: SteppedEngine, request_id: RequestId, job: Job, *, may_be_silent: bool) -> None:
    """An answer is the plain one, with the prompt's tokens scored if that was asked; an error is the deadline's."""
    if request_id in engine.sink.errors:
        assert job.timeout is not None and engine.sink.errors[request_id].reason is Reason.DEADLINE
    elif engine.sink.is_finished(request_id):
        assert all(engine.sink.tokens(request_id, index) == expected_tokens(job) for index in range(job.n))
        scores = [score for piece in engine.sink.pieces[request_id] for score in piece.prompt_scores]
        scored = list(job.prompt) if job.sampling.prompt_logprobs is not None else []
        assert [score and score.token_id for score in scores] == scored
    else:
        assert may_be_silent


def test_the_prompt_of_a_second_request_is_found_in_the_cache() -> None:
    engine = SteppedEngine()
    for number, prompt in enumerate((b"0123456789ab", b"0123456789abXYZ")):
        engine.add(number, Job(prompt, max_tokens=1))
        engine.finish()
    finishes = [engine.sink.pieces[RequestId(number)][-1].finish for number in range(2)]
    assert [finish and finish.cached_tokens for finish in finishes] == [0, 12]
    assert engine.runner.steps == [[(0, 12)], [(1, 3)]]
    assert (engine.blocks.num_queried, engine.blocks.num_hit) == (27, 12)


def test_of_a_cached_prompt_only_the_last_token_is_computed() -> None:
    engine = SteppedEngine()
    for number in range(2):
        engine.add(number, Job(b"01234567", max_tokens=1))
        engine.finish()
    assert engine.runner.steps == [[(0, 8)], [(1, 1)]]


@pytest.mark.parametrize("num_blocks", [4, 5, 20])
def test_a_cached_block_that_only_begins_alike_is_copied_as_far_and_kept_if_there_is_room(num_blocks: int) -> None:
    engine = SteppedEngine(num_blocks=num_blocks)
    jobs = [Job(prompt, max_tokens=2) for prompt in (b"0123456789abc", b"0123456789XYZ", b"0123456789abc")]
    for number, job in enumerate(jobs):
        engine.add(number, job)
        engine.finish()
        assert engine.sink.tokens(RequestId(number)) == expected_tokens(job)
    finishes = [engine.sink.pieces[RequestId(number)][-1].finish for number in range(3)]
    assert [finish and finish.cached_tokens for finish in finishes] == [0, 10, 10 if num_blocks == 4 else 12]


def test_an_answer_is_found_in_the_cache_when_the_conversation_goes_on() -> None:
    engine = SteppedEngine()
    first = engine.add(0, Job(b"0123", max_tokens=9))
    engine.finish()
    engine.add(1, Job(b"0123" + bytes(engine.sink.tokens(first)) + b"?", max_tokens=1))
    engine.finish()
    finish = engine.sink.pieces[RequestId(1)][-1].finish
    assert finish is not None and finish.cached_tokens == 12


def test_tenants_do_not_see_each_others_prefixes() -> None:
    engine = SteppedEngine()
    for number, tenant in enumerate(("one", "two", "one")):
        engine.add(number, Job(b"0123456789", max_tokens=1, tenant=tenant))
        engine.finish()
    assert [tokens for step in engine.runner.steps for _, tokens in step] == [10, 10, 2]


def test_what_was_unused_longest_is_forgotten_first() -> None:
    engine = SteppedEngine(num_blocks=5)
    prompts = {0: b"aaaaaaaa_", 1: b"bbbbbbbb_", 2: b"aaaaaaaa_", 3: b"cccccccc_", 4: b"aaaaaaaa_", 5: b"bbbbbbbb_"}
    for number, prompt in prompts.items():
        engine.add(number, Job(prompt, max_tokens=1))
        engine.finish()
    finishes = [engine.sink.pieces[RequestId(number)][-1].finish for number in prompts]
    assert [finish and finish.cached_tokens for finish in finishes] == [0, 0, 8, 0, 8, 0]


def test_a_preempted_answer_finds_its_own_blocks_again() -> None:
    engine = SteppedEngine(num_blocks=8, max_step_tokens=100)
    for number in range(2):
        engine.add(number, Job(bytes([65 + number]) * 11, max_tokens=12))
    engine.finish()
    assert engine.scheduler.batch.num_preemptions > 0
    again = [tokens for step in engine.runner.steps[1:] for number, tokens in step if number == 1 and tokens > 1]
    assert again and max(again) < 11, "computed blocks were not found"


def test_guesses_save_steps_and_are_accounted_for() -> None:
    plain, guessing = SteppedEngine(), SteppedEngine()
    job = Job(b"~", max_tokens=40)
    for engine, speculate in ((plain, False), (guessing, True)):
        engine.add(0, replace(job, speculate=speculate))
        engine.finish()
    assert guessing.sink.tokens(RequestId(0)) == plain.sink.tokens(RequestId(0))
    finish = guessing.sink.pieces[RequestId(0)][-1].finish
    assert finish is not None
    assert len(plain.runner.steps) - len(guessing.runner.steps) == finish.accepted_draft_tokens > 0


def test_a_request_that_is_not_done_in_time_fails_running_or_waiting() -> None:
    engine = SteppedEngine(max_running=1)
    for number in range(2):
        engine.add(number, Job(b"slow", max_tokens=1000, timeout=5))
    engine.finish()
    assert [engine.sink.errors[RequestId(number)].reason for number in range(2)] == [Reason.DEADLINE] * 2
    assert engine.now == 6
    assert len(engine.sink.tokens(RequestId(0))) == 5


def test_a_request_that_ends_in_time_is_left_alone_by_its_deadline() -> None:
    engine = SteppedEngine()
    engine.add(0, Job(b"fast", max_tokens=2, timeout=5))
    engine.add(1, Job(b"else", max_tokens=20))
    engine.finish()
    assert not engine.sink.errors


def test_prompts_beyond_what_may_wait_are_refused_but_one_always_may() -> None:
    engine = SteppedEngine(max_running=1, max_waiting_tokens=10)
    engine.add(0, Job(b"x" * 50))
    engine.step()
    for number, length in ((1, 30), (2, 5), (3, 5)):
        engine.add(number, Job(b"y" * length, max_tokens=1))
    engine.finish()
    assert set(engine.sink.errors) == {2, 3}
    error = engine.sink.errors[RequestId(2)]
    assert error.reason is Reason.QUEUE_FULL
    assert "30" in str(error) and "5" in str(error) and "10" in str(error)


def test_a_failed_step_with_answers_to_come_frees_everything() -> None:
    engine = SteppedEngine(runner=FakeRunner(fails_on=ord("!")))
    engine.add(0, Job(b"!x", n=3))
    engine.finish()
    assert engine.sink.errors[RequestId(0)].reason is Reason.INTERNAL
    assert engine.blocks.num_free == engine.blocks.num_blocks


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_n_answers_share_the_blocks_of_their_prompt(max_tokens: int) -> None:
    engine = SteppedEngine(num_blocks=7)  # alone, three answers of 8 + 5 tokens would need 12
    request = engine.add(0, Job(b"01234567", n=3, max_tokens=max_tokens))
    engine.finish()
    assert engine.scheduler.batch.num_preemptions == 0
    assert [len(engine.sink.tokens(request, index)) for index in range(3)] == [max_tokens] * 3
