"""Daily: events and items in, behaviour sequences and the item graph out.

Rebuild a range: `airflow backfill create --dag-id behaviour_sequences --from-date A --to-date B`;
the downstream DAGs follow with the same partition keys. See docs/operations.md.
"""

from typing import Any

from airflow.sdk import CronPartitionTimetable, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import assets, policies
from dags.command import Command, announce, partition_of, partition_param
from dags.launch import step


@dag(
    # Midnight, so that plain backfill dates include the last day; the key is the day that closed.
    schedule=CronPartitionTimetable(
        "0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"
    ),
    start_date=policies.START,
    catchup=False,
    max_active_runs=4,
    default_args=policies.DEFAULT_ARGS,
    deadline=policies.finish_within(hours=3),
    params={"partition": partition_param()},
    tags=[*policies.TAGS, "spark"],
    doc_md=__doc__,
)
def behaviour_sequences() -> None:
    """Wire one night's feature build."""
    ingest_events = step(Command("ingest-events", image="spark"), outlets=[assets.EVENTS])
    ingest_items = step(Command("ingest-items", image="spark"), outlets=[assets.ITEMS])
    sequences = step(Command("build-sequences", image="spark"), outlets=[assets.SEQUENCES])
    graph = step(Command("build-item-graph", image="spark"), outlets=[assets.ITEM_GRAPH])

    @task(task_id="close-week", outlets=[assets.WEEK_OF_SEQUENCES])
    def close_week() -> None:
        """Succeed on a training week's last day only, which starts the ranker's training."""
        from pipelines.partition import Partition
        from pipelines.settings import load_settings

        context: Any = get_current_context()
        partition, weekday = partition_of(context), load_settings().train.weekday
        if Partition.parse(partition).day.weekday() != weekday:
            raise AirflowSkipException(f"{partition} does not end a training week")
        announce(context)

    [ingest_events, ingest_items] >> sequences >> graph >> close_week()


behaviour_sequences()
