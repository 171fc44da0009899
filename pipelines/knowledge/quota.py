"""What all askers together may do: rate, spend and whether to go on. Pure bookkeeping.

The clock is an argument, so that the rules can be tested without waiting.
"""

from dataclasses import dataclass, field
from typing import Literal

StopKind = Literal["budget", "breaker", "input"]
AGAIN_S = 0.05


@dataclass(frozen=True)
class Limits:
    """The bounds of a run; None where there is none."""

    requests_per_second: float
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    breaker_failures: int = 20
    breaker_seconds: float = 30


@dataclass(frozen=True)
class Stop:
    """Why nothing more is asked."""

    kind: StopKind
    why: str


@dataclass(frozen=True)
class Grant:
    """The answer to a wish to ask.

    Attributes:
        wait_s: go ahead after this long; where `again`, ask for leave again instead.
    """

    wait_s: float = 0.0
    again: bool = False
    stop: Stop | None = None


@dataclass
class Quota:
    """The state of a run.

    Requests are spaced by slots: each leave takes the next one, so the rate holds whoever asks, and
    an idle time is not saved up for a burst. Money is reserved at the worst case before a request
    and settled at the true price after it, so the caps hold with any number in flight.
    """

    limits: Limits
    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    subjects_done: int = 0
    subjects_failed: int = 0
    stop: Stop | None = None
    first_at: float | None = None
    last_at: float | None = None
    _next_slot: float = 0.0
    _tokens_reserved: int = 0
    _usd_reserved: float = 0.0
    _failures_in_a_row: int = 0
    _quiet_since: float | None = field(default=None)

    def acquire(self, now: float, tokens: int, usd: float) -> Grant:
        """Ask for leave to send one request of at most so many tokens and dollars."""
        if self.stop:
            return Grant(stop=self.stop)
        if self._exceeds(tokens, usd, reserved=False):
            self.stop = Stop("budget", self._cap())
            return Grant(stop=self.stop)
        if self._exceeds(tokens, usd, reserved=True):
            return Grant(AGAIN_S, again=True)
        slot = max(now, self._next_slot)
        self._next_slot = slot + 1 / self.limits.requests_per_second
        self._tokens_reserved += tokens
        self._usd_reserved += usd
        self.in_flight += 1
        if self.first_at is None:
            self.first_at = now
        return Grant(slot - now)

    def settle(
        self, now: float, tokens: int, usd: float, spent: tuple[int, int, float] | None
    ) -> None:
        """Report what became of a request.

        Args:
            now: the time.
            tokens: as reserved.
            usd: as reserved.
            spent: tokens in, tokens out and dollars of an answer; None where none came.
        """
        self.in_flight -= 1
        self._tokens_reserved -= tokens
        self._usd_reserved -= usd
        self.last_at = now
        if spent is None:
            self.failed += 1
            self._note_failure(now)
            return
        self.answered += 1
        self.tokens_in += spent[0]
        self.tokens_out += spent[1]
        self.cost_usd += spent[2]
        self._failures_in_a_row, self._quiet_since = 0, None

    def refuse(self, kind: StopKind, why: str) -> None:
        """Stop the run; the first reason stands."""
        self.stop = self.stop or Stop(kind, why)

    @property
    def requests_per_second(self) -> float:
        """Answers per second so far."""
        if self.first_at is None or self.last_at is None or self.last_at <= self.first_at:
            return 0.0
        return self.answered / (self.last_at - self.first_at)

    def _note_failure(self, now: float) -> None:
        self._failures_in_a_row += 1
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        quiet = now - self._quiet_since
        limits = self.limits
        if self._failures_in_a_row >= limits.breaker_failures and quiet >= limits.breaker_seconds:
            self.refuse(
                "breaker",
                f"{self._failures_in_a_row} requests in a row failed over {quiet:.0f} s",
            )

    def _exceeds(self, tokens: int, usd: float, reserved: bool) -> bool:
        tokens += self.tokens_in + self.tokens_out + (self._tokens_reserved if reserved else 0)
        usd += self.cost_usd + (self._usd_reserved if reserved else 0)
        most_tokens, most_usd = self.limits.max_tokens, self.limits.max_cost_usd
        return (most_tokens is not None and tokens > most_tokens) or (
            most_usd is not None and usd > most_usd
        )

    def _cap(self) -> str:
        return (
            f"the next request could exceed a cap: {self.tokens_in + self.tokens_out} tokens of "
            f"{self.limits.max_tokens}, ${self.cost_usd:.4f} of {self.limits.max_cost_usd}"
        )
