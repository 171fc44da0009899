"""The HTML report of a night: one self-contained file, no scripts, everything escaped."""

import html
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.charts import curve_svg, interval_svg
from pipelines.errors import InputError
from pipelines.io.lake import Lake
from pipelines.io.tracking import CHAMPION, MODEL, Registry
from pipelines.list_tables import describe_tables
from pipelines.settings import Settings
from pipelines.show import show_user

SAMPLE_USERS = 3
METRICS = ("ndcg@10", "recall@10", "mrr@10", "coverage@10", "gini@10")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;max-width:980px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
p.lead{color:#5b6675;margin-top:0}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e7ec;vertical-align:top}
th{color:#5b6675;font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.ok{color:#13795b}.failed{color:#b42318;font-weight:600}.noted{color:#5b6675}
.tiles{display:flex;gap:1rem;flex-wrap:wrap}
.tile{background:#f4f6f8;border-radius:8px;padding:.8rem 1.1rem}
.tile b{display:block;font-size:1.4rem}
.user{background:#f9fafb;border-radius:8px;padding:.6rem 1rem;margin:.8rem 0}
svg{max-width:100%;height:auto}
"""


def write_report(
    lake: Lake, settings: Settings, ds: str | None, out: Path | None
) -> dict[str, Any]:
    """Write the report of a published night.

    Args:
        lake: where the tables are.
        settings: where the registry is.
        ds: the night; the newest published where None.
        out: the file; `reports/DATE.html` beside a local lake where None.

    Raises:
        InputError: the night has no recommendations, or a remote lake needs `out`.
    """
    days = lake.partitions("recommendations")
    if not days:
        raise InputError("nothing is published yet: run reckoner recommend")
    night = ds or days[-1]
    if night not in days:
        raise InputError(f"no recommendations for {night}; published: {days[0]} to {days[-1]}")
    if out is None:
        if "://" in settings.lake_uri:
            raise InputError("the lake is remote: name the report's file with --out")
        out = Path(settings.lake_uri).absolute().parent / "reports" / f"{night}.html"
    sections = [
        _headline(lake, night),
        _checks(lake, night),
        _metrics(lake, settings, night),
        _curve(settings),
        _people(lake, settings, night),
        _tables(lake),
    ]
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>Reckoner {night}</title><style>{STYLE}</style>"
        f"<h1>The night of {night}</h1>"
        f"<p class='lead'>Lists for the day after {night}, from the lake {_text(settings.lake_uri)}"
        f".</p>{''.join(sections)}</html>"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return {"report": str(out), "partition": night, "bytes": len(page.encode())}


def _headline(lake: Lake, ds: str) -> str:
    dataset = lake.dataset("recommendations")
    columns = ["user_id", "item_id", "source", "model_name", "model_version"]
    rows = dataset.to_table(columns=columns, filter=pc.field("ds") == ds)
    fallback = pc.sum(pc.equal(rows["source"], "popularity")).as_py() / rows.num_rows
    commit = lake.provenance("recommendations", ds)
    made = datetime.fromtimestamp(commit["timestamp"] / 1000).strftime("%Y-%m-%d %H:%M")
    tiles = {
        "lists": f"{pc.count_distinct(rows['user_id']).as_py():,}",
        "rows": f"{rows.num_rows:,}",
        "items shown": f"{pc.count_distinct(rows['item_id']).as_py():,}",
        "fallback rows": f"{fallback:.1%}",
        "model": f"{rows['model_name'][0]} {rows['model_version'][0]}",
        "table version": str(lake.version("recommendations")),
    }
    boxes = "".join(f"<div class='tile'><b>{_text(v)}</b>{k}</div>" for k, v in tiles.items())
    return (
        f"<h2>Published</h2><div class='tiles'>{boxes}</div><p>Committed {made} by run "
        f"{_text(commit.get('run_id'))}, code {_text(commit.get('code_version'))}, input versions "
        f"{_text(commit.get('input_versions'))}.</p>"
    )


def _checks(lake: Lake, ds: str) -> str:
    rows = lake.read("monitoring", ds).to_pylist()
    body = [
        [
            row["subject"],
            row["check"],
            row["value"],
            row["baseline"],
            row["threshold"],
            row["status"],
        ]
        for row in rows
    ]
    head = ["subject", "check", "value", "baseline", "bound", "status"]
    return "<h2>Checks before publishing</h2>" + _table(head, body, status_column=5)


def _metrics(lake: Lake, settings: Settings, ds: str) -> str:
    days = [day for day in lake.partitions("ranker_metrics") if day <= ds]
    title = "<h2>Rankers on the same test users</h2>"
    if not days:
        return title + "<p>No ranker has been judged yet.</p>"
    rows = lake.read("ranker_metrics", days[-1])
    champion = Registry(settings).find(CHAMPION)
    everybody = rows.filter(pc.equal(rows["slice"], "all"))
    names = sorted(set(everybody["model_version"].to_pylist()), key=_champion_first(champion))
    body, bars = [], []
    for name in names:
        mine = {row["metric"]: row for row in _of(everybody, name)}
        label = f"{MODEL} {name}" if name.isdigit() else name.removeprefix("baseline:")
        label += " (champion)" if name == champion else ""
        body.append(
            [label, *(mine[metric]["value"] if metric in mine else None for metric in METRICS)]
        )
        deciding = mine["ndcg@10"]
        bars.append((label, deciding["value"], deciding["ci_low"], deciding["ci_high"]))
    users = everybody["num_users"][0].as_py()
    note = (
        f"<p>NDCG@10 with 95 % intervals over {users:,} users of the temporal split of "
        f"{days[-1]}; full-catalogue ranking.</p>"
    )
    slices = _slices(rows, champion or names[0])
    return title + note + interval_svg(bars) + _table(["ranker", *METRICS], body) + slices


def _slices(rows: pa.Table, version: str) -> str:
    chosen = [row for row in _of(rows, version) if row["metric"] == "ndcg@10"]
    body = [
        [row["slice"], row["num_users"], row["value"], row["ci_low"], row["ci_high"]]
        for row in chosen
    ]
    head = ["slice", "users", "ndcg@10", "low", "high"]
    return f"<h2>Slices of {_text(version)}</h2>" + _table(head, body)


def _curve(settings: Settings) -> str:
    registry = Registry(settings)
    version = registry.find(CHAMPION)
    if version is None:
        return "<h2>Training</h2><p>There is no champion yet.</p>"
    card = registry.card(version)
    loss = [
        (row["epoch"] + 1, sum(value for name, value in row.items() if name.startswith("loss/")))
        for row in card.curve
    ]
    validation = [
        (row["epoch"] + 1, row["validation/ndcg_at_10"])
        for row in card.curve
        if "validation/ndcg_at_10" in row
    ]
    about = (
        f"<p>Version {version}: {_text(card.ranker_name)}, recipe {_text(card.recipe['name'])}, "
        f"trained on {_text(card.partition)}, {len(card.curve)} epochs.</p>"
    )
    return (
        "<h2>Training of the champion</h2>"
        + about
        + curve_svg("training loss", loss)
        + curve_svg("validation NDCG@10", validation)
    )


def _people(lake: Lake, settings: Settings, ds: str) -> str:
    blocks = []
    for user in sample_users(lake, ds, SAMPLE_USERS):
        shown = show_user(lake, settings, user, ds)
        latest = "; ".join(
            f"{_text(entry['action'])} {_text(entry['title'] or entry['item_id'])}"
            for entry in shown["history"][:5]
        )
        body = [
            [entry["rank"], entry["title"] or entry["item_id"], entry["reason"]]
            for entry in shown["recommendations"][:5]
        ]
        blocks.append(
            f"<div class='user'><b>{_text(user)}</b><p>Latest: {latest or 'no history'}.</p>"
            + _table(["rank", "item", "reason"], body)
            + "</div>"
        )
    return "<h2>Three people</h2>" + "".join(blocks)


def sample_users(lake: Lake, ds: str, count: int) -> list[str]:
    """The users with the longest lists of ranked items, spread over the ids: always the same."""
    where = (pc.field("ds") == ds) & (pc.field("rank") == 1)
    rows = lake.dataset("recommendations").to_table(columns=["user_id", "source"], filter=where)
    ranked = rows.filter(pc.equal(rows["source"], "ranker"))
    users = sorted((ranked if ranked.num_rows else rows)["user_id"].to_pylist())
    step = max(len(users) // count, 1)
    return users[::step][:count]


def _tables(lake: Lake) -> str:
    body = [
        [
            one["table"],
            one["version"],
            one["partitions"],
            one["rows"],
            one["bytes"],
            one["last_step"],
        ]
        for one in describe_tables(lake)
    ]
    head = ["table", "version", "partitions", "rows", "bytes", "last written by"]
    return "<h2>Tables</h2>" + _table(head, body)


def _of(rows: pa.Table, version: str) -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = rows.filter(pc.equal(rows["model_version"], version)).to_pylist()
    return chosen


def _champion_first(champion: str | None) -> Any:
    return lambda name: (name != champion, not name.isdigit(), name)


def _table(head: Sequence[str], body: Sequence[Sequence[Any]], status_column: int = -1) -> str:
    numeric = [
        bool(body) and all(isinstance(row[i], int | float | None) for row in body)
        for i in range(len(head))
    ]
    marks = [" class='n'" if number else "" for number in numeric]
    top = "".join(f"<th{mark}>{_text(name)}</th>" for name, mark in zip(head, marks, strict=True))
    rows = []
    for row in body:
        cells = []
        for i, value in enumerate(row):
            mark = f" class='{_text(value)}'" if i == status_column else marks[i]
            cells.append(f"<td{mark}>{_text(value)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{top}</tr>{''.join(rows)}</table>"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    return html.escape(str(value))
