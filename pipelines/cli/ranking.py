"""Training, the gate and the published lists, one command each."""

from typing import Annotated

import typer

from pipelines.cli.app import app
from pipelines.cli.options import DryRun, Json, Lake, PartitionOption, execute, key_values


@app.command("train-ranker")
def train_ranker(
    partition: PartitionOption,
    recipe: Annotated[
        str | None,
        typer.Option(help="smoke, nightly, large or a ranker's name; default: train.recipe."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting of the recipe, key=value; repeatable."),
    ] = None,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe on a night's sequences and register it as challenger.

    Example: reckoner train-ranker --partition 2026-03-01 --recipe nightly --set dim=128
    """
    from pipelines import train_ranker as step

    overrides = key_values(settings)
    execute(
        "train-ranker",
        lambda context: step.run(context, recipe, overrides),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command("evaluate-ranker")
def evaluate_ranker(
    partition: PartitionOption,
    model: Annotated[str, typer.Option(help="NAME@ALIAS_OR_VERSION.")],
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Judge a registered version on a night's test users.

    Example: reckoner evaluate-ranker --partition 2026-03-01 --model reckoner-ranker@champion
    """
    from pipelines import evaluate_ranker as step

    execute(
        "evaluate-ranker",
        lambda context: step.run(context, model),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
        render=step.render_evaluation,
    )


@app.command("promote-ranker")
def promote_ranker(
    partition: PartitionOption,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Promote the challenger where the gate lets it pass; exit 3 with reasons where not.

    Example: reckoner promote-ranker --partition 2026-03-01 --dry-run
    """
    from pipelines import promote_ranker as step

    execute(
        "promote-ranker",
        step.run,
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command("rollback-ranker")
def rollback_ranker(lake: Lake = None, as_json: Json = False, dry_run: DryRun = False) -> None:
    """Point the champion back at the previous one.

    Example: reckoner rollback-ranker
    """
    from pipelines import rollback_ranker as step

    execute(
        "rollback-ranker", step.run, partition=None, lake=lake, as_json=as_json, dry_run=dry_run
    )


@app.command("recommend")
def recommend(
    partition: PartitionOption,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=1000, help="List length; default: recommend.top_k.")
    ] = None,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Score every user with the champion, check the lists, publish them in one commit.

    Example: reckoner recommend --partition 2026-03-01 --top-k 20
    """
    from pipelines import recommend as step

    execute(
        "recommend",
        lambda context: step.run(context, top_k),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )
