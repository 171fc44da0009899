"""Ingest a delivery of items: the catalogue rows of one night, the malformed ones kept apart."""

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.ingest.mapping import ItemMapping
from pipelines.ingest.plan import Request, plan_delivery
from pipelines.ingest.shape import row_schema, shaped_batches
from pipelines.ingest.tally import REFUSED, Tally
from pipelines.io.spool import spools
from pipelines.step import Context, Result
from pipelines.tables.behaviour import ITEMS

TABLE = "items"
CONTENT = ("title", "description", "category", "brand", "attributes")


def run(context: Context, request: Request, *, allow_empty: bool = False) -> Result:
    """Ingest one night's items; a night's delivery replaces what it delivered before.

    Args:
        context: its partition is the night.
        request: source, preset and mapping of the command line.
        allow_empty: a source without rows is a night without changes, not a mistake.

    Raises:
        InputError: nothing to read, a damaged file, or too many malformed rows.
    """
    delivery = plan_delivery("items", context.settings.items, request, context.ds)
    assert isinstance(delivery.mapping, ItemMapping)
    with spools(row_schema(delivery.mapping), REFUSED) as (spool, refused):
        tally = Tally(TABLE, refused)
        for shaped in shaped_batches(delivery, tally):
            spool.add(0, shaped.rows)
        if not tally.read and not allow_empty:
            names = ", ".join(file.name for file in delivery.files[:3])
            raise InputError(f"source holds no item ({names}): pass --allow-empty if that is right")
        tally.require_share(context.settings.items.max_rejected_share)
        delivered = spool.take(0)
        rows = as_catalogue(delivered, delivery.mapping.repeats)
        if not context.dry_run:
            context.lake.publish(TABLE, context.ds, rows)
            context.lake.publish("items_rejected", context.ds, tally.refused_rows())
    return {
        "layout": delivery.layout,
        "files": len(delivery.files),
        **tally.counts(),
        "kept": delivered.num_rows,
        "duplicates": delivered.num_rows - rows.num_rows,
        "items": rows.num_rows,
        "late": {},
    }


def as_catalogue(delivered: pa.Table, repeats: str) -> pa.Table:
    """Make one row per item, ordered by item, with availability and content hash filled in.

    Args:
        delivered: rows in the order of delivery; may be changed ones of the same item.
        repeats: "last" takes each item's last row; "typical" takes from all of them the most
            frequent title (the least where several are) and the median price.
    """
    place = pa.array(range(delivered.num_rows), pa.int64())
    numbered = delivered.append_column("place", place)
    last = numbered.group_by("item_id").aggregate([("place", "max")])
    rows = delivered.take(last["place_max"].sort()).sort_by("item_id")
    if repeats == "typical":
        rows = _put(rows, "title", _typical_titles(delivered, rows["item_id"]))
        rows = _put(rows, "price", _median_prices(delivered, rows["item_id"]))
    rows = _put(rows, "available", pc.fill_null(rows["available"], True))
    hashes = [content_hash(row) for row in rows.select(list(CONTENT)).to_pylist()]
    rows = rows.append_column("content_hash", pa.array(hashes, pa.string()))
    return rows.select([name for name in ITEMS.schema.names if name != "ds"])


def content_hash(item: dict[str, Any]) -> str:
    """Fingerprint what an item says about itself; price and availability do not count."""
    attributes = sorted((str(k), v) for k, v in item["attributes"] or ())
    said = [*(item[name] for name in CONTENT if name != "attributes"), attributes]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def _put(rows: pa.Table, name: str, values: Any) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)


def _typical_titles(delivered: pa.Table, items: pa.ChunkedArray) -> pa.Array:
    counted = delivered.group_by(["item_id", "title"]).aggregate([([], "count_all")])
    ranked = counted.sort_by(
        [("item_id", "ascending"), ("count_all", "descending"), ("title", "ascending")]
    )
    first = ranked.group_by("item_id", use_threads=False).aggregate([("title", "first")])
    return first["title_first"].take(pc.index_in(items, value_set=first["item_id"]))


def _median_prices(delivered: pa.Table, items: pa.ChunkedArray) -> pa.Array:
    """The lower median of each item's prices, so that it is a price that was asked."""
    priced = delivered.filter(pc.is_valid(delivered["price"])).sort_by(
        [("item_id", "ascending"), ("price", "ascending")]
    )
    lists = priced.group_by("item_id", use_threads=False).aggregate([("price", "list")])
    middle = [prices[(len(prices) - 1) // 2] for prices in lists["price_list"].to_pylist()]
    place = pc.index_in(items, value_set=lists["item_id"])
    return pa.array(middle, pa.float64()).take(place)
