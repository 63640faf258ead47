"""The whole engine without a thread: whatever arrives, every answer is the plain one, and every request ends once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from meshkit.errors import Reason
from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Generation
from services.chat_worker.engine.scheduler import Scheduler
from services.chat_worker.engine.sequence import Priority, RequestId, Sampling, Sequence, Stop
from services.chat_worker.engine.speculate import Speculation
from tests.fakes.engine import VOCAB, ByteTokenizer, FakeRunner, RecordingSink, next_token

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, seed=0)
NO_END: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Job:
    """A request, and when it arrives and its caller leaves, in steps; timeout in steps too."""

    prompt: bytes
    max_tokens: int = 8
    n: int = 1
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    arrives: int = 0
    leaves: int | None = None
    timeout: int | None = None
    speculate: bool = False


class Bench:
    """An engine that is stepped by hand, with a clock that counts the steps."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        max_step_tokens: int = 64,
        max_running: int = 8,
        max_waiting_tokens: int = 9999,
        prefix_cache: bool = True,
    ) -> None:
        self.now = 0
        self.sink = RecordingSink()
        self.blocks = BlockPool(num_blocks, 4, prefix_cache=prefix_cache)
        self.scheduler = Scheduler(
            self.blocks,
            max_step_tokens=max_step_tokens,
            max_running=max_running,
            max_waiting_tokens=max_waiting_tokens,
        )
        self.runner = FakeRunner()
        self.engine = Engine(
            self.scheduler,
            self.blocks,
            self.runner,  # type: ignore[arg-type]
            self.sink,
            vocab_size=VOCAB,
            clock=lambda: float(self.now),
        )

    def add(self, number: int, job: Job) -> RequestId:
        """Hand a job to the engine."""
        request_id = RequestId(number)
        answers: list[Generation] = []
        for index in range(job.n):
            sequence = Sequence(
                *(request_id, list(job.prompt), len(job.prompt), GREEDY, Stop(job.max_tokens, NO_END)),
                index=index,
                priority=job.priority,
                tenant=job.tenant,
            )
            speculation = Speculation() if job.speculate else None
            answers.append(
                Generation(
                    sequence, Detokenizer(ByteTokenizer(), ()), speculation=speculation, arrived_s=float(self.now)
                )
            )
        answers[0].sequence.forks += [answer.sequence for answer in answers[1:]]
        self.engine.add(answers, None if job.timeout is None else job.timeout)
        return request_id

    def step(self) -> None:
        """Compute one step if there is work, and check every invariant."""
        if self.engine.has_work:
            self.engine.step()
        self.engine.observe()
        self.scheduler.batch.check_integrity()
        self.now += 1

    def finish(self) -> None:
        """Compute until nothing is left."""
        for _ in self.steps():
            self.step()

    def steps(self) -> Iterator[int]:
        """As many turns as there is work for, within reason."""
        for turn in range(5000):
            if not self.engine.has_work:
                return
            yield turn
        raise AssertionError("the engine does not come to rest")


def expected_tokens(job: Job) -> list[int]:
    token_ids = list(job.prompt)
    for _ in range(job.max_tokens):
        token_ids.append(next_token(token_ids))
    return token_ids[len(job.prompt) :]


# few letters and shared beginnings, so that prefixes are found and guesses hold
PROMPTS = st.builds(
    lambda start, end: b"a shared beginning"[:start] + bytes(end),
    st.integers(0, 18),
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
    bench = Bench(
        num_blocks=num_blocks,
        max_step_tokens=max_step_tokens,
        max_running=max_running,
        prefix_cache=prefix_cache,
    )
    left: set[int] = set()
    while bench.now <= 50 or bench.engine.has_work:
        assert bench.now < 5000, "starvation"
        for number, job in enumerate(jobs):
            if job.arrives == bench.now:
                bench.add(number, job)
            if job.leaves is not None and job.arrives + job.leaves == bench.now:
                bench.engine.drop(RequestId(number))
                left.add(number)
        bench.step()
    assert all(sum(tokens for _, tokens in step) <= max_step_tokens for step in bench.runner.steps)
    assert bench.blocks.num_free == num_blocks
    for number, job in enumerate(jobs):
        request_id = RequestId(number)
        if request_id in bench.sink.errors:
            assert job.timeout is not None and bench.sink.errors[request_id].reason is Reason.DEADLINE
        elif bench.sink.is_finished(request_id):
            assert all(bench.sink.tokens(request_id, index) == expected_tokens(job) for index in range(job.n))
        else:
            assert number in left


def test_the_prompt_of_a_second_request_is_found_in_the_cache() -> None:
    bench = Bench()
    for number, prompt in enumerate((b"0123456789ab", b"0123456789abXYZ")):
        bench.add(number, Job(prompt, max_tokens=1))
        bench.finish()
    finishes = [bench.sink.pieces[RequestId(number)][-1].finish for number in range(2)]
    assert [finish and finish.cached_tokens for finish in finishes] == [0, 12]
    assert bench.runner.steps == [[(0, 12)], [(1, 3)]]
    assert (bench.blocks.num_queried, bench.blocks.num_hit) == (27, 12)


def test_at_least_the_last_token_of_a_cached_prompt_is_computed() -> None:
    bench = Bench()
    for number in range(2):
        bench.add(number, Job(b"01234567", max_tokens=1))
        bench.finish()
    assert bench.runner.steps == [[(0, 8)], [(1, 4)]]


def test_an_answer_is_found_in_the_cache_when_the_conversation_goes_on() -> None:
    bench = Bench()
    first = bench.add(0, Job(b"0123", max_tokens=9))
    bench.finish()
    bench.add(1, Job(b"0123" + bytes(bench.sink.tokens(first)) + b"?", max_tokens=1))
    bench.finish()
    finish = bench.sink.pieces[RequestId(1)][-1].finish
    assert finish is not None and finish.cached_tokens == 12


def test_tenants_do_not_see_each_others_prefixes() -> None:
    bench = Bench()
    for number, tenant in enumerate(("one", "two", "one")):
        bench.add(number, Job(b"0123456789", max_tokens=1, tenant=tenant))
        bench.finish()
    assert [tokens for step in bench.runner.steps for _, tokens in step] == [10, 10, 2]


def test_what_was_unused_longest_is_forgotten_first() -> None:
    bench = Bench(num_blocks=5)
    prompts = {0: b"aaaaaaaa_", 1: b"bbbbbbbb_", 2: b"aaaaaaaa_", 3: b"cccccccc_", 4: b"aaaaaaaa_", 5: b"bbbbbbbb_"}
    for number, prompt in prompts.items():
        bench.add(number, Job(prompt, max_tokens=1))
        bench.finish()
    finishes = [bench.sink.pieces[RequestId(number)][-1].finish for number in prompts]
    assert [finish and finish.cached_tokens for finish in finishes] == [0, 0, 8, 0, 8, 0]


def test_a_preempted_answer_finds_its_own_blocks_again() -> None:
    bench = Bench(num_blocks=8, max_step_tokens=100)
    for number in range(2):
        bench.add(number, Job(bytes([65 + number]) * 11, max_tokens=12))
    bench.finish()
    assert bench.scheduler.batch.num_preemptions > 0
    again = [tokens for step in bench.runner.steps[1:] for number, tokens in step if number == 1 and tokens > 1]
    assert again and max(again) < 11, "computed blocks were not found"


def test_guesses_save_steps_and_are_accounted_for() -> None:
    plain, guessing = Bench(), Bench()
    job = Job(b"abcabcabc", max_tokens=1)
    period = Job(bytes(expected_tokens(replace(job, max_tokens=6)) * 6), max_tokens=12)
    for bench, speculate in ((plain, False), (guessing, True)):
        bench.add(0, replace(period, speculate=speculate))
        bench.finish()
    assert guessing.sink.tokens(RequestId(0)) == plain.sink.tokens(RequestId(0))
    finish = guessing.sink.pieces[RequestId(0)][-1].finish
    assert finish is not None
    assert len(plain.runner.steps) - len(guessing.runner.steps) == finish.accepted_draft_tokens


def test_a_request_that_is_not_done_in_time_fails_running_or_waiting() -> None:
    bench = Bench(max_running=1)
    for number in range(2):
        bench.add(number, Job(b"slow", max_tokens=1000, timeout=5))
    bench.finish()
    assert [bench.sink.errors[RequestId(number)].reason for number in range(2)] == [Reason.DEADLINE] * 2
    assert bench.now == 6
    assert len(bench.sink.tokens(RequestId(0))) == 5


def test_a_request_that_ends_in_time_is_left_alone_by_its_deadline() -> None:
    bench = Bench()
    bench.add(0, Job(b"fast", max_tokens=2, timeout=5))
    bench.add(1, Job(b"else", max_tokens=20))
    bench.finish()
    assert not bench.sink.errors


def test_prompts_beyond_what_may_wait_are_refused_but_one_always_may() -> None:
    bench = Bench(max_running=1, max_waiting_tokens=10)
    bench.add(0, Job(b"x" * 50))
    bench.step()
    for number, length in ((1, 30), (2, 5), (3, 5)):
        bench.add(number, Job(b"y" * length, max_tokens=1))
    bench.finish()
    assert set(bench.sink.errors) == {2, 3}
    error = bench.sink.errors[RequestId(2)]
    assert error.reason is Reason.QUEUE_FULL
    assert "30" in str(error) and "5" in str(error) and "10" in str(error)


def test_a_failed_step_with_answers_to_come_frees_everything() -> None:
    bench = Bench()
    bench.runner = FakeRunner(fails_on=ord("!"))
    bench.engine = Engine(bench.scheduler, bench.blocks, bench.runner, bench.sink, vocab_size=VOCAB)  # type: ignore[arg-type]
    bench.add(0, Job(b"!x", n=3))
    bench.finish()
    assert bench.sink.errors[RequestId(0)].reason is Reason.INTERNAL
    assert bench.blocks.num_free == bench.blocks.num_blocks


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_n_answers_share_the_blocks_of_their_prompt(max_tokens: int) -> None:
    bench = Bench(num_blocks=7)  # alone, three answers of 8 + 5 tokens would need 12
    request = bench.add(0, Job(b"01234567", n=3, max_tokens=max_tokens))
    bench.finish()
    assert bench.scheduler.batch.num_preemptions == 0
    assert [len(bench.sink.tokens(request, index)) for index in range(3)] == [max_tokens] * 3


def test_bulk_gives_its_place_and_its_blocks_to_an_interactive_request() -> None:
    for limits in ({"max_running": 1}, {"num_blocks": 8}):
        bench = Bench(**limits)
        bulk, urgent = Job(b"bulk" * 4, max_tokens=12, priority=Priority.BULK), Job(b"now!" * 4, max_tokens=3)
        bench.add(0, bulk)
        bench.step()
        bench.add(1, urgent)
        bench.finish()
        order = [request_id for step in bench.runner.steps for request_id, _ in step]
        assert order[1] == 1
        assert bench.sink.tokens(RequestId(0)) == expected_tokens(bulk)
        assert bench.sink.tokens(RequestId(1)) == expected_tokens(urgent)


def test_an_interactive_request_waits_for_another_and_for_bulk_that_would_not_help() -> None:
    bench = Bench(num_blocks=12)
    bench.add(0, Job(b"interactive, and long", max_tokens=8))
    bench.add(1, Job(b"bulk", priority=Priority.BULK))
    bench.step()
    bench.add(2, Job(b"waits, and is long too, so", max_tokens=8))
    bench.step()
    assert [len(step) for step in bench.runner.steps] == [2, 2]
    assert bench.scheduler.batch.num_preemptions == 0


def test_bulk_ends_although_interactive_requests_never_stop_coming() -> None:
    bench = Bench(max_running=2)
    bulk = bench.add(0, Job(b"bulk", max_tokens=20, priority=Priority.BULK))
    for number in range(1, 200):
        bench.add(number, Job(b"quick", max_tokens=4))
        bench.step()
        bench.step()
        if bench.sink.is_finished(bulk):
            break
    assert bench.sink.is_finished(bulk)
    assert len(bench.scheduler.batch.waiting) > 0


def test_a_long_prompt_does_not_stall_running_streams() -> None:
    bench = Bench(max_step_tokens=2048, num_blocks=2048)
    streams = [bench.add(number, Job(bytes([number]), max_tokens=100)) for number in range(4)]
    for _ in range(10):
        bench.step()
    before = [len(bench.sink.tokens(stream)) for stream in streams]
    bench.add(9, Job(b"long" * 300, max_tokens=1))
    bench.step()
    bench.step()
    assert [len(bench.sink.tokens(stream)) for stream in streams] == [count + 2 for count in before]
    assert max(dict(bench.runner.steps[-1]).values()) < 1200
