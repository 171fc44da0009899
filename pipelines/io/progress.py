"""Carry progress lines from Ray workers to the driver's log, without the workers' other chatter."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import structlog

log = structlog.get_logger()

POLL_S = 0.5
QUIET_S = 60.0


class Board:
    """Holds lines until the driver takes them."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._refusal: str | None = None

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        self._lines.append(line)

    def take(self) -> list[dict[str, Any]]:
        """Hand over the lines that came since the last call."""
        taken, self._lines = self._lines, []
        return taken

    def refuse(self, why: str) -> None:
        """Note why the workers gave up on purpose; the first reason stands."""
        self._refusal = self._refusal or why

    def refusal(self) -> str | None:
        """Say why the workers gave up, if they did."""
        return self._refusal


@contextmanager
def progress_board() -> Iterator[Any]:
    """Yield a board whose lines appear in this process's log while the block runs."""
    board = ray.remote(num_cpus=0)(Board).remote()
    stop = threading.Event()

    def follow() -> None:
        quiet = 0.0
        while not stop.wait(POLL_S):
            quiet = 0.0 if _flush(board) else quiet + POLL_S
            if quiet >= QUIET_S:
                log.info("still waiting for the workers", free=ray.available_resources())
                quiet = 0.0

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join()
        _flush(board)


def _flush(board: Any) -> bool:
    lines = ray.get(board.take.remote())
    for line in lines:
        log.info(line.pop("event"), **line)
    return bool(lines)
