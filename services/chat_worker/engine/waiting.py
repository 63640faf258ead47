"""Decides who is next among the sequences that wait; knows nothing of the room there is."""

import heapq
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Iterator

from services.chat_worker.engine.sequence import Priority, RequestId, Sequence

BULK_TURN = 16  # interactive sequences that may pass a bulk one before it has its turn
_FEW_ACCOUNTS = 64  # not worth forgetting


class WaitingQueue:
    """Interactive sequences before bulk ones; within a class the tenant who was served least; then requests by turns.

    A request with one answer has its turn in the order of arrival; one with many has a turn for each of them, so that
    it keeps no other waiting for them all.
    So that bulk work does not starve, every BULK_TURN interactive sequences that are let in while bulk ones wait are
    followed by one of those, which from then on counts as interactive.
    """

    def __init__(self) -> None:
        self._classes = {priority: _FairQueue() for priority in Priority}
        self._num_passed = 0
        self.num_tokens = 0  # to be computed for those who wait

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._classes.values())

    def __iter__(self) -> Iterator[Sequence]:
        return itertools.chain.from_iterable(self._classes.values())

    @property
    def num_interactive(self) -> int:
        """How many interactive sequences wait."""
        return len(self._classes[Priority.INTERACTIVE])

    def add(self, sequence: Sequence) -> None:
        """Queue a new request's first sequence behind the others of its tenant. O(log tenants)."""
        self._classes[sequence.priority].add(sequence, len(sequence.token_ids), first=False)
        self.num_tokens += len(sequence.token_ids)

    def put_back(self, sequence: Sequence, num_tokens: int) -> None:
        """Queue a sequence that has begun before the others of its tenant, an answer but the first before its request's
        others only. num_tokens: to be computed for it again.
        """
        self._classes[sequence.priority].add(sequence, num_tokens, first=True)
        self.num_tokens += num_tokens

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out that will not be let in. O(1)."""
        self.num_tokens -= self._classes[sequence.priority].remove(sequence)

    def head(self) -> Sequence | None:
        """Who is next. O(log tenants), amortised."""
        interactive, bulk = (self._classes[priority].head() for priority in Priority)
        return bulk if bulk is not None and (interactive is None or self.bulk_has_turn) else interactive

    @property
    def bulk_has_turn(self) -> bool:
        """Whether enough interactive sequences have passed the bulk ones that wait."""
        return self._num_passed >= BULK_TURN

    def let_in(self, sequence: Sequence) -> None:
        """Take out a sequence that was the head: it has its turn. O(1)."""
        self.remove(sequence)
        if sequence.priority is Priority.BULK:
            if self.bulk_has_turn:
                sequence.priority = Priority.INTERACTIVE
            self._num_passed = 0
        elif len(self._classes[Priority.BULK]):
            self._num_passed += 1

    def charge(self, sequence: Sequence, num_tokens: int) -> None:
        """Put tokens on the account of the sequence's tenant."""
        self._classes[sequence.priority].charge(sequence.tenant, num_tokens)


class _FairQueue:
    """Lines of several tenants; the head is the first of the tenant who was served least.

    Accounts begin anew when nobody waits: who had the machine for himself took nothing from others. A tenant who comes
    to wait begins at the least account of those who do, so that a pause earns no claim (start-time fair queueing; Goyal
    et al., 1996), and a token behind the one who came before, so that ever new tenants do not starve who comes twice.
    Entries of the heap are corrected when they come up, since accounts only grow.
    """

    def __init__(self) -> None:
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)
        self._length = 0
        self._served: defaultdict[str, int] = defaultdict(int)  # tokens, by tenant
        self._level = 0  # where the next newcomer begins
        self._most_accounts = _FEW_ACCOUNTS
        self._heap: list[tuple[int, int, str]] = []  # (served, ticket, tenant)
        self._in_heap: set[str] = set()
        self._tickets = itertools.count()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        return itertools.chain.from_iterable(self._lines.values())

    def add(self, sequence: Sequence, num_tokens: int, *, first: bool) -> None:
        tenant = sequence.tenant
        if tenant not in self._lines:
            self._begin(tenant)
        self._lines[tenant].add(sequence, num_tokens, first=first)
        self._length += 1
        if tenant not in self._in_heap:
            self._in_heap.add(tenant)
            heapq.heappush(self._heap, (self._served[tenant], next(self._tickets), tenant))

    def remove(self, sequence: Sequence) -> int:
        """Take a sequence out; returns the tokens to be computed for it."""
        line = self._lines[sequence.tenant]
        num_tokens = line.remove(sequence)
        self._length -= 1
        if line.is_empty:
            del self._lines[sequence.tenant]
        return num_tokens

    def head(self) -> Sequence | None:
        while self._heap:
            served, ticket, tenant = self._heap[0]
            if tenant not in self._lines:
                heapq.heappop(self._heap)
                self._in_heap.remove(tenant)
            elif served < self._served[tenant]:
                heapq.heapreplace(self._heap, (self._served[tenant], ticket, tenant))
            else:
                self._level = max(self._level, served)
                return self._lines[tenant].head
        return None

    def charge(self, tenant: str, num_tokens: int) -> None:
        self._served[tenant] += num_tokens

    def _begin(self, tenant: str) -> None:
        """Open, or raise, the account of a tenant who did not wait. O(log tenants), amortised."""
        if self.head() is None:
            self._served.clear()
            self._level = 0
        self._served[tenant] = max(self._served[tenant], self._level)
        self._level += 1
        if len(self._served) > self._most_accounts:  # who comes back would begin above these anyway
            kept = {t: n for t, n in self._served.items() if n >= self._level or t == tenant or t in self._lines}
            self._served = defaultdict(int, kept)
            self._most_accounts = 2 * len(kept) + _FEW_ACCOUNTS


class _Line:
    """The sequences of one tenant: its requests take turns, an answer each."""

    def __init__(self) -> None:
        self._requests: OrderedDict[RequestId, OrderedDict[Sequence, int]] = OrderedDict()

    def __iter__(self) -> Iterator[Sequence]:
        return itertools.chain.from_iterable(self._requests.values())

    @property
    def is_empty(self) -> bool:
        return not self._requests

    @property
    def head(self) -> Sequence:
        return next(iter(self))

    def add(self, sequence: Sequence, num_tokens: int, *, first: bool) -> None:
        answers = self._requests.setdefault(sequence.request_id, OrderedDict())
        answers[sequence] = num_tokens
        if first:
            answers.move_to_end(sequence, last=False)
            if sequence.index == 0:
                self._requests.move_to_end(sequence.request_id, last=False)

    def remove(self, sequence: Sequence) -> int:
        """Take a sequence out, with which its request has had its turn; returns the tokens to be computed for it."""
        answers = self._requests.pop(sequence.request_id)
        num_tokens = answers.pop(sequence)
        if answers:
            self._requests[sequence.request_id] = answers
        return num_tokens
