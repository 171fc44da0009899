"""Build the item graph as of a night from its sequences."""

from dataclasses import dataclass

import structlog
from pyspark.sql import DataFrame, SparkSession

from feature_jobs.item_graph import (
    SWING,
    TRANSITION,
    SwingRules,
    swing,
    top_neighbours,
    transitions,
)
from pipelines.errors import NotBuiltYet
from pipelines.io.spark_lake import executor_errors, read_index, read_table, stage_frame
from pipelines.io.spark_session import spark_session
from pipelines.lineage import use_settings
from pipelines.partition import Partition
from pipelines.rebuild import Built, publish_derived
from pipelines.settings.groups import GraphSettings
from pipelines.step import Context, Result
from pipelines.tables.behaviour import ITEM_GRAPH

log = structlog.get_logger()

TABLE = ITEM_GRAPH.name


def run(context: Context, *, cascade: bool = True) -> Result:
    """Build the context's partition of `item_graph`.

    Args:
        context: names the partition and the lake.
        cascade: also rebuild later partitions that are stale afterwards.

    Raises:
        NotBuiltYet: the night has no sequences.
        InputError: a data file is corrupt.
    """
    if context.ds not in context.lake.published("sequences"):
        raise NotBuiltYet(
            f"table sequences has no partition {context.ds}: run reckoner build-sequences "
            f"--partition {context.ds} first"
        )
    with spark_session(context.settings.spark, f"build-item-graph {context.ds}") as spark:
        return publish_derived(context, TABLE, Drawing(context, spark).build, cascade=cascade)


def swing_rules(settings: GraphSettings) -> SwingRules:
    """The part of the settings that swing needs."""
    return SwingRules(
        alpha1=settings.swing_alpha1,
        alpha2=settings.swing_alpha2,
        beta=settings.swing_beta,
        min_common_users=settings.min_common_users,
        max_user_pairs=settings.max_user_pairs,
        max_users_per_item=settings.max_users_per_item,
        max_items_per_user=settings.max_items_per_user,
    )


@dataclass(frozen=True)
class Drawing:
    """How one run builds partitions of `item_graph`."""

    context: Context
    spark: SparkSession

    def build(self, night: Partition) -> Built:
        """Work a partition out and publish it, unless this is a dry run."""
        lake, settings = self.context.lake, self.context.settings.graph
        use_settings(self.context.run, self.context.settings, "graph")
        log.info("drawing", ds=night.ds)
        names = ["user_id", "item_idx"]
        sequences = read_table(self.spark, lake, "sequences", [night.ds], names).persist()
        index = read_index(self.spark, lake)
        followed = top_neighbours(transitions(sequences), index, TRANSITION, settings.neighbours)
        similar = swing(sequences, index, swing_rules(settings))
        similar = top_neighbours(similar, index, SWING, settings.neighbours)
        try:
            return self._publish(night, followed.unionByName(similar))
        finally:
            sequences.unpersist()

    def _publish(self, night: Partition, graph: DataFrame) -> Built:
        if self.context.dry_run:
            with executor_errors():
                return Built(graph.count(), None)
        staged = stage_frame(graph, self.context.lake, TABLE, night.ds)
        commit = self.context.lake.commit(TABLE, night.ds, staged)
        return Built(sum(piece.rows for piece in staged), commit)
