"""What two items have in common by what is known of them, for the reasons of lists.

An item's traits are short texts by kind. The most telling kind is named, and of several traits of
that kind the one that the fewest items have.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.io.lake import Lake

LONGEST = 60
COLUMNS = [
    "item_id",
    "content_hash",
    "prompt_version",
    "model",
    "knowledge",
    "created_ds",
    "status",
]
# From the most telling kind to the least, with the words around the trait.
WORDS = {
    "pair": "the two go together",
    "occasions": "both for {}",
    "intents": "both to {}",
    "audiences": "both for {}",
    "attributes": "both with {}",
    "brand": "both by {}",
    "category": "both in {}",
}
RANK = {kind: rank for rank, kind in enumerate(WORDS)}
NEEDS = ("occasions", "intents", "audiences")
# A trait of more than this share of the items says nothing about two of them.
COMMON_SHARE = 0.2

Trait = tuple[str, str]


@dataclass(frozen=True)
class Known:
    """What is known of one item.

    Attributes:
        traits: (kind, text), folded for comparing.
        goes_with: names of things that complement it.
        names: what it may be called in another's complements.
    """

    traits: frozenset[Trait]
    goes_with: frozenset[str]
    names: frozenset[str]


NOTHING = Known(frozenset(), frozenset(), frozenset())


class SharedTraits:
    """Says what items have in common.

    Args:
        known: by item index.
    """

    def __init__(self, known: Mapping[int, Known]) -> None:
        self._known = known
        self._counts = Counter(trait for one in known.values() for trait in one.traits)
        self._common = max(COMMON_SHARE * len(known), 2)

    def between(self, item: int, other: int) -> str | None:
        """Say in a few words what two items have in common; None where nothing is known."""
        one, two = self._known.get(item, NOTHING), self._known.get(other, NOTHING)
        if one.goes_with & two.names or two.goes_with & one.names:
            return WORDS["pair"]
        shared = [trait for trait in one.traits & two.traits if self._counts[trait] <= self._common]
        if not shared:
            return None
        kind, text = min(shared, key=lambda trait: (RANK[trait[0]], self._counts[trait], trait[1]))
        return WORDS[kind].format(text)


def traits_of(knowledge: Mapping[str, Any]) -> Known:
    """Read one record's `knowledge`."""
    found: set[Trait] = set()
    for kind in NEEDS:
        found |= {(kind, text) for text in _texts(knowledge.get(kind))}
    for key, value in dict(knowledge.get("attributes") or ()).items():
        found |= {("attributes", text) for text in _texts([f"{key} {value}"])}
    found |= {("brand", text) for text in _texts([knowledge.get("brand")])}
    leaf = _texts((knowledge.get("category") or [])[-1:])
    found |= {("category", text) for text in leaf}
    names = [*leaf, *_texts(knowledge.get("key_phrases"))]
    return Known(
        frozenset(found), frozenset(_texts(knowledge.get("complements"))), frozenset(names)
    )


def read_traits(
    lake: Lake, ds: str, index: Mapping[str, int], hashes: Mapping[str, str]
) -> SharedTraits:
    """Collect what `item_knowledge` holds of the catalogue's present texts as of a night.

    Args:
        lake: reading is recorded.
        ds: later records do not count.
        index: item index by id.
        hashes: content hash by id, of the catalogue as of the night.
    """
    rows = lake.read("item_knowledge", columns=COLUMNS)
    return SharedTraits(dict(_chosen(rows, ds, index, hashes)))


def _chosen(
    rows: pa.Table, ds: str, index: Mapping[str, int], hashes: Mapping[str, str]
) -> Iterable[tuple[int, Known]]:
    """Each item's record: of its present text, reasoned before extracted, then the newest."""
    best: dict[str, tuple[tuple[Any, ...], Any]] = {}
    for row in rows.to_pylist():
        item = row["item_id"]
        if row["created_ds"] > ds or hashes.get(item) != row["content_hash"] or item not in index:
            continue
        rank = (
            row["status"] != "extracted",
            row["created_ds"],
            row["prompt_version"],
            row["model"],
        )
        if item not in best or rank > best[item][0]:
            best[item] = rank, row["knowledge"]
    for item, (_, knowledge) in best.items():
        yield index[item], traits_of(knowledge)


def plain(text: str, longest: int) -> str:
    """One line of printable characters, cut to a length: nothing in it can steer a terminal."""
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    flat = " ".join(shown.split())
    return flat if len(flat) <= longest else flat[: longest - 3].rstrip() + "..."


def _texts(values: Sequence[Any] | None) -> list[str]:
    """Texts to compare and to show: one line, lower case; too long ones say too much."""
    flat = [plain(str(value), 2 * LONGEST).lower().strip(" .") for value in values or () if value]
    return [text for text in flat if 0 < len(text) <= LONGEST]
