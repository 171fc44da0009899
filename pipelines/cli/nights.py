"""A whole night, a range of nights, and the upkeep of tables."""

from typing import Annotated

import typer

from pipelines.cli.app import app
from pipelines.cli.options import DryRun, Json, Lake, PartitionOption, answer, execute, settings_of
from pipelines.errors import InputError
from pipelines.partition import Partition

Ingest = Annotated[
    bool,
    typer.Option(
        "--ingest/--no-ingest", help="Read the sources of the settings, or take the lake's events."
    ),
]


@app.command("nightly")
def nightly(
    partition: PartitionOption,
    train: Annotated[
        str, typer.Option(help="auto (weekly, and while there is no champion), always or never.")
    ] = "auto",
    ingest: Ingest = True,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run all steps of one night, in order.

    Example: RECKONER_EVENTS__SOURCE='in/{partition}.csv' reckoner nightly --partition 2026-03-01
    """
    from pipelines.night import run_night

    if train not in ("auto", "always", "never"):
        raise InputError(f"--train {train!r}: choose auto, always or never")
    settings = settings_of(lake)
    result = run_night(
        settings,
        Partition.parse(partition).ds,
        train=train,  # type: ignore[arg-type]
        ingest=ingest,
        dry_run=dry_run,
    )
    answer(result, as_json, _render_night)


@app.command("backfill")
def backfill(
    first: Annotated[str, typer.Option("--from", help="The earliest night.")],
    last: Annotated[str, typer.Option("--to", help="The latest night, included.")],
    stale_only: Annotated[
        bool, typer.Option("--stale-only", help="Only nights whose inputs have changed since.")
    ] = False,
    ingest: Ingest = True,
    lake: Lake = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Rebuild a range of nights in order, without training.

    Example: reckoner backfill --from 2026-03-01 --to 2026-03-07 --stale-only
    """
    from pipelines.night import run_range

    settings = settings_of(lake)
    result = run_range(
        settings,
        Partition.parse(first),
        Partition.parse(last),
        stale_only=stale_only,
        ingest=ingest,
        dry_run=dry_run,
    )
    answer(result, as_json)


@app.command("maintain-tables")
def maintain_tables(lake: Lake = None, as_json: Json = False, dry_run: DryRun = False) -> None:
    """Compact, checkpoint, and vacuum within the retention.

    Example: reckoner maintain-tables --dry-run
    """
    from pipelines import maintain_tables as step

    execute(
        "maintain-tables", step.run, partition=None, lake=lake, as_json=as_json, dry_run=dry_run
    )


def _render_night(result: dict[str, dict[str, dict[str, object]]]) -> str:
    lines = [f"night {result['partition']}"]
    for name, step in result["steps"].items():
        if "waits_for" in step:
            lines.append(f"  {name:<22} waits: {step['waits_for']}")
            continue
        state = "refused" if "refused" in step else "done"
        lines.append(f"  {name:<22} {state:<8} {step.get('rows', '')!s:>10} rows")
    return "\n".join(lines)
