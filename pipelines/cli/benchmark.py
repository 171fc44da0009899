"""`reckoner benchmark`: one ranker side by side with the heuristics."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.app import app
from pipelines.cli.options import Json, answer, key_values, settings_of


@app.command("benchmark")
def benchmark(
    dataset: Annotated[Path, typer.Option(help="Folder with events.parquet.")],
    ranker: Annotated[str, typer.Option(help="Name of the ranker; see `reckoner rankers`.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    protocol: Annotated[str, typer.Option(help="temporal or leave-one-out.")] = "temporal",
    seeds: Annotated[int, typer.Option(help="Runs, with seeds that follow one another.")] = 1,
    first_seed: Annotated[int, typer.Option(min=0, help="The first run's seed.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    cpu_seconds: Annotated[
        float | None,
        typer.Option(help="Stop training at that much CPU time instead of on validation."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the ranker or the training recipe; repeatable."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Parquet file of texts by item_id to add to those of items.parquet."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of --texts.")] = "text",
    validation_only: Annotated[
        bool, typer.Option(help="Report validation alone, to tune by; test is not looked at.")
    ] = False,
    users_out: Annotated[
        Path | None, typer.Option(help="Also write each test user's NDCG@10 per seed (.npz).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit one ranker on a dataset and measure it over the full catalogue.

    Example: reckoner benchmark --dataset data/beauty --ranker sasrec --set dim=64 --out sasrec.json

    --set text_vectors=on fuses vectors of the items' texts, made by the encoder of
    RECKONER_VECTORS__ENCODER and kept under .reckoner/bench/vectors; items newer than the training
    are then scored by their text.
    """
    from pipelines.benchmark import run, validate
    from pipelines.benchmark_request import Order

    order = Order(
        dataset,
        ranker,
        protocol,
        seeds,
        threads,
        cpu_seconds,
        key_values(settings),
        out,
        first_seed,
        settings_of().vectors,
        None if texts is None else (texts, text_column),
    )
    if validation_only:
        answer(validate(order), as_json)
        return
    answer(run(order, users_out), as_json, lambda report: _table(report, out))


def _table(report: dict[str, Any], out: Path) -> str:
    lines = [
        f"{one['ranker']} on {one['dataset']} ({one['protocol']}, seed {one['seed']}): "
        f"ndcg@10 {one['metrics']['ndcg@10']:.5f}, recall@10 {one['metrics']['recall@10']:.5f}; "
        f"trained {one['seconds']['train']:.0f} CPU s, {one['users_per_second']} users/s"
        for one in report.get("runs", [report])
    ]
    return "\n".join([*lines, f"written to {out}"])
