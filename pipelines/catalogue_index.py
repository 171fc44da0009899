"""Tell whether a trained ranker and the lake still mean the same item by an index."""

import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.io.content_hash import combine, hash_rows
from pipelines.io.lake import Lake


def fingerprint(lake: Lake, num_items: int | None) -> str:
    """Hash the index's first `num_items` entries (all where None); they never change."""
    index = lake.read("item_index", columns=["item_id", "item_idx"])
    if num_items is not None:
        index = index.filter(pc.less_equal(index["item_idx"], num_items))
    return combine([hash_rows(index)])


def require_same_index(lake: Lake, num_items: int, expected: str, model: str) -> None:
    """Refuse a model whose indices stand for other items.

    Raises:
        InputError: the model was trained on another item index.
    """
    found = fingerprint(lake, num_items)
    if found != expected:
        raise InputError(
            f"{model} was trained on another item index (fingerprint {expected}, this lake's is "
            f"{found}): train a ranker on this lake with reckoner train-ranker"
        )
