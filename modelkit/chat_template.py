"""Turns a conversation into the token ids a chat model was trained on; text can never become a control token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelkit.tokenizer import Tokenizer


class TemplateError(ValueError):
    """A chat template is broken, or it refuses these messages; the message carries the template's own words."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. role: system, user or assistant."""

    role: str
    content: str


class ChatTemplate(Protocol):
    """Spells a conversation as ids, up to where the assistant begins to speak."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of all turns and the generation prompt. Raises TemplateError when the template refuses them."""
        ...


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of a checkpoint folder, or None for a base model without one. Raises TemplateError if broken."""
    raise NotImplementedError


def drop_oldest_rounds(messages: Sequence[Message], template: ChatTemplate, limit: int) -> list[Message]:
    """Drop whole rounds, oldest first, until the conversation takes at most `limit` tokens.

    A round is a user turn and everything up to the next user turn. System turns and the last round always stay, so
    the result may still be too long: the caller decides what then.
    """
    raise NotImplementedError
