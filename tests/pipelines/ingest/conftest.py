"""Run the command line in this process and read back what it published."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.io.lake import Lake
from pipelines.run import Run


@dataclass(frozen=True)
class Answer:
    """What a command line ended with."""

    code: int
    result: dict[str, Any]
    message: str


@dataclass(frozen=True)
class Shell:
    """A command line over one lake."""

    lake_uri: str
    read_output: Callable[[], tuple[str, str]]

    def __call__(self, *words: str | Path) -> Answer:
        """Run a command with --json; the message is the last line on standard error."""
        code = main([*map(str, words), "--lake", self.lake_uri, "--json"])
        out, err = self.read_output()
        told = [line for line in err.splitlines() if line.startswith("reckoner: ")]
        assert len(told) <= 1, err
        return Answer(code, json.loads(out) if out else {}, told[0] if told else "")

    def done(self, *words: str | Path) -> dict[str, Any]:
        """Run a command that must succeed."""
        answer = self(*words)
        assert answer.code == 0, answer.message
        return answer.result

    def rows(self, table: str, ds: str) -> list[dict[str, Any]]:
        """What the lake holds now."""
        return Lake(self.lake_uri, Run.unrecorded()).read(table, ds).to_pylist()

    def dates(self, table: str) -> list[str]:
        """The partitions that the lake holds now."""
        return Lake(self.lake_uri, Run.unrecorded()).partitions(table)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A command line over an empty lake."""

    def read_output() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return Shell(str(tmp_path / "lake"), read_output)
