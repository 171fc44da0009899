"""Read an item's own text into a typed record, without a model: the `offline` backend.

The record holds what the text states: category, brand, attributes, key phrases, and whom or what
the text says the item is for. It is deterministic, so a rerun writes the same rows.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:  # texts are also read where there is no Spark
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

PROMPT_VERSION = "offline-1"
MODEL = "offline-extraction"
MAX_PHRASES = 8
MAX_PHRASE_WORDS = 3
MAX_SUMMARY_WORDS = 60

WORD = re.compile(r"[^\W_][\w'&-]*", re.UNICODE)
MARKUP = re.compile(r"<[^<>]{1,200}>|&[a-z]{2,8};")
AUDIENCE = re.compile(
    r"\bfor (?P<who>(?:the )?(?:men|women|boys|girls|kids|children|toddlers|babies|adults|teens|"
    r"beginners|professionals|students|teachers|dogs|cats|gardeners|runners|cyclists|travell?ers))\b",
    re.IGNORECASE,
)
OCCASION = re.compile(
    r"\b(?P<when>christmas|halloween|birthday|birthdays|wedding|weddings|valentine'?s?|easter|"
    r"party|parties|picnic|picnics|camping|travel|school|office|holiday|holidays)\b",
    re.IGNORECASE,
)
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by can for from has have in into is it its of on or our set so "
        "that the their them then there these this to up use used was will with you your all any "
        "each more most no not one only other out over per some such than very when which who",
    )
)


def extract_knowledge(items: "DataFrame", schema: "StructType", created_ds: str) -> "DataFrame":
    """Turn catalogue rows into knowledge rows, a batch at a time on the executors.

    Args:
        items: item_id, title, description, category, brand, attributes, content_hash.
        schema: columns of `item_knowledge`.
        created_ds: the night that builds the record.
    """
    fields = items.columns

    def extract(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [knowledge_row(row, created_ds) for row in batch.select(fields).to_pylist()]
            yield pa.RecordBatch.from_pylist(rows, schema=_arrow_schema())

    return items.mapInArrow(extract, schema)


def knowledge_row(item: Mapping[str, Any], created_ds: str) -> dict[str, Any]:
    """Extract one item's record.

    Args:
        item: a catalogue row.
        created_ds: the night that builds the record.
    """
    title = plain_text(item["title"])
    description = plain_text(item.get("description") or "")
    text = f"{title}. {description}"
    category = list(item.get("category") or [])
    knowledge = {
        "category": category,
        "brand": item.get("brand"),
        "attributes": list(dict(item.get("attributes") or {}).items()),
        "key_phrases": key_phrases([title, description]),
        "audiences": _distinct(match["who"] for match in AUDIENCE.finditer(text)),
        "occasions": _distinct(match["when"] for match in OCCASION.finditer(text)),
        "intents": [],
        "complements": [],
        "substitutes": [],
    }
    return {
        "item_id": item["item_id"],
        "content_hash": item["content_hash"],
        "prompt_version": PROMPT_VERSION,
        "model": MODEL,
        "knowledge": knowledge,
        "summary": summary(title, item.get("brand"), category, description),
        "tokens_in": 0,
        "tokens_out": 0,
        "cost_usd": 0.0,
        "created_ds": created_ds,
        "status": "extracted",
    }


def plain_text(text: str) -> str:
    """Drop markup and fold white space."""
    return re.sub(r"\s+", " ", MARKUP.sub(" ", text)).strip()


def key_phrases(texts: Sequence[str]) -> list[str]:
    """Find runs of content words, scored by how often and with how many words they occur.

    The idea is RAKE's (Rose et al. 2010): stop words and punctuation cut the text into candidate
    phrases; a phrase scores the sum over its words of degree / frequency.
    """
    phrases: list[tuple[str, ...]] = []
    for text in texts:
        for sentence in re.split(r"[.,;:!?()\[\]|/]", text.lower()):
            run: list[str] = []
            for word in [*WORD.findall(sentence), "the"]:
                if word in STOP_WORDS or word.isdigit():
                    phrases += [tuple(run)] if 0 < len(run) <= MAX_PHRASE_WORDS else []
                    run = []
                else:
                    run.append(word)
    frequency = Counter(word for phrase in phrases for word in phrase)
    degree: Counter[str] = Counter()
    for phrase in phrases:
        for word in phrase:
            degree[word] += len(phrase)
    scores = {
        " ".join(phrase): sum(degree[word] / frequency[word] for word in phrase)
        for phrase in phrases
    }
    ranked = sorted(scores, key=lambda phrase: (-scores[phrase], phrase))
    return ranked[:MAX_PHRASES]


def summary(title: str, brand: str | None, category: Sequence[str], description: str) -> str:
    """Describe an item in at most 60 words of its own text."""
    head = f"{title} by {brand}" if brand and brand.lower() not in title.lower() else title
    parts = [head, f"in {' > '.join(category)}" if category else ""]
    text = f"{', '.join(part for part in parts if part)}. {description}".strip()
    words = text.split()
    return " ".join(words[:MAX_SUMMARY_WORDS])


def _distinct(words: Iterator[str]) -> list[str]:
    return sorted({word.lower().removeprefix("the ") for word in words})


def _arrow_schema() -> pa.Schema:
    texts = pa.list_(pa.string())
    knowledge = pa.struct(
        [
            ("category", texts),
            ("brand", pa.string()),
            ("attributes", pa.map_(pa.string(), pa.string())),
            ("key_phrases", texts),
            ("audiences", texts),
            ("occasions", texts),
            ("intents", texts),
            ("complements", texts),
            ("substitutes", texts),
        ]
    )
    text = [(name, pa.string()) for name in ("item_id", "content_hash", "prompt_version", "model")]
    return pa.schema(
        [
            *text,
            ("knowledge", knowledge),
            ("summary", pa.string()),
            ("tokens_in", pa.int64()),
            ("tokens_out", pa.int64()),
            ("cost_usd", pa.float64()),
            ("created_ds", pa.string()),
            ("status", pa.string()),
        ]
    )
