"""Write what is known of each new or changed item, once per text, prompt and model."""

from dataclasses import asdict

import pyarrow as pa
import structlog

from pipelines.catalogue import items_as_of
from pipelines.errors import InputError, ServiceUnavailable
from pipelines.knowledge.backends import Backend, Built, Caps, open_backend
from pipelines.knowledge.quota import Stop
from pipelines.knowledge.selection import most_wanted_first, pending, unknown
from pipelines.step import Context, Result
from pipelines.tables import ITEM_KNOWLEDGE, ITEM_KNOWLEDGE_FAILED, KNOWLEDGE_KEY

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
KEY = list(KNOWLEDGE_KEY)


def run(context: Context, caps: Caps | None = None, retry_failed: bool = False) -> Result:
    """Build the records that are missing as of the night; a second run builds none.

    Args:
        context: the step's.
        caps: where to stop; the rest is the next night's.
        retry_failed: ask again about items that failed because the service did not answer.

    Raises:
        InputError: a setting is missing or wrong.
        ServiceUnavailable: the endpoint stayed away; what was complete by then is published.
    """
    caps = caps or Caps()
    backend = open_backend(context, caps)
    try:
        return _run(context, backend, caps, retry_failed)
    finally:
        backend.close()


def _run(context: Context, backend: Backend, caps: Caps, retry_failed: bool) -> Result:
    snapshot = context.settings.items.snapshot
    items = items_as_of(context.lake, context.ds, TEXT_COLUMNS, snapshot)
    todo = pending(context, items, backend.prompt_version, backend.model, retry_failed)
    if context.settings.llm.backend != "offline" or caps.max_items is not None:
        todo = most_wanted_first(context, todo)
    chosen = todo.slice(0, caps.max_items) if caps.max_items is not None else todo
    about: Result = {
        "backend": context.settings.llm.backend,
        "model": backend.model,
        "prompt_version": backend.prompt_version,
        "items": items.num_rows,
        "pending": todo.num_rows,
    }
    if context.dry_run:
        expected = {f"expected_{k}": v for k, v in asdict(backend.estimate(chosen)).items()}
        log.info("item knowledge", **about, **expected)
        return about | expected | {"built": 0, "failed": 0, "left": todo.num_rows}
    log.info("item knowledge", **about)
    built = failed = 0
    stop: Stop | None = None
    for first in range(0, chosen.num_rows, backend.round_items):
        made = backend.build(chosen.slice(first, backend.round_items))
        _publish(context, made, retry_failed)
        built, failed, stop = (
            built + made.records.num_rows,
            failed + made.failed.num_rows,
            made.stop,
        )
        about |= made.notes
        if stop is not None:
            break
    about |= {"built": built, "failed": failed, "left": todo.num_rows - built - failed}
    about["stopped"] = stop.why if stop else None
    _raise(context, stop, about)
    return about


def _raise(context: Context, stop: Stop | None, about: Result) -> None:
    """End with the stop's exit code; a reached cap is an ordinary end."""
    if stop is None or stop.kind == "budget":
        return
    rest = f"{about['built']} records were published, {about['left']} items are left"
    if stop.kind == "input":
        raise InputError(f"{stop.why}; {rest}")
    raise ServiceUnavailable(f"{context.settings.llm.base_url}: {stop.why}; {rest}")


def _publish(context: Context, made: Built, retry_failed: bool) -> None:
    """Commit a round; only complete and validated records reach `item_knowledge`."""
    lake = context.lake
    if made.records.num_rows:
        lake.require_unique(ITEM_KNOWLEDGE.name, None, made.records)
        commit = lake.append(
            ITEM_KNOWLEDGE.name, lambda there: unknown(made.records, there, KEY), KEY
        )
        context.run.wrote(ITEM_KNOWLEDGE.name, commit.version, commit.rows)
    if retry_failed:
        _forget_failures(context, made)
    if made.failed.num_rows:
        lake.publish_merged(
            ITEM_KNOWLEDGE_FAILED.name,
            context.ds,
            lambda there: pa.concat_tables(
                [there.select(made.failed.column_names), unknown(made.failed, there, KEY)]
            ),
        )


def _forget_failures(context: Context, made: Built) -> None:
    """Take out the earlier failures of items that have been asked about again."""
    lake, name = context.lake, ITEM_KNOWLEDGE_FAILED.name
    again = pa.concat_tables([made.records.select(KEY), made.failed.select(KEY)])
    for ds in lake.partitions(name):
        lake.publish_merged(name, ds, lambda there: unknown(there.drop_columns("ds"), again, KEY))
