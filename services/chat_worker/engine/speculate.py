"""Guesses an answer's next tokens from what its text already holds; knows no model and does not check the guesses."""

_NGRAM = 3  # tokens that must occur again for what followed them to be a guess
_FIRST = 4  # tokens guessed at once, to begin with
_LONGEST = 8
_MEMORY = 0.2  # weight of the newest outcome
_FIRST_PAUSE = 16  # tokens without guesses after they did not pay
_LONGEST_PAUSE = 256


class PromptLookup:
    """Guesses that the text goes on as it did after the last occurrence of its newest tokens.

    Source: prompt lookup decoding (Saxena, 2023). Each n-gram is indexed once, when the text has grown past it: O(1) a
    token and O(draft) a guess, however long the text is.
    """

    def __init__(self) -> None:
        self._followed_at: dict[tuple[int, ...], int] = {}  # where the text went on after an n-gram's last occurrence
        self._num_indexed = _NGRAM

    def propose(self, token_ids: list[int], num_tokens: int) -> tuple[int, ...]:
        """Up to num_tokens tokens that may follow token_ids, which may only have grown since the last call."""
        for end in range(self._num_indexed, len(token_ids)):
            self._followed_at[tuple(token_ids[end - _NGRAM : end])] = end
        self._num_indexed = max(self._num_indexed, len(token_ids))
        start = self._followed_at.get(tuple(token_ids[-_NGRAM:]))
        if start is None:
            return ()
        draft: list[int] = []
        for position in range(start, start + num_tokens):  # a text that repeats itself goes on in its own guess
            draft.append(token_ids[position] if position < len(token_ids) else draft[position - len(token_ids)])
        return tuple(draft)


class Speculation:
    """Whether and how far to guess in one answer: as long as enough guesses hold to pay for the others.

    It starts hopeful. When guesses do not pay it pauses, twice as long each time, and then tries again with few.
    """

    def __init__(self) -> None:
        self.num_accepted = 0
        self.num_rejected = 0
        self._lookup = PromptLookup()
        self._length = _FIRST
        self._hold_rate = 1.0  # share of guesses that hold, running average
        self._pause = _FIRST_PAUSE
        self._resume_len = 0

    def draft(self, token_ids: list[int], *, most: int, price: float) -> tuple[int, ...]:
        """The guesses to check in the next step: at most most, none if fewer than price of them are likely to hold."""
        if most <= 0 or price >= 1 or len(token_ids) < self._resume_len:
            return ()
        if self._hold_rate < price:
            self._resume_len = len(token_ids) + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._hold_rate = min(1.0, 1.5 * price)  # for the next try: a few misses end it again
            return ()
        return self._lookup.propose(token_ids, min(most, self._length))

    def note(self, num_drafted: int, num_accepted: int) -> None:
        """Take the outcome of a step's guesses."""
        self.num_accepted += num_accepted
        self.num_rejected += num_drafted - num_accepted
        if num_drafted == 0:
            return
        self._hold_rate += _MEMORY * (num_accepted / num_drafted - self._hold_rate)
        if num_accepted == num_drafted:
            self._length, self._pause = min(2 * self._length, _LONGEST), _FIRST_PAUSE
        else:
            self._length = num_accepted + 1
