"""Tables of what was delivered and what is built of it: events, items, sequences, graph."""

import pyarrow as pa

from pipelines.tables.contract import (
    DS,
    INT,
    LONG,
    MAP,
    REAL,
    TEXT,
    TEXTS,
    UTC_TIMESTAMP,
    Check,
    Contract,
    columns,
)

EVENTS = Contract(
    "events",
    "Behaviour as delivered, one row per event, each in the partition of its own UTC date.",
    ("user_id", "item_id", "action", "ts"),
    columns(
        DS,
        ("user_id", TEXT),
        ("item_id", TEXT),
        ("action", TEXT),
        ("ts", UTC_TIMESTAMP),
        ("position", LONG, "optional"),
        ("session_id", TEXT, "optional"),
        ("surface", TEXT, "optional"),
        ("query", TEXT, "optional"),
        ("value", REAL, "optional"),
        ("source_file", TEXT, "optional"),
        ("ingested_ds", TEXT),
    ),
    notes={
        "position": "the source's own order among equal timestamps",
        "ingested_ds": "the partition whose delivery brought the row; later than ds: a late row",
    },
)

REJECTED = columns(
    DS,
    ("source_file", TEXT),
    ("source_row", LONG),
    ("reason", TEXT),
    ("payload", TEXT, "optional"),
)
REJECTED_NOTES = {
    "source_row": "1-based position of the record in its file, a header not counted",
    "payload": "the record as read, JSON",
}
EVENTS_REJECTED = Contract(
    "events_rejected", "Event rows refused, with the reason.", (), REJECTED, notes=REJECTED_NOTES
)
ITEMS_REJECTED = Contract(
    "items_rejected", "Item rows refused, with the reason.", (), REJECTED, notes=REJECTED_NOTES
)

ITEMS = Contract(
    "items",
    "The catalogue as delivered on a date.",
    ("item_id",),
    columns(
        DS,
        ("item_id", TEXT),
        ("title", TEXT),
        ("description", TEXT, "optional"),
        ("category", TEXTS, "optional"),
        ("brand", TEXT, "optional"),
        ("price", REAL, "optional"),
        ("available", pa.bool_()),
        ("attributes", MAP, "optional"),
        ("content_hash", TEXT),
    ),
    notes={
        "category": "root first",
        "content_hash": "of title, description, category, brand and attributes",
    },
)

ITEM_INDEX = Contract(
    "item_index",
    "Dense integer per item, append-only: an index never changes and is never reused.",
    ("item_id",),
    columns(("item_id", TEXT), ("item_idx", INT), ("first_seen_ds", TEXT)),
    by_ds=False,
    checks=(Check("item_idx", ">=", 1),),
)

SEQUENCES = Contract(
    "sequences",
    "Each user's latest behaviour as of the end of ds, oldest first.",
    ("user_id",),
    columns(
        DS,
        ("user_id", TEXT),
        ("item_idx", pa.list_(INT)),
        ("action", TEXTS),
        ("ts", pa.list_(UTC_TIMESTAMP)),
        ("length", INT),
        ("last_ts", UTC_TIMESTAMP),
    ),
    checks=(Check("length", ">=", 1),),
    notes={"item_idx": "ordered by ts, then the source's position, then item_id"},
)

ITEM_GRAPH = Contract(
    "item_graph",
    "Top neighbours per item as of ds: transition counts and swing similarity.",
    ("item_idx", "neighbour_idx", "kind"),
    columns(
        DS,
        ("item_idx", INT),
        ("neighbour_idx", INT),
        ("kind", TEXT),
        ("weight", REAL),
        ("rank", INT),
    ),
    checks=(Check("rank", ">=", 1), Check("weight", ">", 0)),
)
