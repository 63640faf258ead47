"""An engine that is stepped by hand, and the requests that tests give it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Generation
from services.chat_worker.engine.runner import ModelRunner
from services.chat_worker.engine.scheduler import Scheduler
from services.chat_worker.engine.sequence import Priority, RequestId, Sampling, Sequence, Stop, answer_seed
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
    sampling: Sampling = GREEDY


class SteppedEngine:
    """An engine on no thread, with a clock that counts the steps; each takes 1 ms, however much it computes."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_len: int = 4,
        max_step_tokens: int = 64,
        max_running: int = 8,
        max_waiting_tokens: int = 9999,
        prefix_cache: bool = True,
        runner: FakeRunner | ModelRunner | None = None,
    ) -> None:
        self.now = 0
        self._num_readings = 0  # of the clock, in this step
        self.sink = RecordingSink()
        self.blocks = BlockPool(num_blocks, block_len, prefix_cache=prefix_cache)
        self.scheduler = Scheduler(
            self.blocks,
            max_step_tokens=max_step_tokens,
            max_running=max_running,
            max_waiting_tokens=max_waiting_tokens,
        )
        self.runner = FakeRunner() if runner is None else runner
        self.engine = Engine(
            self.scheduler,
            self.blocks,
            self.runner,  # type: ignore[arg-type]
            self.sink,
            vocab_size=VOCAB,
            clock=self._clock,
        )

    def add(self, number: int, job: Job) -> RequestId:
        """Hand a job to the engine."""
        request_id = RequestId(number)
        answers: list[Generation] = []
        for index in range(job.n):
            scored = job.sampling.prompt_logprobs if index == 0 else None
            sampling = replace(job.sampling, seed=answer_seed(job.sampling.seed, index), prompt_logprobs=scored)
            sequence = Sequence(
                *(request_id, list(job.prompt), len(job.prompt), sampling, Stop(job.max_tokens, NO_END)),
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
        self._num_readings = 0

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

    def _clock(self) -> float:
        self._num_readings += 1
        return self.now + 0.001 * self._num_readings


def expected_tokens(job: Job) -> list[int]:
    """What FakeRunner answers a job alone."""
    token_ids = list(job.prompt)
    for _ in range(job.max_tokens):
        token_ids.append(next_token(token_ids))
    return token_ids[len(job.prompt) :]
