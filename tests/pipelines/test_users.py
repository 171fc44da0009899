"""Who gets a list, and what each has had beyond the sequence, whatever sequences leave out."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.partition import Partition
from pipelines.settings import Settings
from pipelines.tables.behaviour import ITEM_INDEX, SEQUENCES
from pipelines.users import find_audience
from tests.pipelines.builders import a_context, rows_of

OLD, RECENT, NIGHT = "2025-03-01", "2026-02-20", "2026-03-01"
# Two that have a sequence, one whose only recent event is filtered, and one of long ago.
EVENTS = {
    OLD: [("short", "a"), ("long", "b"), ("gone", "c")],
    RECENT: [("short", "d"), ("long", "e"), ("long", "f"), ("viewer", "f")],
}
PLACES = {item: place for place, item in enumerate("abcdef", start=1)}


@pytest.mark.parametrize(
    ("rules", "repeats", "bought"),
    [
        ({}, False, {"short": "a", "long": "b"}),
        ({"max_length": 2}, False, {"short": "a", "long": "bef"}),
        ({"actions": ["buy"]}, False, {"short": "ad", "long": "bef", "viewer": "f"}),
        ({"actions": ["buy"]}, True, {}),
    ],
)
def test_what_sequences_leave_out_is_read_from_events(
    tmp_path: Path, rules: dict[str, Any], repeats: bool, bought: dict[str, str]
) -> None:
    settings = Settings(sequences=rules, recommend={"allow_repeats": repeats})
    context = a_context(tmp_path, NIGHT, settings)
    index = [{"item_id": i, "item_idx": n, "first_seen_ds": OLD} for i, n in PLACES.items()]
    table = pa.Table.from_pylist(index, schema=ITEM_INDEX.schema)
    context.lake.append("item_index", lambda _: table)
    for day, pairs in EVENTS.items():
        told = {"action": "view", "ts": Partition.parse(day).start, "ingested_ds": day}
        rows = [told | {"user_id": u, "item_id": i, "source_file": "f"} for u, i in pairs]
        context.lake.publish("events", day, rows_of("events", rows))
    sequences = [
        {"user_id": user, "item_idx": [], "action": [], "ts": [], "length": length}
        | {"last_ts": Partition.parse(NIGHT).start}
        for user, length in (("short", 1), ("long", 2))
    ]
    context.lake.publish(
        "sequences", NIGHT, pa.Table.from_pylist(sequences, schema=SEQUENCES.stored)
    )
    found = find_audience(context)
    filtered = "actions" in rules
    assert found.users == ["long", "short", *(["viewer"] if filtered else [])]
    assert found.without_history == (["viewer"] if filtered else [])
    assert {user: found.bought.of(user).tolist() for user in found.bought.row_of} == {
        user: [PLACES[item] for item in items] for user, items in bought.items()
    }
