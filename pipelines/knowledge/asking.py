"""Drive chains of a model wherever the backend runs them, under one quota and one answer store."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pyarrow.compute as pc
import structlog

from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.answer_store import AnswerStore, recover_journals, relevant_files
from pipelines.io.llm_quota import QuotaServer
from pipelines.io.llm_tasks import Job, Kind, ask_on_spark, begin
from pipelines.io.spark_session import spark_session
from pipelines.knowledge.backends import Caps
from pipelines.knowledge.course import Course
from pipelines.knowledge.quota import Limits, Quota
from pipelines.knowledge.samples import is_drawn
from pipelines.step import Context

log = structlog.get_logger()

SUBJECTS: dict[Kind, str] = {
    "category": "categories",
    "item": "items",
    "judgement": "judgements",
    "user": "people",
}


class ModelAsker:
    """Asks a model about subjects; `http`, `vllm` and `recorded` differ in who answers.

    Args:
        context: the step's.
        caps: where to stop.
        step: the step's name, as the Spark session shows it.
    """

    def __init__(self, context: Context, caps: Caps, step: str) -> None:
        self._context, self._llm, self._step = context, context.settings.llm, step
        limits = Limits(
            self._llm.max_requests_per_second,
            caps.max_tokens,
            caps.max_cost_usd,
            self._llm.breaker_failures,
            self._llm.breaker_seconds,
        )
        self._server = QuotaServer(limits, _driver_host(context.settings.spark.master))
        self._is_recovered = False

    @property
    def quota(self) -> Quota:
        """What was asked and spent so far."""
        return self._server.quota

    def spent(self) -> dict[str, Any]:
        """Figures for the step's result."""
        quota = self.quota
        return {
            "requests": quota.answered,
            "troubles": quota.failed,
            "requests_per_second": round(quota.requests_per_second, 2),
            "tokens_in": quota.tokens_in,
            "tokens_out": quota.tokens_out,
            "cost_usd": round(quota.cost_usd, 6),
        }

    def close(self) -> None:
        """Close the quota's port."""
        self._server.close()

    def ask(self, kind: Kind, subjects: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Run every subject's chain; returns the outcomes as rows.

        Args:
            kind: what the subjects are.
            subjects: (subject, payload) pairs, the most wanted first.

        Raises:
            ServiceUnavailable: an executor cannot reach the lake.
        """
        context = self._context
        if not self._is_recovered:
            recover_journals(context.lake)
            self._is_recovered = True
        names = {subject for subject, _ in subjects}
        context.lake.ensure("llm_answers")
        seen, relevant = relevant_files(context.lake, names)
        with self._server.serving(len(subjects), SUBJECTS[kind]) as quota:
            job = Job(
                kind,
                self._llm,
                quota,
                min(self._llm.partitions, self._llm.max_concurrency, max(1, len(subjects))),
                context.lake.uri,
                context.lake.storage_options,
                replace(context.run),
                context.ds,
                tuple(seen),
                tuple(relevant),
            )
            if self._llm.backend == "vllm":
                from pipelines.io.llm_vllm import ask_on_ray

                return ask_on_ray(context.settings.ray, job, subjects, self._server.quota)
            with spark_session(context.settings.spark, self._step) as spark:
                rows: list[dict[str, Any]] = ask_on_spark(spark, job, subjects).to_pylist()
        # Too few subjects for the breaker, and yet the service is away.
        is_silent = self.quota.failed > 0 and self.quota.answered == 0
        if is_silent and any(row["status"] == "left" for row in rows):
            self.quota.refuse("breaker", f"none of {self.quota.failed} requests was answered")
        return rows

    def trace_items(self, subjects: Sequence[tuple[str, str]]) -> None:
        """Show a sample of the conversations in MLflow; the night does not depend on it."""
        share = self._llm.trace_share
        sample = {subject: payload for subject, payload in subjects if is_drawn(subject, share)}
        if not sample or find_spec("mlflow") is None:
            return
        from pipelines.io.llm_traces import replay, trace

        context = self._context
        files = relevant_files(context.lake, set(sample))
        known = AnswerStore(context.lake, context.ds).known(set(sample), *files)
        try:
            traces = trace(
                context.settings,
                context.ds,
                (
                    replay(Course(subject, begin("item", payload, self._llm, subject)), known)
                    for subject, payload in sample.items()
                ),
            )
            log.info("conversations are in MLflow", traces=traces)
        except (InputError, ServiceUnavailable) as error:
            log.warning("no traces", reason=str(error))

    def measured(self) -> dict[str, tuple[int, float, float]]:
        """Answers so far, and their mean tokens in and out, per step."""
        columns = ["step", "model", "tokens_in", "tokens_out"]
        rows = self._context.lake.read("llm_answers", columns=columns)
        mine = rows.filter(pc.equal(rows["model"], self._llm.model))
        means = mine.group_by("step").aggregate(
            [([], "count_all"), ("tokens_in", "mean"), ("tokens_out", "mean")]
        )
        return {
            row["step"]: (row["count_all"], row["tokens_in_mean"], row["tokens_out_mean"])
            for row in means.to_pylist()
        }


def _driver_host(master: str) -> str:
    """The address under which executors reach this process."""
    if master.startswith("local"):
        return "127.0.0.1"
    import socket

    return socket.gethostbyname(socket.gethostname())
