"""Who makes item knowledge: the interface, and the two backends that need no requests."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from feature_jobs.item_knowledge import MODEL, PROMPT_VERSION, extract_knowledge, knowledge_row
from pipelines.errors import InputError
from pipelines.knowledge.estimate import Estimate
from pipelines.knowledge.item_text import require_summary
from pipelines.knowledge.quota import Stop
from pipelines.settings.groups import LlmSettings
from pipelines.step import Context
from pipelines.tables.knowledge import ITEM_KNOWLEDGE, ITEM_KNOWLEDGE_FAILED

MAX_RECORDED_WORDS = 60
SHOWN_CHARS = 4000


@dataclass(frozen=True)
class Caps:
    """Hard bounds of a run; None where there is none."""

    max_items: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None


@dataclass(frozen=True)
class Built:
    """What a backend made of a round of items.

    Attributes:
        records: rows of `item_knowledge`.
        failed: rows of `item_knowledge_failed`.
        stop: why no further round should begin; None where one may.
        notes: figures for the step's result.
        opinion: what a model makes of a sample of the records; see `second_opinion.opinion`.
    """

    records: pa.Table
    failed: pa.Table
    stop: Stop | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    opinion: dict[str, float] = field(default_factory=dict)


class Backend(Protocol):
    """Makes records of items, each marked with its prompt version and model."""

    prompt_version: str
    model: str
    round_items: int

    def estimate(self, items: pa.Table) -> Estimate:
        """Say what `build` would ask for."""
        ...

    def build(self, items: pa.Table) -> Built:
        """Make records of a round of items, the most wanted first."""
        ...

    def close(self) -> None:
        """Let go of what the rounds shared."""
        ...


def open_backend(context: Context, caps: Caps) -> Backend:
    """Open the backend that `llm.backend` names.

    Raises:
        InputError: a setting that it needs is missing.
    """
    llm = context.settings.llm
    if llm.backend == "offline":
        return OfflineBackend(context)
    require_model(llm, caps)
    if llm.backend == "recorded":
        from pipelines.io.llm_recorded import BY_ITEM, read_recorded

        recorded = read_recorded(llm)
        if BY_ITEM in recorded.column_names:
            return RecordedTexts(context, recorded)
    from pipelines.knowledge.reasoning_backend import ReasoningBackend

    return ReasoningBackend(context, caps)


def require_model(llm: LlmSettings, caps: Caps) -> None:
    """Refuse a backend that asks a model without what it needs for that.

    Raises:
        InputError: a setting is missing.
    """
    if not llm.model:
        raise InputError(f"llm.backend={llm.backend} needs a model's name: set RECKONER_LLM__MODEL")
    if llm.backend == "http" and not llm.base_url:
        raise InputError("llm.backend=http needs an endpoint: set RECKONER_LLM__BASE_URL")
    if caps.max_cost_usd is not None and not llm.price_per_million_in + llm.price_per_million_out:
        raise InputError(
            "--max-cost-usd needs prices: set RECKONER_LLM__PRICE_PER_MILLION_IN and _OUT"
        )


class OfflineBackend:
    """Reads an item's own text, on Spark; asks nobody."""

    prompt_version = PROMPT_VERSION
    model = MODEL
    round_items = 1_000_000

    def __init__(self, context: Context) -> None:
        self._context = context

    def estimate(self, items: pa.Table) -> Estimate:
        """Nothing is asked."""
        return Estimate(0, 0, 0, 0.0)

    def build(self, items: pa.Table) -> Built:
        """Extract every item's record."""
        from pipelines.io.spark_lake import spark_schema
        from pipelines.io.spark_session import spark_session

        with spark_session(self._context.settings.spark, "build-item-knowledge") as spark:
            frame = spark.createDataFrame(items)
            schema = spark_schema(pa.schema(list(ITEM_KNOWLEDGE.schema)[:-1]))
            built = extract_knowledge(frame, schema, self._context.ds).toArrow()
        claims = pa.nulls(built.num_rows, ITEM_KNOWLEDGE.schema.field("claims").type)
        return Built(built.append_column("claims", claims), no_failures())

    def close(self) -> None:
        """Nothing is shared."""


class RecordedTexts:
    """Takes over texts that a model wrote about items elsewhere, where they are worth it.

    The text becomes the summary of a record that otherwise holds what the item's own text states.
    Refusals, empty and over-long texts, other languages and mere repetitions of the title fail.
    Items without a recorded text wait.
    """

    prompt_version = "recorded-1"
    round_items = 1_000_000

    def __init__(self, context: Context, recorded: pa.Table) -> None:
        assert context.settings.llm.model is not None
        self.model = context.settings.llm.model
        self._context = context
        self._texts: dict[str, list[str]] = {}
        column = recorded[context.settings.llm.recorded_column]
        for item, text in zip(recorded["item_id"].to_pylist(), column.to_pylist(), strict=True):
            self._texts.setdefault(str(item), []).append(str(text or ""))

    def estimate(self, items: pa.Table) -> Estimate:
        """Nothing is asked."""
        return Estimate(0, 0, 0, 0.0)

    def build(self, items: pa.Table) -> Built:
        """Parse each item's recorded texts; the first usable one counts."""
        llm, ds = self._context.settings.llm, self._context.ds
        records, failed, repeated = [], [], 0
        for item in items.to_pylist():
            texts = self._texts.get(item["item_id"])
            if texts is None:
                continue
            repeated += len(texts) > 1
            summary, reason = first_usable(texts, item["title"], llm)
            key = {name: item[name] for name in ("item_id", "content_hash")}
            key |= {"prompt_version": self.prompt_version, "model": self.model}
            if summary is None:
                shown = texts[-1][:SHOWN_CHARS]
                spent = {"tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0}
                told = {"reason": reason, "attempts": len(texts), "last_answer": shown}
                failed.append(key | told | spent)
                continue
            row = knowledge_row(item, ds) | key
            records.append(row | {"summary": summary, "status": "recorded", "claims": None})
        known = pa.array(sorted(self._texts), pa.string())
        without = items.num_rows - pc.sum(pc.is_in(items["item_id"], value_set=known)).as_py()
        return Built(
            pa.Table.from_pylist(records, schema=ITEM_KNOWLEDGE.stored),
            pa.Table.from_pylist(failed, schema=ITEM_KNOWLEDGE_FAILED.stored),
            notes={"not_recorded": without, "recorded_more_than_once": repeated},
        )

    def close(self) -> None:
        """Nothing is shared."""


def first_usable(texts: list[str], title: str, llm: LlmSettings) -> tuple[str | None, str]:
    """Find the first text that can be a summary; else say what was wrong with the last."""
    reason = "recorded: there is no text"
    for text in texts:
        try:
            return require_summary(
                recorded_text(text), llm.language, MAX_RECORDED_WORDS, [title]
            ), ""
        except ValueError as error:
            reason = f"recorded: {error}"
    return None, reason


def recorded_text(text: str) -> str:
    """Take the text out of a `[description]` or `summary:` wrapping, cut at 60 words' sentence."""
    bare = " ".join(text.split())
    for lead in ("[description]", "[summary]", "description:", "summary:"):
        if bare.lower().startswith(lead):
            bare = bare[len(lead) :].strip()
    words = bare.split()
    if len(words) <= MAX_RECORDED_WORDS:
        return bare
    head = " ".join(words[:MAX_RECORDED_WORDS])
    end = max(head.rfind(mark) for mark in (". ", "! ", "? "))
    return head[: end + 1] if end > 0 else bare


def no_failures() -> pa.Table:
    """No rows of `item_knowledge_failed`."""
    return ITEM_KNOWLEDGE_FAILED.stored.empty_table()
