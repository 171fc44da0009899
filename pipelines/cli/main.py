"""The entry point: turns every error into one line and the contract's exit code."""

import os
import sys
import traceback
from collections.abc import Sequence

from pipelines import errors
from pipelines.cli import benchmark, knowing, looking, nights, ranking, steps  # noqa: F401
from pipelines.cli.app import app
from pipelines.logs import configure_logging


@app.callback()
def configure() -> None:
    """Send logs to standard error, so that standard output holds the result alone."""
    configure_logging(os.environ.get("RECKONER_LOG_LEVEL", "info"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing escapes but an interrupt.

    Args:
        argv: the words after `reckoner`; the process's own where None.
    """
    try:
        app(args=list(argv) if argv is not None else None)
    except SystemExit as stop:  # usage errors end with 2, --help with 0
        return stop.code if isinstance(stop.code, int) else errors.EXIT_UNEXPECTED
    except (errors.InputError, errors.GateRefused, errors.ServiceUnavailable) as error:
        print(f"reckoner: {' '.join(str(error).split())}", file=sys.stderr)
        return errors.exit_code(error)
    except (
        Exception
    ) as error:  # the last frame: say it in one line, keep the trace for whoever asks
        traceback.print_exc()
        print(f"reckoner: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        return errors.EXIT_UNEXPECTED
    return errors.EXIT_DONE
