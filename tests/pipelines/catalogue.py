"""Small catalogues of things to know about."""

from collections.abc import Sequence
from typing import Any

from pipelines.ingest_items import CONTENT, content_hash
from tests.pipelines.builders import a_lake, rows_of

DS = "2026-03-01"
WOODS = ("ash", "oak", "beech", "hickory", "maple")


def an_item(item: str, title: str, **more: Any) -> dict[str, Any]:
    """A catalogue row, fingerprinted."""
    row = {
        "item_id": item,
        "title": title,
        "description": f"A tool with a handle of {WOODS[len(title) % 5]}. It is for work in wood.",
        "category": ["Tools", "Hand tools"],
        "brand": "Ferrum",
        "available": True,
        "attributes": [("weight", "500 g")],
    } | more
    return row | {"content_hash": content_hash({name: row[name] for name in CONTENT})}


def publish_items(lake: str, items: Sequence[dict[str, Any]], ds: str = DS) -> None:
    """Publish a catalogue's delivery."""
    a_lake(lake).publish("items", ds, rows_of("items", items))


def tools(count: int) -> list[dict[str, Any]]:
    """That many tools, each with a text of its own."""
    return [an_item(f"item-{n:03d}", f"Steel hammer number {n}") for n in range(count)]
