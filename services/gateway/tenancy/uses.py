"""States what is kept of the use of keys, and how a store fails; knows no database."""

from dataclasses import dataclass
from datetime import date


class StoreFailure(Exception):
    """The database did not do what was asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One line of the usage table: a key, a day (UTC) and a model."""

    key_id: str
    day: date
    model: str


@dataclass(frozen=True, slots=True)
class Use:
    """What was used."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Use") -> "Use":
        return Use(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    @property
    def tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.completion_tokens


def first_of_month(day: date) -> date:
    """When that day's monthly quota began."""
    return day.replace(day=1)
