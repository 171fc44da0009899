"""Find what people are interested in, and publish only what their own history bears out."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.catalogue import items_as_of
from pipelines.histories import require_sequences
from pipelines.item_index import ids_by_index
from pipelines.knowledge.backends import Caps
from pipelines.knowledge.interest_backends import (
    Catalogue,
    InterestBackend,
    Person,
    Told,
    open_interest_backend,
)
from pipelines.knowledge.interests import interest_quality, unusable
from pipelines.knowledge.user_history import compress, is_reliable, told_until
from pipelines.lineage import use_settings
from pipelines.model_rounds import end_as_stopped, judge_round
from pipelines.step import Context, Result
from pipelines.tables.knowledge import USER_INTERESTS, USER_INTERESTS_FAILED

log = structlog.get_logger()

TABLE, FAILED = USER_INTERESTS.name, USER_INTERESTS_FAILED.name
ROUND_PEOPLE = 20_000


@dataclass(frozen=True)
class Wishes:
    """What a person may ask of one run.

    Attributes:
        caps: where to stop; `max_items` counts people.
        accept: publish also what is judged worse than the last accepted round.
    """

    caps: Caps = Caps()
    accept: bool = False


def run(context: Context, wishes: Wishes | None = None) -> Result:
    """Build the context's partition of `user_interests`.

    People whom a cap leaves out keep what an earlier run of the same night found.

    Raises:
        InputError: the night has no sequences, or a setting is missing.
        GateRefused: a round is worse than the last accepted one; it is not published.
        ServiceUnavailable: the endpoint stayed away; what was complete by then is published.
    """
    wishes = wishes or Wishes()
    require_sequences(context.lake, context.ds)
    use_settings(context.run, context.settings, "interests")
    items = _catalogue(context)
    people, skipped = _people(context, items)
    chosen = people[: wishes.caps.max_items]
    backend = open_interest_backend(context, items, wishes.caps)
    try:
        about: Result = {
            "backend": context.settings.llm.backend,
            "model": backend.model,
            "prompt_version": backend.prompt_version,
            "people": len(people),
            "too_little_history": skipped,
        }
        if context.dry_run:
            expected = {f"expected_{k}": v for k, v in asdict(backend.estimate(chosen)).items()}
            log.info("user interests", **about, **expected)
            return about | expected | {"told": 0, "failed": 0, "left": len(people)}
        log.info("user interests", **about)
        return _tell(context, backend, wishes, about, people, chosen)
    finally:
        backend.close()


def _tell(
    context: Context,
    backend: InterestBackend,
    wishes: Wishes,
    about: Result,
    people: list[Person],
    chosen: list[Person],
) -> Result:
    """Work through the people round by round, and end as the last round did."""
    told = failed = interests = 0
    last = Told({})
    for first in range(0, len(chosen), ROUND_PEOPLE):
        last = backend.tell(chosen[first : first + ROUND_PEOPLE])
        _judge(context, last, wishes.accept)
        _publish(context, backend, last, {one.user_id for one in people})
        told, failed = told + len(last.found), failed + len(last.failed)
        interests += sum(map(len, last.found.values()))
        log.info("told", people=f"{told + failed}/{len(chosen)}", interests=interests)
        if last.stop is not None:
            break
    if not chosen:
        _publish(context, backend, last, set())
    about |= last.notes
    about |= {"told": told, "interests": interests, "failed": failed}
    about |= {"left": len(people) - told - failed}
    about["stopped"] = last.stop.why if last.stop else None
    if last.stop is not None:
        end_as_stopped(context, last.stop, f"{told} people are told, {about['left']} are left")
    return about


def _catalogue(context: Context) -> Catalogue:
    columns = ["item_id", "title", "category", "brand"]
    items = items_as_of(context.lake, context.ds, columns, context.settings.items.snapshot)
    return {row["item_id"]: row for row in items.to_pylist()}


def _people(context: Context, items: Catalogue) -> tuple[list[Person], int]:
    """Compress every history; those who did most come first. Says how many have too little."""
    settings = context.settings.interests
    names = ids_by_index(context.lake)
    people, skipped = [], 0
    for row in _sequences(context):
        events = [
            (names[item], action, ts)
            for item, action, ts in zip(row["item_idx"], row["action"], row["ts"], strict=True)
            if is_reliable(action, settings)
        ]
        assert context.partition is not None
        until = told_until(row["user_id"], context.partition.day, settings.refresh_days)
        earlier = [event for event in events if event[2] < until]
        if len({item for item, _, _ in earlier}) < settings.min_items:
            earlier = events  # somebody new is told of at once
        lines = compress(earlier, items, settings)
        if len(lines) < settings.min_items:
            skipped += 1
            continue
        people.append(Person(row["user_id"], lines))
    people.sort(key=lambda one: (-sum(line.times for line in one.lines), one.user_id))
    return people, skipped


def _sequences(context: Context) -> Iterator[Mapping[str, Any]]:
    """Stream the night's histories."""
    lake, ds = context.lake, context.ds
    lake.run.used("sequences", ds, lake.content("sequences", ds))
    dataset = lake.dataset("sequences", ds)
    for batch in dataset.to_batches(columns=["user_id", "item_idx", "action", "ts"]):
        yield from batch.to_pylist()


def _judge(context: Context, told: Told, accept: bool) -> None:
    """Judge a model's round, where it is large enough to tell."""
    reasons = [failure["reason"] for failure in told.failed.values()]
    least = context.settings.knowledge.min_records
    if told.judged is None or len(told.judged) + unusable(reasons) < least:
        return
    # What was noted decides whether to publish, not what: it is no input.
    earlier = context.lake.unrecorded()
    refusal = (
        "user interests are worse than the last accepted; correct the prompt or the model, or "
        "publish them all the same with --accept"
    )
    found = interest_quality(told.judged, reasons)
    judge_round(context, TABLE, found, earlier, accept=accept, refusal=refusal)


def _publish(context: Context, backend: InterestBackend, told: Told, people: set[str]) -> None:
    """Replace what the night says of these people; of others in the night it says what it said."""
    lake, ds = context.lake, context.ds
    mark = {"prompt_version": backend.prompt_version, "model": backend.model}
    found = [
        {"user_id": user} | one | mark for user in sorted(told.found) for one in told.found[user]
    ]
    failed = [{"user_id": user} | told.failed[user] | mark for user in sorted(told.failed)]
    ended = set(told.found) | set(told.failed)
    for contract, rows in ((USER_INTERESTS, found), (USER_INTERESTS_FAILED, failed)):
        made = pa.Table.from_pylist(rows, schema=contract.stored)

        def merge(there: pa.Table, made: pa.Table = made) -> pa.Table:
            stay = pa.array(sorted(people - ended), pa.string())
            kept = there.filter(pc.is_in(there["user_id"], value_set=stay))
            current = pc.and_(
                pc.equal(kept["model"], backend.model),
                pc.equal(kept["prompt_version"], backend.prompt_version),
            )
            return pa.concat_tables([kept.filter(current).select(made.column_names), made])

        lake.publish_merged(contract.name, ds, merge)
