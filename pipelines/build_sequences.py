"""Assemble behaviour sequences as of the end of a night, from yesterday's where that is exact."""

from dataclasses import dataclass

import pyarrow as pa
import structlog
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_jobs.sequences import (
    LISTS,
    SequenceRules,
    keep_actions,
    list_events,
    merge_day,
    with_length,
)
from pipelines.errors import NotBuiltYet
from pipelines.io.spark_lake import executor_errors, read_index, read_table, stage_frame
from pipelines.io.spark_session import spark_session
from pipelines.item_index import ensure_indexed, load_index, unseen
from pipelines.lineage import SETTINGS, Lineage, use_settings, use_window
from pipelines.partition import Partition
from pipelines.rebuild import Built, publish_derived
from pipelines.settings.groups import SequenceSettings
from pipelines.step import Context, Result
from pipelines.tables.behaviour import SEQUENCES

log = structlog.get_logger()

TABLE = SEQUENCES.name
EVENT_COLUMNS = ("user_id", "item_id", "action", "ts", "position")
# Up to so many events of a day are sent to every executor instead of shuffling yesterday.
BROADCAST_EVENTS = 1_000_000


def run(context: Context, *, cascade: bool = True, from_scratch: bool = False) -> Result:
    """Build the context's partition of `sequences`.

    Args:
        context: names the partition and the lake.
        cascade: also rebuild later partitions that are stale afterwards.
        from_scratch: read the whole lookback even where yesterday's partition would do.

    Raises:
        NotBuiltYet: nothing was ever ingested.
        InputError: a data file is corrupt.
    """
    if not context.lake.exists("events"):
        raise NotBuiltYet(
            f"the lake {context.lake.uri} has no events: run reckoner ingest-events "
            f"--partition {context.ds} first"
        )
    with spark_session(context.settings.spark, f"build-sequences {context.ds}") as spark:
        assembly = Assembly(context, spark, from_scratch)
        return publish_derived(context, TABLE, assembly.build, cascade=cascade)


def sequence_rules(settings: SequenceSettings) -> SequenceRules:
    """The part of the settings that the Spark job needs."""
    return SequenceRules(
        max_length=settings.max_length,
        actions=settings.actions,
        collapse_repeats=settings.collapse_repeats,
        session_gap_minutes=settings.session_gap_minutes,
        min_session_length=settings.min_session_length,
    )


@dataclass(frozen=True)
class Assembly:
    """How one run builds partitions of `sequences`."""

    context: Context
    spark: SparkSession
    from_scratch: bool = False

    @property
    def rules(self) -> SequenceRules:
        """What the settings keep."""
        return sequence_rules(self.context.settings.sequences)

    def build(self, night: Partition) -> Built:
        """Work a partition out and publish it, unless this is a dry run."""
        use_settings(self.context.run, self.context.settings, TABLE)
        merges = not self.from_scratch and self._can_merge(night)
        days = [night] if merges else self._lookback(night)
        events = self._events(days)
        index, new_items = self._index(events, night)
        log.info("assembling", ds=night.ds, merges_yesterday=merges, new_items=new_items)
        lists = list_events(events, index, self.rules)
        if not merges:
            return self._publish(night, lists, {"built": "from scratch", "new_items": new_items})
        lists.persist()
        try:
            merged = self._merged(night, lists)
            return self._publish(night, merged, {"built": "merged", "new_items": new_items})
        finally:
            lists.unpersist()

    def _can_merge(self, night: Partition) -> bool:
        """Say whether yesterday's partition is there, is fresh and follows the same settings."""
        if not self.context.settings.sequences.merge_yesterday or self.rules.drops_sessions:
            return False
        yesterday = night.back(1).ds
        lineage = Lineage(self.context.lake, self.context.settings)
        # A fresh partition that recorded its settings was built under the present ones.
        same_settings = f"{SETTINGS}/{TABLE}" in lineage.recorded(TABLE, yesterday)
        return same_settings and lineage.is_fresh(TABLE, yesterday)

    def _lookback(self, night: Partition) -> list[Partition]:
        first = night.back(self.context.settings.sequences.lookback_days - 1)
        present = use_window(self.context.lake, "events", first, night)
        return [Partition.parse(ds) for ds in present]

    def _events(self, days: list[Partition]) -> DataFrame:
        names = [day.ds for day in days]
        events = read_table(self.spark, self.context.lake, "events", names, EVENT_COLUMNS)
        return keep_actions(events, self.rules)

    def _index(self, events: DataFrame, night: Partition) -> tuple[DataFrame, int]:
        """Index the events' items; a dry run numbers the new ones without publishing them."""
        lake = self.context.lake
        with executor_errors():
            items = events.select("item_id").distinct().toArrow()["item_id"]
        if self.context.dry_run:
            index = load_index(lake)
            new = unseen(index, items, night.ds)
            index = pa.concat_tables([index, new]).select(["item_id", "item_idx"])
            return self.spark.createDataFrame(index), new.num_rows
        new_items = ensure_indexed(lake, items, night.ds)
        return read_index(self.spark, lake), new_items

    def _merged(self, night: Partition, today: DataFrame) -> DataFrame:
        lake, settings = self.context.lake, self.context.settings.sequences
        with executor_errors():
            counted = today.agg(F.sum(F.size("item_idx"))).first()
        num_events = (counted and counted[0]) or 0
        yesterday = [night.back(1).ds]
        return merge_day(
            read_table(self.spark, lake, TABLE, yesterday, ["user_id", *LISTS]),
            read_table(self.spark, lake, TABLE, yesterday, ["user_id"]),
            today,
            self.rules,
            night.back(settings.lookback_days - 1).start,
            few_users=num_events <= BROADCAST_EVENTS,
        )

    def _publish(self, night: Partition, lists: DataFrame, details: Result) -> Built:
        frame = with_length(lists)
        if self.context.dry_run:
            with executor_errors():
                return Built(frame.count(), None, details)
        staged = stage_frame(frame, self.context.lake, TABLE, night.ds)
        commit = self.context.lake.commit(TABLE, night.ds, staged)
        return Built(sum(piece.rows for piece in staged), commit, details)
