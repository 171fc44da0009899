"""Options that commands share, and how a command answers."""

import json
import math
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipelines.errors import InputError
from pipelines.logs import configure_logging
from pipelines.settings import Settings, load_settings
from pipelines.step import Context, Result, open_context, run_step

Lake = Annotated[str | None, typer.Option("--lake", help="Lake URI; also RECKONER_LAKE_URI.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Work everything out and publish nothing.")]
PartitionOption = Annotated[
    str, typer.Option("--partition", help="The night's UTC date, such as 2026-03-01.")
]


def key_values(pairs: list[str] | None) -> dict[str, str]:
    """Read repeated `--set key=value` options.

    Raises:
        InputError: one of them has no `=`.
    """
    values = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set {pair!r}: write key=value, such as dim=64")
        values[key.strip()] = value.strip()
    return values


def answer(result: Any, as_json: bool, render: Callable[[Any], str] | None = None) -> None:
    """Print a result: JSON for machines, a short text for people."""
    if as_json:
        print(json.dumps(_finite(result), default=str, allow_nan=False))
    elif render:
        print(render(result))
    else:
        for key, value in result.items():
            if value not in (None, {}, [], ""):
                print(f"{key:>18}  {_plain(value)}")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """Put null for what JSON has no number for, such as the mean of no users."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(inner) for inner in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def settings_of(lake: str | None = None) -> Settings:
    """Load the settings and log as they say."""
    settings = load_settings(lake)
    configure_logging(settings.log_level)
    return settings


def execute(
    step: str,
    body: Callable[[Context], Result],
    *,
    partition: str | None,
    lake: str | None,
    as_json: bool,
    dry_run: bool = False,
    render: Callable[[Any], str] | None = None,
) -> None:
    """Open the lake, run a step's body under its record, and answer."""
    context = open_context(step, settings_of(lake), partition, dry_run)
    answer(run_step(context, body), as_json, render)
