"""Keeps the turns of one terminal chat, a question only with its answer; knows no terminal and no network."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said."""

    role: Role
    content: str


@dataclass(slots=True)
class Conversation:
    """The system text and the finished rounds."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list[Turn])

    def prompt(self, question: str) -> list[Turn]:
        """Everything the model has to see to answer a question."""
        system = [Turn("system", self.system)] if self.system else []
        return [*system, *self.turns, Turn("user", question)]

    def add_round(self, question: str, answer: str) -> None:
        """Remember a question with its answer, or with as much of it as there was."""
        self.turns += [Turn("user", question), Turn("assistant", answer)]

    def clear(self) -> None:
        """Forget the rounds; the system text stays."""
        self.turns.clear()
