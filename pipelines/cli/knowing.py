"""What is known of items and people, one command each."""

from typing import Annotated, Literal

import typer

from pipelines.cli.app import app
from pipelines.cli.options import DryRun, Json, Lake, PartitionOption, execute

MaxTokens = Annotated[int | None, typer.Option(min=1, help="Tokens at most.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Dollars at most.")]
Accept = Annotated[
    bool, typer.Option("--accept", help="Publish also what is judged worse than before.")
]


@app.command("build-item-knowledge")
def build_item_knowledge(
    partition: PartitionOption,
    max_items: Annotated[int | None, typer.Option(min=1, help="Items at most.")] = None,
    max_tokens: MaxTokens = None,
    max_cost_usd: MaxCost = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again where the service did not answer.")
    ] = False,
    accept: Accept = False,
    part: Annotated[
        Literal["all", "knowledge", "vectors"],
        typer.Option(help="knowledge leaves the vectors out; vectors asks no model."),
    ] = "all",
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit anew what is fitted on vectors once.")
    ] = False,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write what is known of each new or changed item, and vectors of all; try --dry-run first.

    Example: reckoner build-item-knowledge --partition 2026-03-01 --max-items 1000
    """
    from pipelines import build_item_knowledge as step
    from pipelines.knowledge.backends import Caps

    caps = Caps(max_items, max_tokens, max_cost_usd)
    wishes = step.Wishes(caps, retry_failed, accept, part, refit)
    execute(
        "build-item-knowledge",
        lambda context: step.run(context, wishes),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command("build-user-interests")
def build_user_interests(
    partition: PartitionOption,
    max_users: Annotated[int | None, typer.Option(min=1, help="People at most.")] = None,
    max_tokens: MaxTokens = None,
    max_cost_usd: MaxCost = None,
    accept: Accept = False,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Find what people are interested in, with evidence; --dry-run says what it would cost.

    Example: reckoner build-user-interests --partition 2026-03-01 --max-users 1000
    """
    from pipelines import build_user_interests as step
    from pipelines.knowledge.backends import Caps

    wishes = step.Wishes(Caps(max_users, max_tokens, max_cost_usd), accept)
    execute(
        "build-user-interests",
        lambda context: step.run(context, wishes),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )
