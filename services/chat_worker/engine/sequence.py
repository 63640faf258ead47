"""Holds the state of one answer inside the engine; knows no tensors, no clocks and no text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from typing import Final, NewType

MAX_TOP_LOGPROBS: Final = 20  # alternatives that are reported beside a token at most

RequestId = NewType("RequestId", int)


class Status(Enum):
    """Where a sequence is."""

    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Priority(IntEnum):
    """A class of requests; the lower number goes first."""

    INTERACTIVE = 0
    BULK = 1


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy, top_k 0 keeps all, seed keys all randomness.

    top_logprobs, prompt_logprobs: how many alternatives to report beside the own log-probability of each token of the
    answer, of the prompt; None reports nothing. allowed_token_ids: all, if there are none. Until the answer holds
    min_tokens tokens none of end_token_ids is chosen. The rest is as in the contract's SamplingParams.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    bad_token_ids: frozenset[int] = frozenset()
    allowed_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    end_token_ids: frozenset[int] = frozenset()

    @property
    def changes_logits(self) -> bool:
        """Whether the model's own logits are not the ones in force, wherever in the answer."""
        penalties = self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty
        return bool(penalties or self.logit_bias or self.bad_token_ids or self.allowed_token_ids)

    def filters(self, vocab_size: int) -> bool:
        """Whether a random choice is not made among all tokens."""
        return self.top_p < 1 or 0 < self.top_k < vocab_size or self.min_p > 0


@dataclass(frozen=True, slots=True)
class Stop:
    """When to stop. token_ids and texts end the answer and are not part of it; max_tokens counts new tokens."""

    max_tokens: int
    token_ids: frozenset[int]
    texts: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer inside the engine, with its prompt. All lengths are in tokens.

    A request for n answers is n sequences of one request_id. forks: those of them that share this one's prompt and
    branch off once it is computed; until then only this one is scheduled.
    """

    request_id: RequestId
    token_ids: list[int]
    prompt_len: int
    sampling: Sampling
    stop: Stop
    index: int = 0  # which of the request's answers
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    forks: list["Sequence"] = field(default_factory=list["Sequence"])
    num_computed: int = 0  # tokens whose keys and values are in the cache
    num_cached: int | None = None  # of them, those that were there when it first began to run
    num_scored: int = 0  # prompt tokens after the first whose log-probability is known
    draft: tuple[int, ...] = ()  # guessed tokens that the next step may check
    block_ids: list[int] = field(default_factory=list[int])  # physical blocks, in order
    chain: list[int] = field(default_factory=list[int])  # links of the prefix index, one per full computed block
    status: Status = Status.NEW

    @property
    def num_pending(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed

    @property
    def completion_len(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.prompt_len

    @property
    def is_scoring(self) -> bool:
        """Whether log-probabilities of prompt tokens are asked for and not all known."""
        return self.sampling.prompt_logprobs is not None and self.num_scored < self.prompt_len - 1


def answer_seed(seed: int, index: int) -> int:
    """The seed of answer index of a request: that of a single request which would give the same answer."""
    return (seed + index) % 2**64
