"""Drive chains: one task's subjects asked at once, each through its steps, what is kept first.

The same loop runs in a Spark task over HTTP and over recorded answers. A chain's request that has
an answer already is answered from it; only the others go out.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
from pyspark.sql import SparkSession

from pipelines.errors import ServiceUnavailable
from pipelines.io.answer_store import AnswerStore, Replies, lake_of
from pipelines.io.llm_http import HttpModel, Stopped, Unanswered
from pipelines.io.llm_quota import QuotaAddress, QuotaClient
from pipelines.io.llm_recorded import NotRecorded, RecordedModel
from pipelines.io.spark_lake import executor_errors
from pipelines.knowledge.course import Course, Outcome
from pipelines.knowledge.interests import reason_about_user
from pipelines.knowledge.reasoning import Chain, reason_about_category, reason_about_item
from pipelines.knowledge.requests import Reply, Request
from pipelines.knowledge.second_opinion import judge_record
from pipelines.knowledge.user_history import Line
from pipelines.run import Run
from pipelines.settings.groups import LlmSettings

Kind = Literal["category", "item", "judgement", "user"]

# Chains that wait for a next try must not leave places unused.
CHAINS_PER_PLACE = 3
# How often a task looks whether answers wait for a commit.
LOOK_S = 0.25
SUBJECTS = "subject string, payload string"
OUTCOMES = (
    "subject string, status string, result string, reason string, attempts long, "
    "last_answer string, tokens_in long, tokens_out long, cost_usd double"
)


@dataclass(frozen=True)
class Job:
    """What every task works with.

    Attributes:
        seen, relevant: files of `llm_answers`; see `AnswerStore.known`.
    """

    kind: Kind
    llm: LlmSettings
    quota: QuotaAddress
    tasks: int
    lake_uri: str
    storage_options: Mapping[str, str]
    run: Run
    ds: str
    seen: tuple[str, ...] = ()
    relevant: tuple[str, ...] = ()

    def chain(self, subject: str, payload: str) -> Chain[Any]:
        """Begin a subject's chain."""
        return begin(self.kind, payload, self.llm, subject)

    def places(self, task: int) -> int:
        """A task's share of the requests in flight."""
        share, rest = divmod(self.llm.max_concurrency, self.tasks)
        return share + (task < rest)


def begin(kind: Kind, payload: str, llm: LlmSettings, subject: str) -> Chain[Any]:
    """Begin the chain that a payload describes."""
    given = json.loads(payload)
    if kind == "category":
        return reason_about_category(given["path"], llm, subject)
    if kind == "user":
        lines = [Line(**line) for line in given["lines"]]
        return reason_about_user(lines, given["most"], llm, subject)
    if kind == "judgement":
        return judge_record(given["item"], given["record"], llm)
    return reason_about_item(given["item"], given["dimensions"], llm)


def ask_on_spark(spark: SparkSession, job: Job, subjects: Sequence[tuple[str, str]]) -> pa.Table:
    """Run every subject's chain on the executors; returns their outcomes.

    Args:
        spark: the session.
        job: what the tasks work with.
        subjects: (subject, payload) pairs, the most wanted first.

    Raises:
        ServiceUnavailable: an executor cannot reach the lake.
    """
    # Dealt out like cards, so that each task begins with the most wanted.
    pieces = [list(subjects[number :: job.tasks]) for number in range(job.tasks)]
    rows = [(number, json.dumps(piece)) for number, piece in enumerate(pieces) if piece]
    frame = spark.createDataFrame(rows, "task int, piece string").repartitionByRange(
        len(rows), "task"
    )

    def ask(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                yield run_task(job, row["task"], json.loads(row["piece"]))

    with executor_errors():
        return frame.mapInArrow(ask, OUTCOMES).toArrow()


def run_task(job: Job, task: int, subjects: Sequence[tuple[str, str]]) -> pa.RecordBatch:
    """Ask about one task's subjects; the event loop lives and ends here."""
    outcomes = asyncio.run(_Task(job, task).run(subjects))
    rows = [{k: v for k, v in asdict(one).items() if k != "answered"} for one in outcomes]
    return pa.RecordBatch.from_pylist(rows, schema=_outcome_schema())


class _Task:
    def __init__(self, job: Job, task: int) -> None:
        self._job, self._task = job, task
        lake = lake_of(job.lake_uri, job.storage_options, job.run)
        self._store = AnswerStore(lake, job.ds)
        self._known: Replies = {}
        self._ended: dict[str, Outcome] = {}
        self._quota = QuotaClient(job.quota)
        self._is_over = asyncio.Event()

    async def run(self, subjects: Sequence[tuple[str, str]]) -> list[Outcome]:
        names = {subject for subject, _ in subjects}
        self._known = self._store.known(names, self._job.seen, self._job.relevant)
        work = iter(subjects)
        places = max(1, self._job.places(self._task))
        keeper = asyncio.create_task(self._commit_regularly())
        try:
            async with self._model(places) as model:
                chains = range(places * CHAINS_PER_PLACE)
                await asyncio.gather(*(self._work(model, work) for _ in chains))
            answered, stop = await self._quota.state()
        except ConnectionError as error:
            raise ServiceUnavailable(f"the driver's quota does not answer: {error}") from error
        finally:
            await self._quota.close()
            self._is_over.set()
            await keeper
        return [
            self._ended[subject].without_blame(answered, stop)
            if subject in self._ended
            else Outcome(subject)
            for subject, _ in subjects
        ]

    def _model(self, places: int) -> HttpModel | RecordedModel:
        if self._job.llm.backend == "recorded":
            return RecordedModel(self._job.llm)
        return HttpModel(self._job.llm, self._quota, places)

    async def _work(
        self, model: HttpModel | RecordedModel, work: Iterator[tuple[str, str]]
    ) -> None:
        for subject, payload in work:
            course = Course(subject, self._job.chain(subject, payload))
            try:
                while course.request is not None:
                    course.tell(await self._reply(course.request, model))
            except Stopped:
                return
            except NotRecorded:
                continue
            except Unanswered as error:
                course.give_up(error.reason, error.attempts, error.answered)
            self._ended[subject] = course.outcome
            done = course.outcome.status == "done"
            await self._quota.finish(int(done), int(not done))

    async def _reply(self, request: Request, model: HttpModel | RecordedModel) -> Reply:
        known = self._known.get(request.hash)
        if known is not None:
            return known
        reply = await model.ask(request)
        self._store.keep(request, reply)
        return reply

    async def _commit_regularly(self) -> None:
        """Commit answers beside the asking, and the last ones when it is over."""
        while not self._is_over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), LOOK_S)
            if self._store.is_due or self._is_over.is_set():
                await asyncio.to_thread(self._store.commit, self._store.take())


def _outcome_schema() -> pa.Schema:
    kinds = {"string": pa.string(), "long": pa.int64(), "double": pa.float64()}
    fields = (column.split() for column in OUTCOMES.split(", "))
    return pa.schema([(name, kinds[kind]) for name, kind in fields])
