"""Learns what a step costs and says how much of a prompt running streams can bear; is fed times, and reads no clock."""

from services.chat_worker.engine.scheduler import Plan

_MEMORY = 0.2  # weight of the newest observation
_STRETCH = 1.5  # seconds of prompt beside each second of decoding
_SMALLEST = 16  # tokens of a prompt that every step may compute: below that, a prompt pays mostly for overhead


class Pace:
    """Running estimates of a step's seconds.

    A step beside a prompt takes 1 + _STRETCH times what decoding alone takes, so the gaps in running streams stay
    within 3 times; and the prompt, which has _STRETCH / (1 + _STRETCH) of the time, takes less than twice as long as
    alone. O(running) a step.
    """

    def __init__(self, max_step_tokens: int) -> None:
        self._max_step_tokens = max_step_tokens
        self._decode_s: dict[int, float] = {}  # of a step that only decodes, by the bit length of its sequences' number
        self._prompt_token_s: float | None = None  # what one more token of a prompt adds
        self._draft_token_s: float | None = None  # what one more guessed token adds

    def observe(self, plan: Plan, seconds: float) -> None:
        """Learn from a step."""
        num_prompt = sum(chunk.num_tokens for chunk in plan.chunks if chunk.num_tokens > 1)
        num_draft = sum(len(chunk.draft) for chunk in plan.chunks)
        num_decoding = sum(chunk.num_tokens == 1 for chunk in plan.chunks)
        base_s = self._decoding_s(num_decoding)
        if num_prompt == num_draft == 0:
            size = num_decoding.bit_length()
            self._decode_s[size] = _blend(self._decode_s.get(size), seconds)
        elif num_prompt > 0 and num_draft == 0 and base_s is not None:
            self._prompt_token_s = _blend(self._prompt_token_s, max(0.0, seconds - base_s) / num_prompt)
        elif num_prompt == 0 and base_s is not None:
            self._draft_token_s = _blend(self._draft_token_s, max(0.0, seconds - base_s) / num_draft)

    def prompt_tokens(self, num_decoding: int) -> int:
        """Tokens of prompts that a step may compute beside so many sequences that decode."""
        if num_decoding == 0:
            return self._max_step_tokens
        decode_s = self._decoding_s(num_decoding)
        if decode_s is None or not self._prompt_token_s:
            return _SMALLEST
        return max(_SMALLEST, int(_STRETCH * decode_s / self._prompt_token_s))

    def draft_price(self, num_decoding: int) -> float:
        """The share of guesses that must hold, with so many sequences decoding, for a guess to pay for its row.

        A guess that holds saves its sequence's part of a step.
        """
        token_s = self._prompt_token_s if self._draft_token_s is None else self._draft_token_s
        decode_s = self._decoding_s(num_decoding)
        return token_s * num_decoding / decode_s if token_s and decode_s else 0.0

    def _decoding_s(self, num_decoding: int) -> float | None:
        """Seconds of a step that decodes so many sequences, or about so many; None if there was none yet."""
        if num_decoding == 0 or not self._decode_s:
            return None if num_decoding else 0.0
        size = num_decoding.bit_length()
        return self._decode_s[min(self._decode_s, key=lambda known: abs(known - size))]


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _MEMORY * (new - old)
