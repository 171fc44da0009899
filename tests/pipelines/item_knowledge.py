"""The step that builds item knowledge, and what it leaves."""

from collections import Counter
from typing import Any

from tests.command import Command
from tests.pipelines.builders import a_lake
from tests.pipelines.catalogue import DS

STEP = ("build-item-knowledge", "--partition", DS)
PRICES = {"PRICE_PER_MILLION_IN": "1", "PRICE_PER_MILLION_OUT": "2"}


def rows(command: Command, table: str) -> list[dict[str, Any]]:
    """The rows of a table."""
    found: list[dict[str, Any]] = a_lake(command.lake).read(table).to_pylist()
    return found


def ends(command: Command) -> Counter[str]:
    """How often each item ended in either table."""
    tables = ("item_knowledge", "item_knowledge_failed")
    return Counter(row["item_id"] for table in tables for row in rows(command, table))
