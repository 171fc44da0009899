"""What can go wrong on purpose, and the exit code that each kind of trouble ends with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class InputError(ValueError):
    """Bad usage, settings or input (exit 2): the message names the file, row, key or setting."""


class NotBuiltYet(InputError):
    """What an earlier step of the night should have published is not there."""


class GateRefused(Exception):
    """A quality gate refused and nothing was published (exit 3)."""

    def __init__(self, what: str, reasons: Sequence[str]) -> None:
        self.reasons = list(reasons)
        super().__init__(f"{what}: " + "; ".join(self.reasons))


class ServiceUnavailable(Exception):
    """An external service stayed unavailable after retries (exit 4)."""


@contextmanager
def input_errors(what: str) -> Iterator[None]:
    """Turn a ValueError inside into an InputError that begins with `what` is wrong."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error


EXIT_DONE = 0
EXIT_UNEXPECTED = 1
EXIT_INPUT = 2
EXIT_REFUSED = 3
EXIT_UNAVAILABLE = 4


def exit_code(error: BaseException) -> int:
    """Map an error to the exit code that the contract gives it."""
    if isinstance(error, InputError):
        return EXIT_INPUT
    if isinstance(error, GateRefused):
        return EXIT_REFUSED
    if isinstance(error, ServiceUnavailable):
        return EXIT_UNAVAILABLE
    return EXIT_UNEXPECTED
