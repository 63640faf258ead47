"""Makes prompts of an exact length that no cache has seen; does not know what is done with them."""

import random

from tokenizers import Tokenizer

from mesh.cache import demo_checkpoint

# Plain words: their pieces are common, and shuffled they repeat nothing an engine could look up.
_WORDS = (
    "the of in to and a was by that with for on as from this is are were be which at it an or have has had not but "
    "steam engine pressure water mine decade design machine power factory ship railway history inventor people time "
    "river mountain city music letter garden winter summer bread stone paper light number story window bridge road "
    "morning evening teacher student doctor market village harbour island forest weather colour silver copper iron"
)


class Prompts:
    """An endless source of different prompts for the demo model; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  (texts, not secrets)
        self._words = _WORDS.split()
        self._tokenizer = Tokenizer.from_file(str(demo_checkpoint() / "tokenizer.json"))

    def take(self, num_tokens: int) -> list[int]:
        """Token ids of one prompt."""
        text = self.take_text(num_tokens)  # a word is one token or more
        return self._tokenizer.encode(text, add_special_tokens=False).ids[:num_tokens]

    def take_text(self, num_words: int) -> str:
        """A text of so many words, for models with a tokenizer of their own."""
        return " ".join(self._random.choices(self._words, k=num_words))

    def take_many(self, count: int, num_tokens: int) -> list[list[int]]:
        """Token ids of several prompts of one length."""
        return [self.take(num_tokens) for _ in range(count)]
