"""Decides how long a text may be before anybody makes tokens of it; knows no tokenizer and no limit in tokens."""

from typing import Final

from meshkit.errors import MeshError, Reason

# Of one text of a search: a book of 60,000 words. While it becomes tokens each of its characters may take 400 bytes.
MOST_CHARACTERS: Final = 262_144


def check_text(text: str, param: str, most: int = MOST_CHARACTERS) -> None:
    """Raise MeshError PROMPT_TOO_LONG if a text has more characters than may become tokens, whatever is cut then."""
    if len(text) > most:
        message = f"{param} is {len(text)} characters, the limit is {most}"
        raise MeshError(Reason.PROMPT_TOO_LONG, message, param=param)
