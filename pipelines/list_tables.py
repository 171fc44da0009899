"""What is in the lake: every table's version, partitions, rows, size and last writer."""

from typing import Any

from pipelines.io.lake import Lake
from pipelines.io.upkeep import file_sizes, last_write
from pipelines.tables import CONTRACTS


def describe_tables(lake: Lake) -> list[dict[str, Any]]:
    """Describe the tables that exist, in the order of the night."""
    return [_describe(lake, name) for name in CONTRACTS if lake.exists(name)]


def _describe(lake: Lake, table: str) -> dict[str, Any]:
    files, rows, size = file_sizes(lake, table)
    writer = last_write(lake, table)
    days = lake.partitions(table) if CONTRACTS[table].by_ds else []
    return {
        "table": table,
        "version": lake.version(table),
        "partitions": len(days),
        "first": days[0] if days else None,
        "last": days[-1] if days else None,
        "rows": rows,
        "bytes": size,
        "files": files,
        "last_step": writer.get("step"),
        "last_run": writer.get("run_id"),
        "code_version": writer.get("code_version"),
    }


def render_tables(tables: list[dict[str, Any]]) -> str:
    """Lay the tables out as text, one a line."""
    if not tables:
        return "the lake has no tables yet"
    head = f"{'table':<18}{'version':>8}{'partitions':>12}{'rows':>12}{'size':>10}  last written by"
    lines = [head]
    for one in tables:
        span = f"{one['first']} .. {one['last']}" if one["partitions"] else ""
        lines.append(
            f"{one['table']:<18}{one['version']:>8}{one['partitions']:>12}{one['rows']:>12,}"
            f"{_size(one['bytes']):>10}  {one['last_step']} {(one['last_run'] or '')[:8]}  {span}"
        )
    return "\n".join(lines)


def _size(count: int) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count //= 1024
    return f"{count} TB"
