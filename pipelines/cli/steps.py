"""The steps of a night, one command each."""

from typing import Annotated

import typer

from pipelines.cli.app import app
from pipelines.cli.options import DryRun, Json, Lake, PartitionOption, answer, execute

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source", help="File, folder or Delta table; {partition} becomes the date. See settings."
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="canonical, movielens, amazon-reviews, taobao, retailrocket or online-retail.",
    ),
]
MappingOption = Annotated[
    str | None, typer.Option("--mapping", help="File that names the source's own columns.")
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Accept a source without rows.")]


@app.command("ingest-events")
def ingest_events(
    partition: Annotated[
        str | None,
        typer.Option("--partition", help="The night's UTC date, such as 2026-03-01."),
    ] = None,
    all_partitions: Annotated[
        bool, typer.Option("--all-partitions", help="A whole history: each row to its own date.")
    ] = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    mapping: MappingOption = None,
    allow_empty: AllowEmpty = False,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Read a delivery of events into the lake; late rows go to their own date.

    Example: reckoner ingest-events --partition 2026-03-01 --source day.csv --preset taobao
    """
    from pipelines import ingest_events as step
    from pipelines.ingest.plan import Request

    request = Request(source, preset, mapping)
    execute(
        "ingest-events",
        lambda context: step.run(
            context, request, all_partitions=all_partitions, allow_empty=allow_empty
        ),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command("ingest-items")
def ingest_items(
    partition: PartitionOption,
    source: SourceOption = None,
    preset: PresetOption = None,
    mapping: MappingOption = None,
    allow_empty: AllowEmpty = False,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Read a delivery of items into the lake.

    Example: reckoner ingest-items --partition 2026-03-01 --source items.jsonl
    """
    from pipelines import ingest_items as step
    from pipelines.ingest.plan import Request

    request = Request(source, preset, mapping)
    execute(
        "ingest-items",
        lambda context: step.run(context, request, allow_empty=allow_empty),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )


CascadeOption = Annotated[
    bool,
    typer.Option("--cascade/--no-cascade", help="Also rebuild later partitions that became stale."),
]


@app.command("build-sequences")
def build_sequences(
    partition: PartitionOption,
    cascade: CascadeOption = True,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Do not build on yesterday's partition.")
    ] = False,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Assemble each user's latest behaviour as of the end of a night.

    Example: reckoner build-sequences --partition 2026-03-01
    """
    from pipelines import build_sequences as step

    execute(
        "build-sequences",
        lambda context: step.run(context, cascade=cascade, from_scratch=from_scratch),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command("build-item-graph")
def build_item_graph(
    partition: PartitionOption,
    cascade: CascadeOption = True,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Build transitions and swing similarity between items as of a night.

    Example: reckoner build-item-graph --partition 2026-03-01
    """
    from pipelines import build_item_graph as step

    execute(
        "build-item-graph",
        lambda context: step.run(context, cascade=cascade),
        partition=partition,
        lake=lake,
        as_json=as_json,
        dry_run=dry_run,
    )


@app.command("make-shop")
def make_shop(
    out: Annotated[str, typer.Option("--out", help="Folder for one delivery per day.")],
    until: Annotated[str, typer.Option("--until", help="The last day, such as 2026-03-01.")],
    days: Annotated[int, typer.Option(min=3, help="How many days.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
    users: Annotated[int, typer.Option(min=50, help="People.")] = 3000,
    items: Annotated[int, typer.Option(min=50, help="Things on sale.")] = 800,
    visits: Annotated[int, typer.Option(min=1, help="Visits per day, some 4 events each.")] = 720,
    as_json: Json = False,
) -> None:
    """Generate a small shop's deliveries, dirt included, to try everything on.

    Example: reckoner make-shop --out shop --days 40 --until 2026-03-01 --seed 0
    """
    from pathlib import Path

    from pipelines import shop
    from pipelines.partition import Partition

    size = shop.ShopSize(days=days, users=users, items=items, visits_per_day=visits)
    answer(shop.make_shop(Path(out), Partition.parse(until).day, seed, size), as_json)
