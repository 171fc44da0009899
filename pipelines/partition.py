"""The date that a night closes: the only clock a step may read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pipelines.errors import InputError, input_errors

ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, order=True)
class Partition:
    """One UTC day, written as an ISO date in every table's `ds` column."""

    day: date

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Read an ISO date such as 2026-03-01.

        Raises:
            InputError: `text` is not a calendar date in that form.
        """
        if not ISO_DATE.fullmatch(text):
            raise InputError(f"partition {text!r} is not a date; write it as YYYY-MM-DD")
        with input_errors(f"partition {text!r} is not a calendar date"):
            return cls(date.fromisoformat(text))

    @property
    def ds(self) -> str:
        """The ISO date."""
        return self.day.isoformat()

    @property
    def start(self) -> datetime:
        """The first instant of the day (UTC)."""
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first instant after the day (UTC)."""
        return self.start + timedelta(days=1)

    def back(self, days: int) -> "Partition":
        """The partition `days` earlier (later where negative)."""
        return Partition(self.day - timedelta(days=days))

    def require_closed(self, now: datetime) -> None:
        """Refuse a day that has not begun yet.

        Raises:
            InputError: the partition starts after `now`.
        """
        if self.start > now:
            raise InputError(
                f"partition {self.ds} is in the future (today is {now.date().isoformat()} UTC); "
                "only a day that has begun can be built"
            )

    def __str__(self) -> str:
        return self.ds


def partitions_between(first: Partition, last: Partition) -> Iterator[Partition]:
    """Every partition from `first` to `last`, both included.

    Raises:
        InputError: `first` is after `last`.
    """
    if first > last:
        raise InputError(f"--from {first} is after --to {last}")
    for offset in range((last.day - first.day).days + 1):
        yield first.back(-offset)
