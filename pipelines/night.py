"""All steps of one night in order, and a range of nights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from pipelines.errors import GateRefused, InputError, NotBuiltYet
from pipelines.partition import Partition, partitions_between
from pipelines.settings import Settings
from pipelines.step import Context, Result, open_context, run_step

log = structlog.get_logger()

FAULTS_SHOWN = 3

Train = Literal["auto", "always", "never"]
Body = Callable[[Context], Result]


@dataclass(frozen=True)
class Step:
    """One step of the night."""

    name: str
    body: Body


def run_night(
    settings: Settings,
    ds: str,
    *,
    train: Train = "auto",
    ingest: bool = True,
    dry_run: bool = False,
) -> Result:
    """Run every step of a night; each leaves its own line in `pipeline_runs`.

    A challenger that the gate refuses does not stop the night: the champion goes on scoring. Nor
    does a dry run end where a step wants what an earlier one would have published: it says so.

    Args:
        settings: where sources, lake and engines are.
        ds: the night.
        train: "auto" trains on the night of `train.weekday`, and while there is no champion.
        ingest: read the sources of the settings; otherwise use what the lake holds.
        dry_run: pass on to every step; nothing is published.

    Raises:
        InputError: a step's input is missing or bad.
        GateRefused: the lists did not pass their audit.
    """
    from pipelines.io.cluster import ray_cluster
    from pipelines.io.spark_session import spark_session

    results: dict[str, Any] = {}
    first = [*(_ingest_steps(settings) if ingest else []), *_build_steps()]
    with spark_session(settings.spark, f"night {ds}"):
        _run_all(first, settings, ds, dry_run, results, total=len(first) + 1)
    last = [*(_training_steps() if _training_due(settings, ds, train) else []), _recommend_step()]
    with ray_cluster(settings.ray):
        _run_all(last, settings, ds, dry_run, results, total=len(first) + len(last))
    return {"partition": ds, "steps": results}


def run_range(
    settings: Settings,
    first: Partition,
    last: Partition,
    *,
    stale_only: bool,
    ingest: bool = True,
    dry_run: bool = False,
) -> Result:
    """Rebuild nights in order, without training.

    Args:
        settings: as for a night.
        first: the earliest night.
        last: the latest night, included.
        stale_only: only nights that were built from inputs that have changed since; their sources
            are not read again.
        ingest: read each night's sources again; otherwise use what the lake holds.
        dry_run: say which nights would be rebuilt.

    Raises:
        InputError: a night has no delivery that can be read; nothing was rebuilt.
    """
    nights = list(partitions_between(first, last))
    if stale_only:
        nights = _stale_nights(settings, first, last)
    elif ingest:
        _require_deliveries(settings, nights)
    if dry_run:
        return {"nights": [night.ds for night in nights], "dry_run": True}
    done = []
    for place, night in enumerate(nights, start=1):
        log.info("night", partition=night.ds, number=f"{place}/{len(nights)}")
        run_night(settings, night.ds, train="never", ingest=ingest and not stale_only)
        done.append(night.ds)
    return {"nights": done}


def _run_all(
    steps: list[Step],
    settings: Settings,
    ds: str,
    dry_run: bool,
    results: dict[str, Any],
    total: int,
) -> None:
    for step in steps:
        log.info("night step", step=step.name, number=f"{len(results) + 1}/{total}")
        context = open_context(step.name, settings, ds, dry_run)
        try:
            results[step.name] = run_step(context, step.body)
        except NotBuiltYet as waiting:
            if not dry_run:
                raise
            results[step.name] = {"dry_run": True, "waits_for": str(waiting)}
        except GateRefused as refusal:
            if step.name != "promote-ranker":
                raise
            log.warning("the champion stays", reasons=refusal.reasons)
            results[step.name] = {"promoted": False, "refused": refusal.reasons}


def _require_deliveries(settings: Settings, nights: list[Partition]) -> None:
    """Look at every night's sources before the first is rebuilt: a range takes hours."""
    from pipelines.ingest.plan import Request, plan_delivery

    _ingest_steps(settings)  # says so where no source is set
    faults = {}
    for night in nights:
        try:
            plan_delivery("events", settings.events, Request(), night.ds)
            if settings.items.source is not None:
                plan_delivery("items", settings.items, Request(), night.ds)
        except InputError as fault:
            faults[night.ds] = str(fault)
    if faults:
        shown = "; ".join(f"{ds}: {fault}" for ds, fault in list(faults.items())[:FAULTS_SHOWN])
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise InputError(
            f"{len(faults)} of {len(nights)} nights cannot be ingested, and nothing was rebuilt "
            f"({shown}{more}): deliver them, or pass --no-ingest to rebuild from the lake's events"
        )


def _ingest_steps(settings: Settings) -> list[Step]:
    from pipelines import ingest_events, ingest_items
    from pipelines.ingest.plan import Request

    if settings.events.source is None:
        raise InputError(
            "events.source is not set: name the nightly delivery with RECKONER_EVENTS__SOURCE, "
            "such as /deliveries/{partition}/events.csv; nightly --no-ingest takes what is there"
        )
    steps = [Step("ingest-events", lambda context: ingest_events.run(context, Request()))]
    if settings.items.source is not None:
        steps.append(
            Step(
                "ingest-items",
                # A night without a change to the catalogue is an ordinary one.
                lambda context: ingest_items.run(context, Request(), allow_empty=True),
            )
        )
    return steps


def _build_steps() -> list[Step]:
    from pipelines import build_item_graph, build_item_knowledge, build_sequences

    return [
        Step("build-sequences", build_sequences.run),
        Step("build-item-graph", build_item_graph.run),
        Step("build-item-knowledge", build_item_knowledge.run),
    ]


def _training_steps() -> list[Step]:
    from pipelines import promote_ranker, train_ranker

    return [
        Step("train-ranker", lambda context: train_ranker.run(context, None, {})),
        Step("promote-ranker", promote_ranker.run),
    ]


def _recommend_step() -> Step:
    from pipelines import recommend

    return Step("recommend", recommend.run)


def _training_due(settings: Settings, ds: str, train: Train) -> bool:
    if train != "auto":
        return train == "always"
    if Partition.parse(ds).day.weekday() == settings.train.weekday:
        return True
    from pipelines.io.tracking import CHAMPION, Registry

    return Registry(settings).find(CHAMPION) is None


def _stale_nights(settings: Settings, first: Partition, last: Partition) -> list[Partition]:
    from pipelines.lineage import stale_nights

    context = open_context("backfill", settings)
    return stale_nights(context.lake, settings, first, last)
