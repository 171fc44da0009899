"""When to speak of long work, and how long it will still take."""

import time
from collections.abc import Callable


class Pace:
    """Says when it is time to speak again.

    Args:
        every_s: seconds between two words.
        clock: seconds that only grow.
    """

    def __init__(self, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._began = self._said = clock()

    def is_due(self) -> bool:
        """Say whether to speak now; whoever asks is taken to have spoken."""
        now = self._clock()
        if now - self._said <= self._every_s:
            return False
        self._said = now
        return True

    def seconds_left(self, done: float) -> float | None:
        """Estimate the rest by what the work took so far; None where it is not time to speak.

        Args:
            done: share of the work, above 0 and at most 1.
        """
        return (self._said - self._began) * (1 / done - 1) if self.is_due() else None
