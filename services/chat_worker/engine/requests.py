"""Keeps the requests in hand, their answers, and when they must be complete; reads no clock."""

import heapq
from collections.abc import Iterator
from collections.abc import Sequence as Rows

from services.chat_worker.engine.generation import Generation
from services.chat_worker.engine.sequence import RequestId, Sequence


class Requests:
    """The requests that have not ended, by id, and their answers that have not ended, by sequence."""

    def __init__(self) -> None:
        self._answers: dict[RequestId, list[Generation]] = {}
        self.generations: dict[Sequence, Generation] = {}
        self._deadlines: list[tuple[float, RequestId, float]] = []  # a heap of (when, whose, after how long)

    def __iter__(self) -> Iterator[RequestId]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._answers

    def add(self, answers: Rows[Generation], timeout_s: float | None) -> None:
        """Take in a request that must be complete timeout_s seconds after its arrival, if any."""
        request_id = answers[0].sequence.request_id
        self._answers[request_id] = list(answers)
        self.generations.update((generation.sequence, generation) for generation in answers)
        if timeout_s is not None:
            heapq.heappush(self._deadlines, (answers[0].arrived_s + timeout_s, request_id, timeout_s))

    def remove(self, request_id: RequestId) -> list[Sequence]:
        """Take out a request; returns those of its answers that had not ended, none if the id is unknown."""
        sequences = [generation.sequence for generation in self._answers.pop(request_id, ())]
        for sequence in sequences:
            del self.generations[sequence]
        return sequences

    def end(self, sequence: Sequence) -> None:
        """Take out one answer, and its request if it was the last."""
        answers = self._answers[sequence.request_id]
        answers.remove(self.generations.pop(sequence))
        if not answers:
            del self._answers[sequence.request_id]

    def expired(self, now_s: float) -> Iterator[tuple[RequestId, float]]:
        """Requests whose time is over, each once, with the seconds they had. O(log requests) each."""
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, request_id, timeout_s = heapq.heappop(self._deadlines)
            if request_id in self._answers:
                yield request_id, timeout_s
