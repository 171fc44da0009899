"""Run `reckoner` commands in a test as a person would."""

import json
from typing import Any

import pytest

from pipelines.cli import main


class Command:
    """Runs `reckoner` commands on one lake and keeps what they print."""

    def __init__(self, lake: str, capfd: pytest.CaptureFixture[str]) -> None:
        self.lake = lake
        self._capfd = capfd
        self.output, self.errors = "", ""

    def __call__(self, *words: str) -> int:
        """Run a command; returns its exit code."""
        self._capfd.readouterr()
        code = main([*words, "--lake", self.lake])
        self.output, self.errors = self._capfd.readouterr()
        return code

    def json(self, *words: str) -> Any:
        """Run a command that must succeed; returns its JSON."""
        self._capfd.readouterr()
        code = main([*words, "--json", "--lake", self.lake])
        out, self.errors = self._capfd.readouterr()
        assert code == 0, self.errors
        return json.loads(out)

    @property
    def last_line(self) -> str:
        """The one line that says what went wrong."""
        return self.errors.strip().splitlines()[-1]
