"""Weekly: compact, checkpoint and vacuum every table within its retention.

It takes the publish pool, so it never races a night's publish.
"""

from airflow.sdk import CronTriggerTimetable, Param, dag

from dags import policies
from dags.command import Command
from dags.launch import step


@dag(
    schedule=CronTriggerTimetable("0 12 * * 1", timezone="UTC"),
    start_date=policies.START,
    catchup=False,
    max_active_runs=1,
    default_args=policies.DEFAULT_ARGS,
    deadline=policies.finish_within(hours=12),
    params={"dry_run": Param(False, type="boolean", description="say what would be removed")},
    tags=[*policies.TAGS, "maintenance"],
    doc_md=__doc__,
)
def table_maintenance() -> None:
    """Wire one week's upkeep."""
    step(
        Command(
            "maintain-tables", image="spark", partitioned=False, flags={"--dry-run": "dry_run"}
        ),
        pool=policies.DELTA_PUBLISH,
    )


table_maintenance()
