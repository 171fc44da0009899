"""Write what is known of new and changed items, once per text, prompt and model; then vectors."""

from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.catalogue import items_as_of
from pipelines.knowledge.backends import Backend, Built, Caps, open_backend
from pipelines.knowledge.judging import SUBJECT, quality
from pipelines.knowledge.quota import Stop
from pipelines.knowledge.selection import most_wanted_first, pending, unknown
from pipelines.model_rounds import end_as_stopped, judge_round
from pipelines.step import Context, Result
from pipelines.tables.knowledge import ITEM_KNOWLEDGE, ITEM_KNOWLEDGE_FAILED, KNOWLEDGE_KEY

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
Part = Literal["all", "knowledge", "vectors"]


@dataclass(frozen=True)
class Wishes:
    """What a person may ask of one run.

    Attributes:
        caps: where to stop; the rest is the next night's.
        retry_failed: ask again about items that failed because the service did not answer.
        accept: publish also what is judged worse than the last accepted round.
        part: "knowledge" leaves the vectors to another call, "vectors" asks nobody.
        refit: fit anew what was fitted on vectors once, for this night and later ones.
    """

    caps: Caps = Caps()
    retry_failed: bool = False
    accept: bool = False
    part: Part = "all"
    refit: bool = False


def run(context: Context, wishes: Wishes | None = None) -> Result:
    """Build the records that are missing as of the night, then vectors of the night's texts.

    A second run builds no record and encodes no text.

    Raises:
        InputError: a setting is missing or wrong.
        GateRefused: a round is worse than the last accepted one; it is not published.
        ServiceUnavailable: the endpoint stayed away; what was complete by then is published.
    """
    wishes = wishes or Wishes()
    about: Result = {}
    stop: Stop | None = None
    if wishes.part != "vectors":
        backend = open_backend(context, wishes.caps)
        try:
            about, stop = _run(context, backend, wishes)
        finally:
            backend.close()
    if wishes.part != "knowledge":
        about |= _vectors(context, wishes)
    if stop is not None:
        rest = f"{about['built']} records were published, {about['left']} items are left"
        end_as_stopped(context, stop, rest)
    return about


def _vectors(context: Context, wishes: Wishes) -> Result:
    """Build the night's vectors and codes, from whatever knowledge there is by now."""
    from pipelines import build_item_vectors, build_semantic_ids

    about: Result = {}
    for name, step in (("vectors", build_item_vectors), ("semantic_ids", build_semantic_ids)):
        seen = dict(context.run.input_versions)
        about[name] = step.run(context, refit=wishes.refit)
        # Each derived table begins a record of its own; the step's is all of them.
        context.run.input_versions = seen | context.run.input_versions
    return about


def _run(context: Context, backend: Backend, wishes: Wishes) -> tuple[Result, Stop | None]:
    caps, retry_failed = wishes.caps, wishes.retry_failed
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
        return about | expected | {"built": 0, "failed": 0, "left": todo.num_rows}, None
    log.info("item knowledge", **about)
    built = failed = 0
    stop: Stop | None = None
    for first in range(0, chosen.num_rows, backend.round_items):
        made = backend.build(chosen.slice(first, backend.round_items))
        _judge(context, made, wishes.accept)
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
    return about, stop


def _judge(context: Context, made: Built, accept: bool) -> None:
    """Judge a round of reasoned records, where it is large enough to tell."""
    judged = pc.sum(pc.is_valid(made.records["claims"])).as_py() or 0
    if judged < context.settings.knowledge.min_records:
        return
    refusal = (
        "item knowledge is worse than the last accepted; correct the prompts or the model, or "
        "publish it all the same with --accept"
    )
    found = asdict(quality(made.records, made.failed)) | made.opinion
    judge_round(context, SUBJECT, found, context.lake, accept=accept, refusal=refusal)


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
