"""What a person looks up: tables, lists, rankers, staleness, health."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.app import app
from pipelines.cli.options import Json, Lake, answer, settings_of
from pipelines.errors import EXIT_UNAVAILABLE
from pipelines.partition import Partition
from pipelines.run import Run
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.io.lake import Lake as OpenLake

AsOf = Annotated[
    str | None, typer.Option("--partition", help="The night; default: the newest published.")
]


def open_lake(uri: str | None) -> tuple[Settings, "OpenLake"]:
    """Open the lake to look things up: nothing is recorded."""
    from pipelines.io.lake import Lake as OpenLake

    settings = settings_of(uri)
    return settings, OpenLake(settings.lake_uri, Run.unrecorded(), dict(settings.storage_options))


@app.command("tables")
def tables(lake: Lake = None, as_json: Json = False) -> None:
    """List every table: version, partitions, rows, size, last writer.

    Example: reckoner tables --lake s3://shop/lake
    """
    from pipelines.list_tables import describe_tables, render_tables

    answer(describe_tables(open_lake(lake)[1]), as_json, render_tables)


@app.command("show")
def show(
    user: Annotated[str, typer.Option(help="The user's id.")],
    partition: AsOf = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """Show a person's history, recommendations and the reason for each.

    Example: reckoner show --user u0007 --partition 2026-03-01
    """
    from pipelines.show import render_user, show_user

    ds = Partition.parse(partition).ds if partition else None
    settings, opened = open_lake(lake)
    answer(show_user(opened, settings, user, ds), as_json, render_user)


@app.command("rankers")
def rankers(as_json: Json = False) -> None:
    """List every ranker: name, method, source, needs, default settings.

    Example: reckoner rankers --json
    """
    from models.registry import config_class, names, ranker_class

    found = [
        {
            "name": name,
            "method": ranker_class(name).method,
            "source": ranker_class(name).source,
            "needs": list(ranker_class(name).needs),
            "trainable": ranker_class(name).is_trainable,
            "settings": config_class(name)().model_dump(mode="json"),
        }
        for name in names()
    ]
    answer(found, as_json, _render_rankers)


def _render_rankers(found: list[dict[str, Any]]) -> str:
    blocks = []
    for one in found:
        needs = ", ".join(one["needs"]) or "behaviour sequences alone"
        blocks.append(
            f"{one['name']}\n  {one['method']}\n  source: {one['source']}\n  needs: {needs}\n"
            f"  settings: {json.dumps(one['settings'])}"
        )
    return "\n\n".join(blocks)


@app.command("report")
def report(
    partition: AsOf = None,
    out: Annotated[
        Path | None, typer.Option(help="The file; default: reports/DATE.html beside the lake.")
    ] = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """Write the HTML report of a night: what was published, metrics, curves, checks.

    Example: reckoner report --partition 2026-03-01 --out night.html
    """
    from pipelines.report import write_report

    settings, opened = open_lake(lake)
    ds = Partition.parse(partition).ds if partition else None
    answer(write_report(opened, settings, ds, out), as_json, lambda found: str(found["report"]))


@app.command("doctor")
def doctor(lake: Lake = None, as_json: Json = False) -> None:
    """Check Java, Spark, Ray, the lake, MLflow and the LLM endpoint; say what to fix.

    Example: reckoner doctor
    """
    from pipelines.doctor import examine, render_symptoms

    settings, opened = open_lake(lake)
    symptoms = examine(settings, opened)
    answer(symptoms, as_json, render_symptoms)
    if not all(symptom["healthy"] for symptom in symptoms):
        raise typer.Exit(EXIT_UNAVAILABLE)


@app.command("stale")
def stale(lake: Lake = None, as_json: Json = False) -> None:
    """List partitions that were built from inputs that have changed since, and why.

    Example: reckoner stale --json
    """
    from pipelines.lineage import render_stale, stale_partitions

    settings, opened = open_lake(lake)
    answer([asdict(found) for found in stale_partitions(opened, settings)], as_json, render_stale)
