"""Says what a request is between tokenising and its answer; decides nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """What one forward pass reads of one input."""

    @property
    def token_ids(self) -> Sequence[int]:
        """All tokens that are computed."""
        ...

    @property
    def truncated_tokens(self) -> int:
        """How many were dropped to fit."""
        ...


SomeItem = TypeVar("SomeItem", bound=Item)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Prepared(Generic[SomeItem, Result]):
    """A request that was checked and tokenised. encode: serialises its response from one result per item."""

    items: Sequence[SomeItem]
    encode: Callable[[Sequence[Result]], bytes]

    @property
    def num_tokens(self) -> int:
        """Of all items together."""
        return sum(len(item.token_ids) for item in self.items)

    @property
    def num_truncated(self) -> int:
        """How many items lost tokens."""
        return sum(item.truncated_tokens > 0 for item in self.items)
