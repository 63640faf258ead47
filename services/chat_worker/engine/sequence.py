"""Holds the state of one request inside the engine; knows no tensors, no clocks and no text."""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import NewType

SequenceId = NewType("SequenceId", int)


class Status(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy, top_k 0 keeps all, seed keys all randomness.

    top_logprobs: how many alternatives to report beside the chosen token's own log-probability; None reports nothing.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """When to stop. token_ids and texts end the answer and are not part of it; max_tokens counts new tokens."""

    max_tokens: int
    token_ids: frozenset[int]
    texts: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside the engine. All lengths are in tokens."""

    id: SequenceId
    token_ids: list[int]
    prompt_len: int
    sampling: Sampling
    stop: Stop
    num_computed: int = 0  # tokens whose keys and values are in the cache
    block_ids: list[int] = field(default_factory=list[int])  # physical blocks, in order
    status: Status = Status.WAITING

    @property
    def num_pending(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed

    @property
    def completion_len(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.prompt_len
