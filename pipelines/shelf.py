"""What may be recommended tonight: availability, the surface's list, and popularity."""

from collections.abc import Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.catalogue import items_as_of
from pipelines.errors import InputError
from pipelines.lists import Shelf
from pipelines.popularity import recent_counts
from pipelines.shared_traits import SharedTraits, read_traits
from pipelines.step import Context

log = structlog.get_logger()


def build_shelf(context: Context, surface: Set[str] | None) -> Shelf:
    """Collect ids, titles, the allowed mask and the popularity order by item index.

    An item is allowed when the catalogue as of the night lists it as available and the surface's
    list, where there is one, holds it. Without any catalogue every indexed item is allowed.

    Raises:
        InputError: nothing may be recommended.
    """
    index = context.lake.read("item_index", columns=["item_id", "item_idx"]).sort_by("item_idx")
    ids: list[str] = ["", *index["item_id"].to_pylist()]
    titles, allowed, traits = _catalogue(context, ids)
    if surface is not None:
        unknown = len(surface - set(ids))
        if unknown:
            log.warning("allowed_items names items that the index lacks", count=unknown)
        allowed &= np.array([item in surface for item in ids])
    allowed[0] = False
    if not allowed.any():
        raise InputError(
            f"no item may be recommended on {context.ds}: check items.available in the catalogue "
            "and recommend.allowed_items"
        )
    counts = recent_counts(context, len(ids))
    shown = np.flatnonzero(allowed)
    # Ties by item id: indices depend on the order in which nights were built, ids do not.
    names = np.asarray(ids, dtype=object)[shown]
    order = np.lexsort((names.astype(str), -counts[shown]))
    popular = shown[order]
    share = counts[popular] / max(counts.sum(), 1)
    days = context.settings.recommend.fallback_days
    return Shelf(ids, titles, allowed, popular, share, days, traits)


def _catalogue(
    context: Context, ids: list[str]
) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.bool_]], SharedTraits]:
    """Titles, availability and traits of each index, from the catalogue as of the night."""
    columns = ["item_id", "title", "available", "content_hash"]
    snapshot = context.settings.items.snapshot
    items = items_as_of(context.lake, context.ds, columns, snapshot)
    if not items.num_rows:
        return list(ids), np.ones(len(ids), np.bool_), SharedTraits({})
    place = pc.index_in(pa.array(ids, pa.string()), value_set=items["item_id"])
    titles = items["title"].take(place).to_pylist()
    available = pc.fill_null(items["available"].take(place), False)
    unlisted = place.null_count - 1  # the padding entry is in no catalogue
    if unlisted:
        log.warning("indexed items that the catalogue lacks are not recommended", count=unlisted)
    named = [title or item for title, item in zip(titles, ids, strict=True)]
    traits = read_traits(
        context.lake,
        context.ds,
        {item: number for number, item in enumerate(ids) if number},
        dict(zip(items["item_id"].to_pylist(), items["content_hash"].to_pylist(), strict=True)),
    )
    return named, np.array(available.to_numpy(zero_copy_only=False), dtype=np.bool_), traits
