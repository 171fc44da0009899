"""Answers that were paid for, kept as they arrive and found again after any kind of end.

Answers gather for some seconds and are then added to `llm_answers` in one commit. Where the lake is
a local folder each is also written to a journal at once, so that a killed process loses none; the
next one adds what the journals of dead processes hold. A journal is locked while its writer lives.
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from pipelines.io.delta_table import is_remote
from pipelines.io.lake import Lake
from pipelines.io.staging import table_files
from pipelines.knowledge.requests import Reply, Request
from pipelines.run import Run
from pipelines.tables.knowledge import LLM_ANSWERS

log = structlog.get_logger()

TABLE = LLM_ANSWERS.name
JOURNALS = "journals"
FLUSH_ANSWERS = 256
FLUSH_S = 5.0
# Without a journal, what is not committed yet is what a kill would lose.
FLUSH_UNJOURNALED_S = 1.0
LOCK_TRIES = 25
LOCK_PAUSE_S = 0.2

Replies = dict[str, Reply]


class AnswerStore:
    """One task's way to the answers.

    Args:
        lake: the lake.
        ds: the night that asks.
    """

    def __init__(self, lake: Lake, ds: str) -> None:
        self._lake, self._ds = lake, ds
        self._pending: list[dict[str, Any]] = []
        self._flushed_at = time.monotonic()
        self._journal: TextIO | None = None

    def known(self, subjects: Set[str], seen: Iterable[str], relevant: Iterable[str]) -> Replies:
        """Read the answers about some subjects, by request.

        Args:
            subjects: item ids or categories.
            seen: files that the driver has looked into,
            relevant: and those of them that hold an answer about a subject of the run. Files that
                are newer than the driver's look are read too: a task that is tried again finds
                what its first try was told.
        """
        self._lake.refresh(TABLE)
        old = set(seen) - set(relevant)
        files = [path for path in self._lake.files(TABLE) if path not in old]
        wanted = pa.array(sorted(subjects), pa.string())
        found: Replies = {}
        for rows in _read(self._lake, files, None):
            mine = rows.filter(pc.is_in(rows["subject"], value_set=wanted))
            for row in mine.to_pylist():
                found[row["request_hash"]] = Reply(
                    row["answer"], row["tokens_in"], row["tokens_out"], row["cost_usd"]
                )
        return found

    def keep(self, request: Request, reply: Reply) -> None:
        """Keep an answer; it is durable when this returns, where the lake is a local folder."""
        row = {
            "request_hash": request.hash,
            "step": request.step,
            "subject": request.subject,
            "prompt_version": request.prompt_version,
            "model": request.model,
            "answer": reply.text,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
            "cost_usd": reply.cost_usd,
            "created_ds": self._ds,
        }
        if not is_remote(self._lake.uri):
            self._journal = self._journal or _open_journal(self._lake)
            # One short write: a kill leaves the line whole or, at worst, cut at the end.
            self._journal.write(json.dumps(row) + "\n")
            self._journal.flush()
        self._pending.append(row)

    @property
    def is_due(self) -> bool:
        """Whether enough answers, or old enough ones, wait for a commit."""
        patience = FLUSH_S if self._journal else FLUSH_UNJOURNALED_S
        waited = time.monotonic() - self._flushed_at
        return bool(self._pending) and (len(self._pending) >= FLUSH_ANSWERS or waited >= patience)

    def take(self) -> "Taken":
        """Hand over the answers that wait, with their journal; later ones begin another."""
        taken = Taken(self._pending, self._journal)
        self._pending, self._journal = [], None
        self._flushed_at = time.monotonic()
        return taken

    def commit(self, taken: "Taken") -> None:
        """Add answers to the table and drop their journal; may run beside `keep`."""
        if taken.rows:
            self._lake.add(TABLE, pa.Table.from_pylist(taken.rows, schema=LLM_ANSWERS.schema))
        if taken.journal is not None:
            os.unlink(taken.journal.name)
            taken.journal.close()


@dataclass(frozen=True)
class Taken:
    """Answers on their way into the table."""

    rows: list[dict[str, Any]]
    journal: TextIO | None


def relevant_files(lake: Lake, subjects: Set[str]) -> tuple[list[str], list[str]]:
    """List all files of `llm_answers`, and those that hold an answer about a subject."""
    lake.refresh(TABLE)
    files = list(lake.files(TABLE))
    wanted = pa.array(sorted(subjects), pa.string())
    relevant = [
        path
        for path in files
        if any(
            pc.any(pc.is_in(rows["subject"], value_set=wanted)).as_py()
            for rows in _read(lake, [path], ["subject"])
        )
    ]
    return files, relevant


def recover_journals(lake: Lake) -> int:
    """Add what dead processes left in their journals; returns how many answers that were."""
    folder = _folder(lake)
    if is_remote(lake.uri) or not folder.is_dir():
        return 0
    recovered = 0
    for path in sorted(folder.iterdir()):
        with _locked(path) as stream:
            if stream is None:
                continue  # its writer lives
            rows = list(_whole_lines(stream))
            known = _hashes(lake, {row["request_hash"] for row in rows})
            fresh = {row["request_hash"]: row for row in rows if row["request_hash"] not in known}
            if fresh:
                lake.add(TABLE, pa.Table.from_pylist([*fresh.values()], schema=LLM_ANSWERS.schema))
            path.unlink()
            recovered += len(fresh)
    if recovered:
        log.info("answers of a killed run recovered", answers=recovered)
    return recovered


def lake_of(uri: str, storage_options: Mapping[str, str], run: Run) -> Lake:
    """Open the lake on an executor, under the driver's run."""
    return Lake(uri, run, dict(storage_options))


def _hashes(lake: Lake, wanted: Set[str]) -> set[str]:
    lake.refresh(TABLE)
    asked = pa.array(sorted(wanted), pa.string())
    found: set[str] = set()
    for rows in _read(lake, list(lake.files(TABLE)), ["request_hash"]):
        hit = rows["request_hash"].filter(pc.is_in(rows["request_hash"], value_set=asked))
        found.update(hit.to_pylist())
    return found


def _read(lake: Lake, files: Iterable[str], columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    store = table_files(lake.table_uri(TABLE), lake.storage_options)
    for path in files:
        with store.open_input_file(path) as stream:
            yield from pq.ParquetFile(stream).iter_batches(columns=columns)


def _folder(lake: Lake) -> Path:
    return Path(lake.uri.removeprefix("file://")) / TABLE / JOURNALS


def _open_journal(lake: Lake) -> TextIO:
    folder = _folder(lake)
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        stream = (folder / f"{uuid.uuid4()}.jsonl").open("x", encoding="utf-8")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if os.path.exists(stream.name):
            return stream
        stream.close()  # another run took it for a dead one's before it was locked


@contextmanager
def _locked(path: Path) -> Iterator[TextIO | None]:
    """Open and lock a journal; None while its writer lives or where another took it."""
    try:
        stream = path.open(encoding="utf-8")
    except FileNotFoundError:
        yield None
        return
    with stream:
        for _ in range(LOCK_TRIES):  # a worker outlives its killed driver by a moment
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOCK_PAUSE_S)
        else:
            yield None
            return
        yield stream if path.exists() else None


def _whole_lines(stream: TextIO) -> Iterator[dict[str, Any]]:
    for line in stream:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return  # the kill cut it
