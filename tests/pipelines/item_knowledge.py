"""The step that builds item knowledge, and what it leaves."""

from collections import Counter
from typing import Any

import pytest

from tests.command import Command
from tests.llm_server import LlmServer
from tests.pipelines.builders import a_lake
from tests.pipelines.catalogue import DS

STEP = ("build-item-knowledge", "--partition", DS)
PRICES = {"PRICE_PER_MILLION_IN": "1", "PRICE_PER_MILLION_OUT": "2"}


def use_endpoint(monkeypatch: pytest.MonkeyPatch, server: LlmServer, **more: str) -> None:
    """Point the http backend at a server, as fast as it goes."""
    settings = {
        "BACKEND": "http",
        "BASE_URL": server.base_url,
        "MODEL": "model-1",
        "MAX_REQUESTS_PER_SECOND": "500",
        "PARTITIONS": "1",
    }
    for name, value in (settings | more).items():
        monkeypatch.setenv(f"RECKONER_LLM__{name}", value)


def rows(command: Command, table: str) -> list[dict[str, Any]]:
    """The rows of a table."""
    found: list[dict[str, Any]] = a_lake(command.lake).read(table).to_pylist()
    return found


def ends(command: Command) -> Counter[str]:
    """How often each item ended in either table."""
    tables = ("item_knowledge", "item_knowledge_failed")
    return Counter(row["item_id"] for table in tables for row in rows(command, table))
