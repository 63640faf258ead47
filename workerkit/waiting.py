"""Decides which items are computed together: a budget of tokens, requests in turns; knows no threads and no clock."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

_TURNS: Final = 8  # in a full batch: so many requests at least share one, if so many wait


@dataclass(slots=True, eq=False)
class Job:
    """One request: what each of its items costs in tokens, and how many of them went into batches."""

    costs: Sequence[int]
    num_taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        assert self.costs, "a job has items"

    @property
    def num_waiting(self) -> int:
        """How many items still wait."""
        return len(self.costs) - self.num_taken

    @property
    def is_taken(self) -> bool:
        """Whether no item waits any more."""
        return self.num_waiting == 0

    @property
    def waiting_tokens(self) -> int:
        """What the items that still wait cost."""
        return sum(self.costs[self.num_taken :])


SomeJob = TypeVar("SomeJob", bound=Job)


class Waiting(Generic[SomeJob]):
    """Jobs that wait, first come, first served, but a long one gives way to the next after each turn.

    So a text that is searched for waits for one batch and not for the whole library that somebody else embeds. Nothing
    is passed over: the item whose turn it is begins the next batch if it does not fit into this one.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._turn_tokens = max(1, max_batch_tokens // _TURNS)
        self._jobs: deque[SomeJob] = deque()
        self.num_tokens = 0  # of all items that wait
        self.num_items = 0

    def __iter__(self) -> Iterator[SomeJob]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: SomeJob) -> None:
        """Queue a job behind the others."""
        self._jobs.append(job)
        self.num_tokens += job.waiting_tokens
        self.num_items += job.num_waiting

    def remove(self, job: SomeJob) -> None:
        """Forget what is left of a job; one that does not wait is ignored."""
        if job in self._jobs:
            self._jobs.remove(job)
            self.num_tokens -= job.waiting_tokens
            self.num_items -= job.num_waiting

    def take(self) -> list[tuple[SomeJob, int]]:
        """The next batch, as jobs and indices of their items; empty if nothing waits.

        Its cost is at most the budget; an item that costs more than that goes alone.
        """
        batch: list[tuple[SomeJob, int]] = []
        room = self._max_batch_tokens
        while self._jobs:
            job = self._jobs[0]
            turn = self._turn_tokens
            while not job.is_taken and turn > 0:
                cost = job.costs[job.num_taken]
                if cost > room and batch:
                    return batch
                batch.append((job, job.num_taken))
                job.num_taken += 1
                self.num_tokens -= cost
                self.num_items -= 1
                room, turn = room - cost, turn - cost
            self._jobs.popleft() if job.is_taken else self._jobs.rotate(-1)
        return batch
