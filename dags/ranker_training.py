"""Weekly, on the partition that ends a training week: train, evaluate, and promote if better.

The asset `week_of_sequences` starts it, so the last day's sequences and graph exist. By hand:
`airflow dags trigger ranker_training --conf '{"partition": "2026-03-01", "recipe": "smoke"}'`.
A refused promotion (exit 3) fails the run without a retry: the champion stays, the log says why.
"""

from airflow.sdk import Param, PartitionedAssetTimetable, dag

from dags import assets, policies
from dags.command import Command, partition_param
from dags.launch import step


@dag(
    schedule=PartitionedAssetTimetable(assets=assets.WEEK_OF_SEQUENCES),
    start_date=policies.START,
    catchup=False,
    max_active_runs=1,
    default_args=policies.DEFAULT_ARGS,
    deadline=policies.finish_within(hours=24),
    params={
        "partition": partition_param(),
        "recipe": Param(
            None,
            type=["null", "string"],
            pattern="^[a-z][a-z0-9-]*$",
            description="a training recipe, such as smoke or nightly; empty: train.recipe",
        ),
    },
    tags=[*policies.TAGS, "ray", "gpu"],
    doc_md=__doc__,
)
def ranker_training() -> None:
    """Wire one week's training."""
    train = step(
        Command("train-ranker", image="ray", flags={"--recipe": "recipe"}), pool=policies.GPU
    )
    evaluate = step(
        Command("evaluate-ranker", image="ray", fixed={"--model": "reckoner-ranker@challenger"}),
        pool=policies.GPU,
    )
    promote = step(Command("promote-ranker", image="ray"))
    train >> evaluate >> promote


ranker_training()
