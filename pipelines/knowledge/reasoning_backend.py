"""The backends that reason: categories first, then items in rounds, under one quota."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.knowledge.asking import ModelAsker
from pipelines.knowledge.backends import Built, Caps
from pipelines.knowledge.estimate import Estimate, estimate
from pipelines.knowledge.item_text import PATH
from pipelines.knowledge.requests import chain_version, step_version
from pipelines.knowledge.second_opinion import is_judged, opinion
from pipelines.knowledge.selection import unknown
from pipelines.step import Context
from pipelines.tables.knowledge import CATEGORY_ONTOLOGY, ITEM_KNOWLEDGE, ITEM_KNOWLEDGE_FAILED

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
        self._asker = ModelAsker(context, caps, "build-item-knowledge")

    def estimate(self, items: pa.Table) -> Estimate:
        """Estimate from the texts, and from earlier answers' tokens where there are enough."""
        known = set(self._ontologies())
        categories = {path for path in _paths(items) if path and path not in known}
        share = self._context.settings.knowledge.judge_share
        measured = self._asker.measured()
        return estimate(items.to_pylist(), len(categories), self._llm, measured, share)

    def build(self, items: pa.Table) -> Built:
        """Reason about a round of items; publishes new ontology rows on the way."""
        paths = _paths(items)
        dimensions = self._complete_ontologies({path for path in paths if path})
        rows = items.to_pylist()
        subjects = [
            (row["item_id"], json.dumps({"item": row, "dimensions": dimensions.get(path, [])}))
            for row, path in zip(rows, paths, strict=True)
        ]
        outcomes = self._asker.ask("item", subjects)
        self._asker.trace_items(subjects)
        hashes = {row["item_id"]: row["content_hash"] for row in rows}
        records = [self._record(one, hashes) for one in outcomes if one["status"] == "done"]
        failed = [self._failure(one, hashes) for one in outcomes if one["status"] == "failed"]
        stop = self._asker.quota.stop
        opinion = {} if stop else self._judge(rows, records)
        return Built(
            pa.Table.from_pylist(records, schema=ITEM_KNOWLEDGE.stored),
            pa.Table.from_pylist(failed, schema=ITEM_KNOWLEDGE_FAILED.stored),
            stop or self._asker.quota.stop,
            self._asker.spent() | opinion,
            opinion,
        )

    def close(self) -> None:
        """Close the quota's port."""
        self._asker.close()

    def _judge(
        self, items: list[dict[str, Any]], records: list[dict[str, Any]]
    ) -> dict[str, float]:
        """Have a sample of the round's records graded; one that cannot be is not missed."""
        share = self._context.settings.knowledge.judge_share
        sample = {row["item_id"]: row for row in records if is_judged(row["item_id"], share)}
        if not sample:
            return {}
        subjects = []
        for item in items:
            if item["item_id"] in sample:
                record = sample[item["item_id"]]
                told = {name: record[name] for name in ("summary", "claims")}
                subjects.append((item["item_id"], json.dumps({"item": item, "record": told})))
        outcomes = self._asker.ask("judgement", subjects)
        done = [one for one in outcomes if one["status"] == "done"]
        found = opinion(
            (sample[one["subject"]]["claims"], json.loads(one["result"])) for one in done
        )
        log.info("records graded", asked=len(subjects), **found)
        return found

    def _complete_ontologies(self, paths: set[str]) -> Mapping[str, list[dict[str, Any]]]:
        """Ask for what is missing, publish it, and return every category's dimensions."""
        known = self._ontologies()
        missing = sorted(paths - set(known))
        if missing:
            subjects = [(path, json.dumps({"path": path.split(PATH)})) for path in missing]
            outcomes = self._asker.ask("category", subjects)
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

    def _ontologies(self) -> dict[str, list[dict[str, Any]]]:
        is_current = pc.field("prompt_version") == self._ontology_version
        mine = is_current & (pc.field("model") == self.model)
        rows = self._context.lake.read(CATEGORY_ONTOLOGY.name, columns=[*KEY, "dimensions"])
        return {row["category"]: row["dimensions"] for row in rows.filter(mine).to_pylist()}

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
