"""After sequences, graph and knowledge of one night: score with the champion, check, publish.

A refused check (exit 3) publishes nothing and does not retry: yesterday's lists stay readable.
A dry run scores and checks, ends as skipped, and publishes nothing.
"""

from airflow.sdk import Param, PartitionedAssetTimetable, dag

from dags import assets, policies
from dags.command import Command, partition_param
from dags.launch import step


@dag(
    schedule=PartitionedAssetTimetable(
        assets=assets.SEQUENCES & assets.ITEM_GRAPH & assets.ITEM_KNOWLEDGE
    ),
    start_date=policies.START,
    catchup=False,
    default_args=policies.DEFAULT_ARGS,
    deadline=policies.finish_within(hours=6),
    params={
        "partition": partition_param(),
        "top_k": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=1000,
            description="rows per user; empty: recommend.top_k",
        ),
        "dry_run": Param(False, type="boolean", description="score and check, publish nothing"),
    },
    tags=[*policies.TAGS, "ray"],
    doc_md=__doc__,
)
def nightly_recommendations() -> None:
    """Wire one night's publishing."""
    step(
        Command(
            "recommend",
            image="ray",
            flags={"--dry-run": "dry_run"},
            settings={"recommend.top_k": "top_k"},
        ),
        outlets=[assets.RECOMMENDATIONS],
        pool=policies.DELTA_PUBLISH,
    )


nightly_recommendations()
