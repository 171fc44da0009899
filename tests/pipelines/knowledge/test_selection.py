"""Who comes first when the budget is short."""

from pathlib import Path

import pyarrow as pa

from pipelines.knowledge.selection import most_wanted_first
from tests.pipelines.builders import a_context, a_lake, midnight, rows_of
from tests.pipelines.catalogue import DS, publish_items, tools


def test_popular_and_cold_items_take_turns(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    ids = [f"item-{n:03d}" for n in range(8)]
    index = [
        {"item_id": item, "item_idx": place, "first_seen_ds": DS}
        for place, item in enumerate(ids[:7], start=1)
    ]
    lake.append("item_index", lambda _: rows_of("item_index", index))
    seen = [1] * 5 + [4] * 3 + [7]  # item-000 five times, item-003 three times, item-006 once
    user = {"user_id": "u", "item_idx": seen, "action": ["view"] * 9, "length": 9}
    user |= {"ts": [midnight(DS)] * 9, "last_ts": midnight(DS)}
    lake.publish("sequences", DS, rows_of("sequences", [user]))
    publish_items(str(tmp_path), tools(8))
    items = a_lake(tmp_path).read("items", DS)
    ordered = most_wanted_first(a_context(tmp_path, DS), items)["item_id"].to_pylist()
    # The index lacks item-007: it has no event either.
    cold = ["item-001", "item-002", "item-004", "item-005", "item-007"]
    popular = ["item-000", "item-003", "item-006"]
    turns = [name for pair in zip(popular, cold, strict=False) for name in pair]
    assert ordered == [*turns, *cold[3:]]


def test_without_sequences_the_order_stays(tmp_path: Path) -> None:
    items = pa.table({"item_id": ["b", "a"]})
    assert most_wanted_first(a_context(tmp_path, DS), items) is items
