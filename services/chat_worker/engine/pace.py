"""Learns what a step costs and says how much of a prompt running streams can bear; is fed times, and reads no clock."""

from services.chat_worker.engine.scheduler import Plan

_PROMPT, _DRAFT = 0, -1  # parts of a step; a positive one is decoding, by the bit length of its sequences' number
_MEMORY = 0.2  # weight of the newest observation
_RELIEF = 0.5  # its weight when one part alone took less than expected: what was slow before was the machine
_LARGEST_SURPRISE = 4.0  # how many times too long a step may count, lest one hiccup of the machine rules the next ones
_LEAST_S = 1e-9
_STRETCH = 1.25  # seconds of prompt beside each second of decoding
_SMALLEST = 16  # tokens of a prompt that every step may compute: below that, a prompt pays mostly for overhead


class Pace:
    """Running estimates of a step's seconds: so much to decode, and so much for each token of a prompt and each guess.

    A step beside a prompt takes 1 + _STRETCH times what decoding alone takes, so the gaps in running streams stay
    within 3 times; and the prompt, which has _STRETCH / (1 + _STRETCH) of the time, takes less than twice as long as
    alone. Where more sequences have a prompt to be read than decode, prompts get more in that proportion: a crowd that
    comes at once would else be read beside the few who came first, in steps that serve few. O(running) a step.
    """

    def __init__(self, max_step_tokens: int) -> None:
        self._max_step_tokens = max_step_tokens
        self._seconds: dict[int, float] = {}  # of one unit of each part of a step, by part

    def observe(self, plan: Plan, seconds: float) -> None:
        """Learn from a step: what is new takes what the known parts leave, else all parts share the error.

        Decoding in a number that is new is new, however near another number is: prompts would take the blame for it.
        """
        parts = _parts(plan)
        unknown = [part for part in parts if part not in self._seconds]
        expected = sum(units * self._seconds[part] for part, units in parts.items() if part not in unknown)
        if len(unknown) == 1:
            fewer = (known for part, known in self._seconds.items() if 0 < part < unknown[0])
            rest = (seconds - expected) / parts[unknown[0]]
            self._seconds[unknown[0]] = max(rest, *fewer, _LEAST_S)
        elif not unknown:
            memory = _RELIEF if len(parts) == 1 and seconds < expected else _MEMORY
            factor = 1 + memory * (min(seconds / expected, _LARGEST_SURPRISE) - 1)
            self._seconds |= {part: self._seconds[part] * factor for part in parts}

    def prompt_tokens(self, num_decoding: int, num_reading: int) -> int:
        """Tokens of prompts that a step may compute while so many sequences decode and so many are to be read."""
        if num_decoding == 0:
            return self._max_step_tokens
        decode_s, token_s = self._estimate(num_decoding.bit_length()), self._estimate(_PROMPT)
        if decode_s is None or token_s is None:
            return _SMALLEST
        crowd = max(1.0, num_reading / num_decoding)
        return max(_SMALLEST, min(self._max_step_tokens, int(crowd * _STRETCH * decode_s / token_s)))

    def draft_price(self, num_decoding: int) -> float:
        """The share of guesses that must hold, with so many sequences decoding, for a guess to pay for its row.

        A guess that holds saves its sequence's part of a step.
        """
        decode_s, token_s = self._estimate(num_decoding.bit_length()), self._estimate(_DRAFT) or self._estimate(_PROMPT)
        return 0.0 if decode_s is None or token_s is None else token_s * num_decoding / decode_s

    def _estimate(self, part: int) -> float | None:
        """Seconds of one unit; of a number of sequences that was never met, those of the number nearest to it."""
        if part <= 0:
            return self._seconds.get(part)
        nearest = min(
            (known for known in self._seconds if known > 0), key=lambda known: abs(known - part), default=None
        )
        return None if nearest is None else self._seconds[nearest]


def _parts(plan: Plan) -> dict[int, int]:
    """The parts of a step with their units: tokens of prompts, guesses, or 1 for decoding."""
    num_prompt = sum(chunk.num_tokens for chunk in plan.chunks if chunk.num_tokens > 1)
    num_draft = sum(len(chunk.draft) for chunk in plan.chunks)
    num_decoding = sum(chunk.num_tokens == 1 for chunk in plan.chunks)
    parts = {_PROMPT: num_prompt, _DRAFT: num_draft}
    if num_decoding:
        parts[num_decoding.bit_length()] = 1
    return {part: units for part, units in parts.items() if units}
