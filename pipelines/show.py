"""One person's history, recommendations and the reason for each."""

from typing import Any

import pyarrow.compute as pc

from pipelines.catalogue import items_as_of
from pipelines.errors import InputError
from pipelines.io.lake import Lake
from pipelines.item_index import ids_by_index
from pipelines.settings import Settings

HISTORY_SHOWN = 10


def show_user(lake: Lake, settings: Settings, user: str, ds: str | None) -> dict[str, Any]:
    """Look a user up in a partition of `recommendations`, the newest where none is named.

    Raises:
        InputError: nothing is published, or not for this user or date.
    """
    days = lake.partitions("recommendations")
    if not days:
        raise InputError("nothing is published yet: run reckoner recommend")
    day = ds or days[-1]
    if day not in days:
        raise InputError(f"no recommendations for {day}; published: {days[0]} to {days[-1]}")
    where = (pc.field("ds") == day) & (pc.field("user_id") == user)
    lists = lake.dataset("recommendations").to_table(filter=where).sort_by("rank").to_pylist()
    history = _history(lake, day, user)
    if not lists and not history:
        raise InputError(f"user {user!r} has no list and no history on {day}")
    wanted = [entry["item_id"] for entry in (*lists, *history)]
    titles = _titles(lake, settings, day, wanted)
    return {
        "user": user,
        "partition": day,
        "history": [entry | {"title": titles.get(entry["item_id"])} for entry in history],
        "recommendations": [
            {
                "rank": entry["rank"],
                "item_id": entry["item_id"],
                "title": titles.get(entry["item_id"]),
                "score": entry["score"],
                "reason": entry["reason"],
                "source": entry["source"],
                "model": f"{entry['model_name']} {entry['model_version']}",
            }
            for entry in lists
        ],
    }


def render_user(shown: dict[str, Any]) -> str:
    """Lay a person's page out as text."""
    lines = [f"{shown['user']} on {shown['partition']}", "", "latest history, newest first"]
    for entry in shown["history"]:
        when = entry["ts"].strftime("%Y-%m-%d %H:%M")
        lines.append(f"  {when}  {entry['action']:<10}  {entry['title'] or entry['item_id']}")
    lines += ["", "recommendations"]
    for entry in shown["recommendations"]:
        name = entry["title"] or entry["item_id"]
        lines.append(f"  {entry['rank']:>3}  {name}")
        lines.append(f"       {entry['reason']}")
    if not shown["recommendations"]:
        lines.append("  none published for this user")
    return "\n".join(lines)


def _history(lake: Lake, ds: str, user: str) -> list[dict[str, Any]]:
    if ds not in lake.partitions("sequences"):
        return []
    where = (pc.field("ds") == ds) & (pc.field("user_id") == user)
    rows = lake.dataset("sequences").to_table(filter=where).to_pylist()
    if not rows:
        return []
    row = rows[0]
    names = ids_by_index(lake)
    events = zip(row["item_idx"], row["action"], row["ts"], strict=True)
    newest = list(events)[::-1][:HISTORY_SHOWN]
    return [{"item_id": names[item], "action": action, "ts": ts} for item, action, ts in newest]


def _titles(lake: Lake, settings: Settings, ds: str, wanted: list[str]) -> dict[str, str]:
    items = items_as_of(lake, ds, ["item_id", "title"], settings.items.snapshot)
    chosen = items.filter(pc.is_in(items["item_id"], value_set=pc.cast(wanted, "string")))
    return dict(zip(chosen["item_id"].to_pylist(), chosen["title"].to_pylist(), strict=True))
