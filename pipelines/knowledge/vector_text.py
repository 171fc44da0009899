"""The text of an item that becomes its vector."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from feature_jobs.item_knowledge import plain_text
from pipelines.knowledge.item_text import PATH

COLUMNS = ("item_id", "title", "brand", "category", "description", "content_hash")
KNOWLEDGE_COLUMNS = (
    "item_id",
    "content_hash",
    "prompt_version",
    "model",
    "status",
    "summary",
    "created_ds",
)
# A record that was extracted only repeats the item's own text.
TOLD = ("reasoned", "recorded")


def item_text(item: Mapping[str, Any], summary: str | None, max_chars: int) -> str:
    """Write what is known of an item, the most telling first: encoders cut long texts.

    Args:
        item: a row of `items`.
        summary: what a model wrote about it.
        max_chars: of the description.
    """
    parts = [
        plain_text(item["title"]),
        plain_text(item.get("brand") or ""),
        PATH.join(item.get("category") or []),
        summary or "",
        plain_text(item.get("description") or "")[:max_chars],
    ]
    return ". ".join(part for part in parts if part)


def summaries(knowledge: pa.Table, model: str | None) -> dict[tuple[str, str], str]:
    """Choose each item's summary, by item and content hash.

    Of several records of one text that of the present model counts, then the newest.

    Args:
        knowledge: `KNOWLEDGE_COLUMNS` of `item_knowledge`.
        model: the present one.
    """
    rows = [row for row in knowledge.to_pylist() if row["status"] in TOLD]
    rows.sort(key=lambda row: (row["model"] == model, row["created_ds"], row["prompt_version"]))
    return {(row["item_id"], row["content_hash"]): row["summary"] for row in rows}


def item_texts(
    items: pa.Table, told: Mapping[tuple[str, str], str], max_chars: int
) -> tuple[list[str], list[str]]:
    """Write every item's text, and its hash.

    Args:
        items: `COLUMNS` of the catalogue.
        told: summaries, see `summaries`.
        max_chars: of each description.
    """
    texts = [
        item_text(item, told.get((item["item_id"], item["content_hash"])), max_chars)
        for item in items.to_pylist()
    ]
    return texts, hashes(texts)


def hashes(texts: Sequence[str]) -> list[str]:
    """Digest texts: equal texts share a vector."""
    return [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
