"""What people have had, read from events piece by piece."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import bought
from pipelines.bought import Window, active_users, read_bought
from pipelines.partition import Partition
from pipelines.tables.behaviour import ITEM_INDEX
from tests.pipelines.builders import a_context, rows_of

DAYS = ("2026-03-01", "2026-03-02", "2026-03-05")
FIRST, LAST = Partition.parse(DAYS[0]), Partition.parse(DAYS[-1])
USERS, ITEMS = [f"u{n}" for n in range(7)], [f"i{n}" for n in range(30)]


@pytest.mark.parametrize("fold_rows", [1, 50, 10_000])
def test_pieces_of_any_size_give_each_users_items_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold_rows: int
) -> None:
    monkeypatch.setattr(bought, "FOLD_ROWS", fold_rows)
    context = a_context(tmp_path, DAYS[-1])
    # The last item has no index yet, and the last user is nobody's concern.
    known = {item: place for place, item in enumerate(reversed(ITEMS[:-1]), start=1)}
    rows = [
        {"item_id": item, "item_idx": index, "first_seen_ds": DAYS[0]}
        for item, index in known.items()
    ]
    index = pa.Table.from_pylist(rows, schema=ITEM_INDEX.schema)
    context.lake.append("item_index", lambda _: index)
    draw = np.random.default_rng(0)
    expected: dict[str, set[int]] = {user: set() for user in USERS}
    for day in DAYS:
        pairs = [(str(draw.choice(USERS)), str(draw.choice(ITEMS))) for _ in range(100)]
        start = Partition.parse(day).start
        told = {"action": "view", "source_file": "f", "ingested_ds": day}
        events = [
            told | {"user_id": user, "item_id": item, "ts": start + timedelta(seconds=place)}
            for place, (user, item) in enumerate(pairs)
        ]
        context.lake.publish("events", day, rows_of("events", events))
        if day != DAYS[1]:
            for user, item in pairs:
                expected[user] |= {known[item]} if item in known else set()
    windows = [Window(FIRST, FIRST), Window(LAST, LAST, pa.array(USERS[:4]))]
    windows.append(Window(LAST, LAST, pa.array(USERS[2:])))
    found = read_bought(context, USERS[:-1], windows)
    assert {user: found.of(user).tolist() for user in USERS[:-1]} == {
        user: sorted(expected[user]) for user in USERS[:-1]
    }
    assert len(found.of(USERS[-1])) == len(found.of("stranger")) == 0
    assert context.run.inputs.keys() >= {f"events/{day}" for day in (DAYS[0], DAYS[-1])}
    assert f"events/{DAYS[1]}" not in context.run.inputs


def test_nobody_has_had_anything_in_an_empty_window(tmp_path: Path) -> None:
    context = a_context(tmp_path, DAYS[0])
    context.lake.append("item_index", lambda _: ITEM_INDEX.schema.empty_table())
    assert active_users(context, Window(FIRST, LAST)) == set()
    assert len(read_bought(context, USERS, [Window(FIRST, LAST)]).items) == 0
