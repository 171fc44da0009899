"""The backends that reason: categories first, then items in rounds, under one quota."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.answer_store import AnswerStore, recover_journals, relevant_files
from pipelines.io.llm_quota import QuotaServer
from pipelines.io.llm_tasks import Job, Kind, ask_on_spark, begin
from pipelines.io.spark_session import spark_session
from pipelines.knowledge.backends import Built, Caps
from pipelines.knowledge.course import Course
from pipelines.knowledge.estimate import Estimate, estimate
from pipelines.knowledge.item_text import PATH
from pipelines.knowledge.quota import Limits
from pipelines.knowledge.requests import chain_version, step_version
from pipelines.knowledge.selection import unknown
from pipelines.step import Context
from pipelines.tables import CATEGORY_ONTOLOGY, ITEM_KNOWLEDGE, ITEM_KNOWLEDGE_FAILED

log = structlog.get_logger()

ROUND_ITEMS = 20_000
KEY = list(CATEGORY_ONTOLOGY.key)


class ReasoningBackend:
    """Asks a model step by step; `http`, `vllm` and `recorded` differ in who answers."""

    round_items = ROUND_ITEMS

    def __init__(self, context: Context, caps: Caps) -> None:
        self._context, self._llm = context, context.settings.llm
        assert self._llm.model is not None
        self.model = self._llm.model
        self.prompt_version = chain_version(self._llm.language)
        self._ontology_version = step_version("ontology", self._llm.language)
        limits = Limits(
            self._llm.max_requests_per_second,
            caps.max_tokens,
            caps.max_cost_usd,
            self._llm.breaker_failures,
            self._llm.breaker_seconds,
        )
        self._server = QuotaServer(limits, _driver_host(context.settings.spark.master))
        self._is_recovered = False

    def estimate(self, items: pa.Table) -> Estimate:
        """Estimate from the texts, and from earlier answers' tokens where there are enough."""
        known = set(self._ontologies())
        categories = {path for path in _paths(items) if path and path not in known}
        return estimate(items.to_pylist(), len(categories), self._llm, self._measured())

    def build(self, items: pa.Table) -> Built:
        """Reason about a round of items; publishes new ontology rows on the way."""
        if not self._is_recovered:
            recover_journals(self._context.lake)
            self._is_recovered = True
        paths = _paths(items)
        dimensions = self._complete_ontologies({path for path in paths if path})
        rows = items.to_pylist()
        subjects = [
            (row["item_id"], json.dumps({"item": row, "dimensions": dimensions.get(path, [])}))
            for row, path in zip(rows, paths, strict=True)
        ]
        outcomes = self._ask("item", subjects)
        self._trace(subjects)
        hashes = {row["item_id"]: row["content_hash"] for row in rows}
        records = [self._record(one, hashes) for one in outcomes if one["status"] == "done"]
        failed = [self._failure(one, hashes) for one in outcomes if one["status"] == "failed"]
        quota = self._server.quota
        return Built(
            pa.Table.from_pylist(records, schema=ITEM_KNOWLEDGE.stored),
            pa.Table.from_pylist(failed, schema=ITEM_KNOWLEDGE_FAILED.stored),
            quota.stop,
            {
                "requests": quota.answered,
                "troubles": quota.failed,
                "requests_per_second": round(quota.requests_per_second, 2),
                "tokens_in": quota.tokens_in,
                "tokens_out": quota.tokens_out,
                "cost_usd": round(quota.cost_usd, 6),
            },
        )

    def close(self) -> None:
        """Close the quota's port."""
        self._server.close()

    def _complete_ontologies(self, paths: set[str]) -> Mapping[str, list[dict[str, Any]]]:
        """Ask for what is missing, publish it, and return every category's dimensions."""
        known = self._ontologies()
        missing = sorted(paths - set(known))
        if missing:
            subjects = [(path, json.dumps({"path": path.split(PATH)})) for path in missing]
            outcomes = self._ask("category", subjects)
            done = [one for one in outcomes if one["status"] == "done"]
            rows = [self._ontology(one) for one in done]
            made = pa.Table.from_pylist(rows, schema=CATEGORY_ONTOLOGY.stored)
            commit = self._context.lake.append(
                CATEGORY_ONTOLOGY.name, lambda there: unknown(made, there, KEY), KEY
            )
            self._context.run.wrote(CATEGORY_ONTOLOGY.name, commit.version, commit.rows)
            known |= {row["category"]: row["dimensions"] for row in rows}
            if len(done) < len(missing):
                log.warning("categories without an ontology", count=len(missing) - len(done))
        return known

    def _ask(self, kind: Kind, subjects: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Run chains where the backend runs them."""
        context = self._context
        names = {subject for subject, _ in subjects}
        context.lake.ensure("llm_answers")
        seen, relevant = relevant_files(context.lake, names)
        what = "categories" if kind == "category" else "items"
        with self._server.serving(len(subjects), what) as quota:
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
            with spark_session(context.settings.spark, "build-item-knowledge") as spark:
                rows: list[dict[str, Any]] = ask_on_spark(spark, job, subjects).to_pylist()
                return rows

    def _trace(self, subjects: Sequence[tuple[str, str]]) -> None:
        """Show a sample of the conversations in MLflow; the night does not depend on it."""
        sample = {subject: payload for subject, payload in subjects if self._is_sampled(subject)}
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

    def _is_sampled(self, subject: str) -> bool:
        """Draw by the item's id, so that a rerun shows the same items."""
        draw = int.from_bytes(hashlib.blake2b(subject.encode(), digest_size=4).digest())
        return draw < self._llm.trace_share * 2**32

    def _ontologies(self) -> dict[str, list[dict[str, Any]]]:
        is_current = pc.field("prompt_version") == self._ontology_version
        mine = is_current & (pc.field("model") == self.model)
        rows = self._context.lake.read(CATEGORY_ONTOLOGY.name, columns=[*KEY, "dimensions"])
        return {row["category"]: row["dimensions"] for row in rows.filter(mine).to_pylist()}

    def _measured(self) -> dict[str, tuple[int, float, float]]:
        columns = ["step", "model", "tokens_in", "tokens_out"]
        rows = self._context.lake.read("llm_answers", columns=columns)
        mine = rows.filter(pc.equal(rows["model"], self.model))
        means = mine.group_by("step").aggregate(
            [([], "count_all"), ("tokens_in", "mean"), ("tokens_out", "mean")]
        )
        return {
            row["step"]: (row["count_all"], row["tokens_in_mean"], row["tokens_out_mean"])
            for row in means.to_pylist()
        }

    def _key(self, outcome: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
        spent = {name: outcome[name] for name in ("tokens_in", "tokens_out", "cost_usd")}
        return {
            "item_id": outcome["subject"],
            "content_hash": hashes[outcome["subject"]],
            "prompt_version": self.prompt_version,
            "model": self.model,
            **spent,
        }

    def _record(self, outcome: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(outcome["result"])
        attributes = list(record["knowledge"].pop("attributes").items())
        record["knowledge"]["attributes"] = attributes
        about = {"created_ds": self._context.ds, "status": "reasoned"}
        return self._key(outcome, hashes) | record | about

    def _failure(self, outcome: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
        told = {name: outcome[name] for name in ("reason", "attempts", "last_answer")}
        return self._key(outcome, hashes) | told

    def _ontology(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        spent = {name: outcome[name] for name in ("tokens_in", "tokens_out", "cost_usd")}
        return {
            "category": outcome["subject"],
            "prompt_version": self._ontology_version,
            "model": self.model,
            "dimensions": json.loads(outcome["result"]),
            "created_ds": self._context.ds,
            **spent,
        }


def _paths(items: pa.Table) -> list[str]:
    return [PATH.join(path or []) for path in items["category"].to_pylist()]


def _driver_host(master: str) -> str:
    """The address under which executors reach this process."""
    if master.startswith("local"):
        return "127.0.0.1"
    import socket

    return socket.gethostbyname(socket.gethostname())
