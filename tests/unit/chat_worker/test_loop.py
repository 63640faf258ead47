"""The engine loop with a runner that computes no model: every sequence gets its pieces and exactly one end."""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshkit.errors import Reason
from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Generation
from services.chat_worker.engine.loop import EngineLoop
from services.chat_worker.engine.scheduler import Scheduler
from services.chat_worker.engine.sequence import FinishReason, RequestId, Sampling, Sequence, Stop
from tests.fakes.engine import VOCAB, ByteTokenizer, FakeRunner, RecordingSink, next_token

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, seed=0)


class Harness:
    """An engine whose thread runs, with its sink in reach."""

    def __init__(self, *, num_blocks: int = 64, max_step_tokens: int = 16, fails_on: int | None = None) -> None:
        blocks = BlockPool(num_blocks, 4)
        self.sink = RecordingSink()
        self.runner = FakeRunner(fails_on=fails_on)
        scheduler = Scheduler(blocks, max_step_tokens=max_step_tokens, max_running=8, max_waiting_tokens=9999)
        engine = Engine(scheduler, blocks, self.runner, self.sink, vocab_size=VOCAB)  # type: ignore[arg-type]
        self.loop = EngineLoop(engine)

    def submit(
        self,
        number: int,
        prompt: bytes,
        *,
        n: int = 1,
        sampling: Sampling = GREEDY,
        stop: Stop = Stop(10, frozenset()),  # noqa: B008 (frozen)
    ) -> RequestId:
        answers: list[Generation] = []
        for index in range(n):
            seeded = replace(sampling, seed=sampling.seed + index)
            sequence = Sequence(RequestId(number), list(prompt), len(prompt), seeded, stop, index)
            answers.append(Generation(sequence, Detokenizer(ByteTokenizer(), stop.texts)))
        answers[0].sequence.forks += [answer.sequence for answer in answers[1:]]
        self.loop.submit(answers)
        return RequestId(number)

    def settle(self) -> None:
        """Wait until everything that was submitted before has ended."""
        idle = threading.Event()

        def ask() -> None:
            if self.sink.loads and self.sink.loads[-1].num_running + self.sink.loads[-1].num_waiting == 0:
                idle.set()
            else:
                self.loop.ping(ask)

        self.loop.ping(lambda: self.loop.ping(ask))
        assert idle.wait(5), "the engine did not come to rest"


@pytest.fixture
def engine() -> Iterator[Harness]:
    engine = Harness()
    engine.loop.start()
    yield engine
    engine.loop.close()


def expected_tokens(prompt: bytes, count: int) -> list[int]:
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(next_token(token_ids))
    return token_ids[len(prompt) :]


def test_an_answer_is_streamed_token_by_token_and_ends_by_length(engine: Harness) -> None:
    answer = engine.submit(1, b"hello", stop=Stop(6, frozenset()))
    engine.settle()
    assert engine.sink.tokens(answer) == expected_tokens(b"hello", 6)
    assert len(engine.sink.pieces[answer]) == 6
    finish = engine.sink.pieces[answer][-1].finish
    assert finish is not None
    assert (finish.reason, finish.prompt_tokens, finish.completion_tokens) == (FinishReason.LENGTH, 5, 6)
    assert min(finish.queue_s, finish.prefill_s, finish.decode_s) >= 0


def test_an_end_token_stops_and_is_no_part_of_the_answer(engine: Harness) -> None:
    tokens = expected_tokens(b"ab", 3)
    answer = engine.submit(1, b"ab", stop=Stop(10, frozenset({tokens[2]})))
    engine.settle()
    assert engine.sink.tokens(answer) == tokens[:2]
    finish = engine.sink.pieces[answer][-1].finish
    assert finish is not None
    assert (finish.reason, finish.completion_tokens) == (FinishReason.STOP, 3)


def test_a_stop_text_ends_the_answer_before_it(engine: Harness) -> None:
    text = bytes(expected_tokens(b"tell", 4)).decode()
    answer = engine.submit(1, b"tell", stop=Stop(10, frozenset(), (text[2:4],)))
    engine.settle()
    assert "".join(piece.text for piece in engine.sink.pieces[answer]) == text[:2]
    finish = engine.sink.pieces[answer][-1].finish
    assert finish is not None
    assert finish.reason is FinishReason.STOP


def test_answers_do_not_depend_on_their_neighbours_even_when_blocks_run_out() -> None:
    engine = Harness(num_blocks=12, max_step_tokens=7)  # one window of 45 tokens, far too little for all
    prompts = [bytes(random.Random(n).randbytes(n % 19 + 1)) for n in range(20)]
    for number, prompt in enumerate(prompts):
        engine.submit(number, prompt, stop=Stop(number % 13 + 1, frozenset()))
    engine.loop.start()
    engine.settle()
    for number, prompt in enumerate(prompts):
        assert engine.sink.tokens(RequestId(number)) == expected_tokens(prompt, number % 13 + 1)
    assert engine.sink.loads[-1].num_preemptions > 0
    assert engine.sink.loads[-1].kv_usage_ratio == 0
    engine.loop.close()


def test_an_aborted_sequence_falls_silent_and_frees_its_blocks() -> None:
    engine = Harness()
    answer = engine.submit(1, b"long", stop=Stop(100, frozenset()))
    engine.loop.abort(answer)
    engine.loop.start()
    engine.settle()
    assert engine.sink.pieces[answer] == []
    assert engine.sink.loads[-1].kv_usage_ratio == 0
    engine.loop.close()


def test_a_step_that_fails_answers_every_sequence_in_it_and_the_engine_lives_on() -> None:
    engine = Harness(fails_on=ord("!"))
    bad, neighbour = engine.submit(1, b"!boom"), engine.submit(2, b"fine")
    engine.loop.start()
    engine.settle()
    assert {engine.sink.errors[request].reason for request in (bad, neighbour)} == {Reason.INTERNAL}
    later = engine.submit(3, b"later", stop=Stop(2, frozenset()))
    engine.settle()
    assert engine.sink.tokens(later) == expected_tokens(b"later", 2)
    engine.loop.close()


def test_closing_fails_what_is_unfinished() -> None:
    engine = Harness()
    answer = engine.submit(1, b"x", stop=Stop(100, frozenset()))
    closing, told = threading.Thread(target=engine.loop.close), threading.Event()

    def tell() -> None:  # on the engine's own thread, so that it cannot finish the answer first
        closing.start()
        told.set()

    engine.loop.ping(tell)
    engine.loop.start()
    assert told.wait(5)
    closing.join(5)
    assert engine.sink.errors[answer].reason is Reason.NOT_READY
    assert not engine.loop.is_running


def test_an_engine_that_broke_fails_what_runs_and_what_comes_late() -> None:
    engine = Harness()
    running = engine.submit(1, b"busy", stop=Stop(100, frozenset()))

    def break_loop() -> None:
        raise RuntimeError("broken")

    engine.loop.ping(break_loop)
    engine.loop.start()
    broken, refused = threading.Event(), threading.Event()
    engine.loop.ping(broken.set)
    assert broken.wait(5)
    assert not engine.loop.is_running
    late = engine.submit(2, b"late")
    engine.loop.ping(refused.set)
    assert refused.wait(5)
    errors = [engine.sink.errors[request] for request in (running, late)]
    assert [(error.reason, "broke" in error.message) for error in errors] == [(Reason.NOT_READY, True)] * 2
    engine.loop.close()


def test_a_ping_is_answered_while_sequences_run(engine: Harness) -> None:
    engine.submit(1, b"busy", stop=Stop(200, frozenset()))
    answered = threading.Event()
    engine.loop.ping(answered.set)
    assert answered.wait(5)


@pytest.mark.parametrize("num_blocks", [12, 64])
@pytest.mark.parametrize("prompt", [b"a", b"four", b"seven__"])
def test_answer_i_of_n_is_the_answer_of_seed_plus_i(prompt: bytes, num_blocks: int) -> None:
    warm = Sampling(temperature=2, top_p=1, top_k=0, seed=5)
    engine = Harness(num_blocks=num_blocks)
    together = engine.submit(0, prompt, n=11, sampling=warm)  # more answers than places
    singles = [engine.submit(1 + i, prompt, sampling=replace(warm, seed=5 + i)) for i in range(11)]
    engine.loop.start()
    engine.settle()
    answers = [engine.sink.tokens(together, index) for index in range(11)]
    assert answers == [engine.sink.tokens(single) for single in singles]
    assert len({tuple(answer) for answer in answers}) > 5
    assert [piece.last for piece in engine.sink.pieces[together]].count(True) == 1
    assert engine.sink.loads[-1].kv_usage_ratio == 0
    engine.loop.close()


def test_the_prompt_of_n_answers_is_computed_once(engine: Harness) -> None:
    engine.submit(0, b"0123456789", n=3, stop=Stop(2, frozenset()))
    engine.settle()
    assert [sum(tokens for _, tokens in step) for step in engine.runner.steps] == [10, 3]


def test_prompt_tokens_are_scored_once_whatever_the_chunks() -> None:
    engine = Harness(max_step_tokens=3)
    answer = engine.submit(0, b"score me!", sampling=replace(GREEDY, prompt_logprobs=1))
    engine.loop.start()
    engine.settle()
    scores = engine.sink.pieces[answer][0].prompt_scores
    assert [score.token_id for score in scores] == [*b"score me!"]
    assert scores[0].score is None
    assert [score.top[0].token_id for score in scores[1:]] == [
        next_token(list(b"score me!"[:length])) for length in range(1, 9)
    ]
    assert not any(piece.prompt_scores for piece in engine.sink.pieces[answer][1:])
    engine.loop.close()
