"""Decides who runs: lets waiting sequences in and takes room back; does not know how much a step computes."""

from collections.abc import Mapping
from collections.abc import Sequence as Rows

from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.sequence import Priority, Sequence, Status
from services.chat_worker.engine.waiting import WaitingQueue


class Batch:
    """The sequences that run together, and those that wait to, in the order of WaitingQueue.

    When blocks run out, the newest running sequence of the lowest class gives its blocks up and is computed again
    later, perhaps from the prefix cache; bulk sequences also do so when an interactive one waits for a block or a
    place. The oldest of the highest class is never asked, so there is no deadlock as long as the pool holds one whole
    window.
    """

    def __init__(self, blocks: BlockPool, *, max_running: int) -> None:
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []  # in the order they were let in
        self.num_preemptions = 0
        self._blocks = blocks
        self._max_running = max_running

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is finished or no longer wanted; its blocks are free at once."""
        if sequence.status is Status.RUNNING:
            self.running.remove(sequence)
        elif sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
        self._blocks.free(sequence)
        sequence.status = Status.FINISHED

    @property
    def has_interactive_prompt(self) -> bool:
        """Whether the next step could compute some of an interactive prompt."""
        if any(each.num_pending > 1 and each.priority is Priority.INTERACTIVE for each in self.running):
            return True
        head = self.waiting.head()
        if head is None or head.priority is Priority.BULK or not self._has_place(head):
            return False
        return self._has_room(head) or self._bulk_holds_enough(head)

    @property
    def num_reading(self) -> int:
        """Interactive sequences whose prompts are to be read: those that run, and those that have a place."""
        running = sum(each.num_pending > 1 and each.priority is Priority.INTERACTIVE for each in self.running)
        return running + min(self.waiting.num_interactive, self._max_running - len(self.running))

    def let_in(self, *, bulk: bool = True) -> Sequence | None:
        """Let the sequence in that is next, if there is room, and give it room for all it has to compute.

        bulk: whether it may be a bulk one that does not have its turn.
        """
        sequence = self.waiting.head()
        if sequence is None or not self._has_place(sequence):
            return None
        if sequence.priority is Priority.BULK and not (bulk or self.waiting.bulk_has_turn):
            return None
        self._blocks.attach(sequence)
        if not self._has_room(sequence) and not self._bulk_gives_way(sequence):
            self._blocks.free(sequence)
            return None
        self.waiting.let_in(sequence)
        if sequence.num_cached is None:
            self._blocks.count_attached(sequence)
            self.waiting.charge(sequence, sequence.num_pending)
        self._blocks.allocate(sequence, len(sequence.token_ids))
        self._run(sequence)
        return sequence

    def make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """See that the sequence's next tokens fit, preempting others; False if it had to give way itself."""
        while not self._blocks.can_allocate(sequence, sequence.num_computed + num_tokens):
            newest = max(reversed(self.running), key=lambda other: other.priority)
            self._preempt(newest)
            if newest is sequence:
                return False
        return True

    def branch(self, parent: Sequence, sampled: Mapping[Sequence, Rows[int]]) -> None:
        """Let the forks of a sequence whose prompt has just been computed go on by themselves."""
        num_found = self._blocks.num_found(parent)
        for child in parent.forks:
            child.token_ids += sampled[child]
            child.num_cached = 0
            if len(self.running) < self._max_running:
                self._blocks.fork(parent, child)
                self._run(child)
            else:
                child.status = Status.WAITING
                self.waiting.put_back(child, len(child.token_ids) - num_found)
        parent.forks.clear()

    def check_integrity(self) -> None:
        """Assert the invariants of the queues and of the block pool."""
        assert all(sequence.status is Status.WAITING and not sequence.block_ids for sequence in self.waiting)
        assert all(sequence.status is Status.RUNNING for sequence in self.running)
        assert len(self.running) <= self._max_running
        assert len(self.waiting) <= self.waiting.num_tokens <= sum(len(sequence.token_ids) for sequence in self.waiting)
        self._blocks.check_integrity(self.running)

    def _has_place(self, sequence: Sequence) -> bool:
        """Whether a place is free or may be taken from a bulk sequence: cheaper to find out than room."""
        may_take = sequence.priority is Priority.INTERACTIVE
        return len(self.running) < self._max_running or (
            may_take and any(other.priority is Priority.BULK for other in self.running)
        )

    def _has_room(self, sequence: Sequence) -> bool:
        # room for all of it and one more, or it would be preempted before its first token
        has_blocks = self._blocks.can_allocate(sequence, len(sequence.token_ids) + 1)
        return has_blocks and len(self.running) < self._max_running

    def _bulk_gives_way(self, sequence: Sequence) -> bool:
        """Make room for an interactive sequence at the cost of bulk ones, if they hold enough."""
        if sequence.priority is Priority.BULK or not self._bulk_holds_enough(sequence):
            return False
        bulk = self._running_bulk()
        while bulk and not self._has_room(sequence):
            self._preempt(bulk.pop())
        return self._has_room(sequence)

    def _bulk_holds_enough(self, sequence: Sequence) -> bool:
        bulk = self._running_bulk()
        return bool(bulk) and self._blocks.can_allocate(sequence, len(sequence.token_ids) + 1, without=bulk)

    def _running_bulk(self) -> list[Sequence]:
        return [sequence for sequence in self.running if sequence.priority is Priority.BULK]

    def _run(self, sequence: Sequence) -> None:
        sequence.status = Status.RUNNING
        self.running.append(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's place and blocks, and with them its part in a step that is being planned."""
        self.running.remove(sequence)
        self._blocks.free(sequence)
        sequence.status, sequence.draft = Status.WAITING, ()
        self.waiting.put_back(sequence, len(sequence.token_ids) - self._blocks.num_found(sequence))
        self.num_preemptions += 1
