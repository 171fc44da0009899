"""Write what is known of each new or changed item, once per text, prompt and model."""

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from feature_jobs.item_knowledge import MODEL, PROMPT_VERSION, extract_knowledge
from pipelines.catalogue import items_as_of
from pipelines.errors import InputError
from pipelines.io.spark_lake import spark_schema
from pipelines.io.spark_session import spark_session
from pipelines.step import Context, Result
from pipelines.tables import ITEM_KNOWLEDGE

log = structlog.get_logger()

TEXT_COLUMNS = [
    "item_id",
    "title",
    "description",
    "category",
    "brand",
    "attributes",
    "content_hash",
]
KEY = list(ITEM_KNOWLEDGE.key)


def run(context: Context, max_items: int | None) -> Result:
    """Build the records that are missing as of the night; a second run builds none.

    Args:
        context: the step's.
        max_items: stop after that many; the rest is the next night's.

    Raises:
        InputError: the settings ask for a backend that this version does not have.
    """
    backend = context.settings.llm.backend
    if backend != "offline":
        raise InputError(
            f"llm.backend={backend!r} is not available in this version: set "
            "RECKONER_LLM__BACKEND=offline"
        )
    items = items_as_of(context.lake, context.ds, TEXT_COLUMNS, context.settings.items.snapshot)
    pending = _pending(context, items)
    chosen = pending if max_items is None else pending.slice(0, max_items)
    about = {
        "model": MODEL,
        "prompt_version": PROMPT_VERSION,
        "items": items.num_rows,
        "pending": pending.num_rows,
        "left": pending.num_rows - chosen.num_rows,
    }
    log.info("item knowledge", **about)
    if context.dry_run or not chosen.num_rows:
        return about | {"built": 0}
    with spark_session(context.settings.spark, "build-item-knowledge") as spark:
        frame = spark.createDataFrame(chosen.select(TEXT_COLUMNS))
        schema = spark_schema(ITEM_KNOWLEDGE.schema)
        built = extract_knowledge(frame, schema, context.ds).toArrow()
    commit = context.lake.append("item_knowledge", lambda existing: _unknown(built, existing))
    context.run.wrote("item_knowledge", commit.version, commit.rows)
    return about | {"built": commit.rows}


def _pending(context: Context, items: pa.Table) -> pa.Table:
    """Items whose text has no record yet, by id."""
    known = context.lake.read("item_knowledge", columns=KEY)
    mine = known.filter(
        pc.and_(pc.equal(known["prompt_version"], PROMPT_VERSION), pc.equal(known["model"], MODEL))
    )
    keys = ["item_id", "content_hash"]
    # Arrow's join cannot carry lists, so the keys are joined and the rows taken.
    numbered = items.select(keys).append_column("row", pa.array(range(items.num_rows), pa.int64()))
    left = numbered.join(mine.select(keys), keys=keys, join_type="left anti")
    return items.take(left["row"]).sort_by("item_id")


def _unknown(built: pa.Table, existing: pa.Table) -> pa.Table:
    """Drop what another run has written since."""
    numbered = built.select(KEY).append_column("row", pa.array(range(built.num_rows), pa.int64()))
    left = numbered.join(existing.select(KEY), keys=KEY, join_type="left anti")
    return built.take(left["row"].combine_chunks().sort())
