"""Structured logs on standard error."""

import logging
import sys

import structlog


def configure_logging(level: str) -> None:
    """Set up structured logs on standard error: coloured for a terminal, JSON otherwise."""
    to_terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if to_terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
        ),
        # Asked anew for each line: whoever replaced standard error may have closed it since.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
