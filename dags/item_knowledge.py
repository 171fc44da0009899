"""After each night's sequences: knowledge for new and changed items, then vectors, same partition.

Items whose content hash, prompt version and model already have an answer cost nothing, and a text
that has a vector is not encoded again, so a rerun is cheap. The pool `llm_api` bounds what all runs
together ask of the endpoint; vectors are made outside it, where torch is.
"""

from airflow.sdk import Param, PartitionedAssetTimetable, dag

from dags import assets, policies
from dags.command import Command, partition_param
from dags.launch import step


@dag(
    schedule=PartitionedAssetTimetable(assets=assets.SEQUENCES),
    start_date=policies.START,
    catchup=False,
    default_args=policies.DEFAULT_ARGS,
    deadline=policies.finish_within(hours=4),
    params={
        "partition": partition_param(),
        "max_items": Param(
            None, type=["null", "integer"], minimum=1, description="items asked about at most"
        ),
        "max_tokens": Param(
            None, type=["null", "integer"], minimum=1, description="tokens spent at most"
        ),
        "max_cost_usd": Param(
            None, type=["null", "number"], minimum=0, description="money spent at most"
        ),
    },
    tags=[*policies.TAGS, "llm"],
    doc_md=__doc__,
)
def item_knowledge() -> None:
    """Wire one night's item knowledge and vectors."""
    knowledge = step(
        Command(
            "build-item-knowledge",
            image="spark",
            fixed={"--part": "knowledge"},
            flags={
                "--max-items": "max_items",
                "--max-tokens": "max_tokens",
                "--max-cost-usd": "max_cost_usd",
            },
        ),
        pool=policies.LLM_API,
    )
    vectors = step(
        Command("build-item-knowledge", image="ray", fixed={"--part": "vectors"}),
        task_id="build-item-vectors",
        outlets=[assets.ITEM_KNOWLEDGE],
    )
    knowledge >> vectors


item_knowledge()
