"""Answer requests out of a file of recorded answers."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import InputError
from pipelines.knowledge.requests import Reply, Request
from pipelines.settings.groups import LlmSettings

BY_REQUEST = "request_hash"
BY_ITEM = "item_id"
BY_USER = "user_id"


class NotRecorded(Exception):
    """The file holds no answer to a request; its subject waits."""


class RecordedModel:
    """Replays answers by request: the columns of `llm_answers`, exported to one file."""

    def __init__(self, llm: LlmSettings) -> None:
        self._answers = {
            row[BY_REQUEST]: Reply(
                str(row[llm.recorded_column] or ""),
                int(row.get("tokens_in") or 0),
                int(row.get("tokens_out") or 0),
                float(row.get("cost_usd") or 0),
            )
            for row in read_recorded(llm).to_pylist()
        }

    async def __aenter__(self) -> "RecordedModel":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._answers.clear()

    async def ask(self, request: Request) -> Reply:
        """Look an answer up.

        Raises:
            NotRecorded: there is none.
        """
        reply = self._answers.get(request.hash)
        if reply is None:
            raise NotRecorded(request.hash)
        return reply


def read_recorded(llm: LlmSettings, subject: str = BY_ITEM) -> pa.Table:
    """Read the file of recorded answers, Parquet or JSON Lines.

    Its rows are keyed by `request_hash` (answers to our own requests), or by `item_id` or `user_id`
    (texts that were written about items or people elsewhere).

    Args:
        llm: names the file and its column of answers.
        subject: the key that texts from elsewhere must have.

    Raises:
        InputError: there is no such file, or it lacks a column.
    """
    if llm.recorded is None:
        raise InputError("llm.backend=recorded replays a file: set RECKONER_LLM__RECORDED")
    path = Path(llm.recorded)
    if not path.is_file():
        raise InputError(f"RECKONER_LLM__RECORDED={llm.recorded!r} is not a file")
    try:
        rows = pq.read_table(path) if path.suffix == ".parquet" else _lines(path)
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise InputError(f"recorded answers {path}: {error}") from error
    keyed = {BY_REQUEST, subject} & set(rows.column_names)
    if not keyed or llm.recorded_column not in rows.column_names:
        raise InputError(
            f"recorded answers {path} has columns {rows.column_names}: it needs {BY_REQUEST} or "
            f"{subject}, and {llm.recorded_column} (RECKONER_LLM__RECORDED_COLUMN)"
        )
    return rows


def _lines(path: Path) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
        rows.append(row)
    return pa.Table.from_pylist(rows)
