"""Decides how often requests may be asked again: as many at once as a worker may lose, in the long run a share."""

from typing import Final

AT_ONCE: Final = 1024.0  # twice what a worker has in progress at most
SHARE: Final = 0.2


class RetryBudget:
    """Of one model. Each request adds a share of a retry; what is left over is kept for the loss of a whole worker."""

    def __init__(self) -> None:
        self._left = AT_ONCE

    def earn(self) -> None:
        """A request came."""
        self._left = min(AT_ONCE, self._left + SHARE)

    def spend(self) -> bool:
        """Whether one may be asked again."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
