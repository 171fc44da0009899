"""Texts that GPT-3.5 wrote about real films and books become records or failures, all counted."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.command import Command
from tests.pipelines.builders import a_lake
from tests.pipelines.catalogue import DS, an_item, publish_items


@pytest.fixture
def recorded(
    shared_data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Run the step over a dataset's recorded texts; returns its result and both tables."""

    def run(dataset: str, column: str) -> tuple[Any, dict[str, str], dict[str, str]]:
        folder = shared_data / dataset
        if not (folder / "recorded_llm_items.parquet").is_file():
            pytest.skip(f"no recorded texts in {folder}")
        bare = {"description": None, "category": [], "brand": None, "attributes": []}
        items = [
            an_item(row["item_id"], row["title"], **bare)
            for row in pq.read_table(folder / "items.parquet").to_pylist()
        ]
        command = Command(str(tmp_path / dataset), capfd)
        publish_items(command.lake, items)
        settings = {
            "BACKEND": "recorded",
            "MODEL": "gpt-3.5-turbo",
            "RECORDED": str(folder / "recorded_llm_items.parquet"),
            "RECORDED_COLUMN": column,
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"RECKONER_LLM__{name}", value)
        result = command.json("build-item-knowledge", "--partition", DS, "--part", "knowledge")
        lake = a_lake(command.lake)
        records = lake.read("item_knowledge", columns=["item_id", "summary"]).to_pylist()
        failed = lake.read("item_knowledge_failed", columns=["item_id", "reason"]).to_pylist()
        ends = Counter(row["item_id"] for row in [*records, *failed])
        assert ends == Counter(item["item_id"] for item in items)
        assert (result["built"], result["failed"]) == (len(records), len(failed))
        return (
            result,
            {row["item_id"]: row["summary"] for row in records},
            {row["item_id"]: row["reason"] for row in failed},
        )

    return run


def test_books(recorded: Any) -> None:
    result, records, failed = recorded("goodreads", "llm_description")
    assert result["items"] == 16_833
    reasons = Counter(re.sub(r"\d+", "N", reason) for reason in failed.values())
    assert 80 <= reasons["recorded: the summary is a refusal"] <= 95
    assert reasons["recorded: the summary only repeats the title"] >= 25
    assert len(failed) < 200
    # A refusal, a title alone, another language, a template that was never filled in.
    for item in ("7797462", "4440869", "3482820", "6218770", "24694092", "6177641"):
        assert item in failed
    # Books that speak of what cannot be done, and one that is cut after a whole sentence.
    for item in ("217402", "18594409", "16192", "15547"):
        assert item in records
    assert max(len(summary.split()) for summary in records.values()) <= 60
    assert not any(summary.startswith("[description]") for summary in records.values())
    leaked = re.compile(r"\{title\}|valid (?:book )?title|as an ai\b", re.IGNORECASE)
    assert not [summary for summary in records.values() if leaked.search(summary)]


def test_films(recorded: Any) -> None:
    result, records, failed = recorded("ml-1m", "llm_summary")
    assert result["items"] == 3_883
    assert failed == {}
    assert records["1"] == "A group of toys embarks on a thrilling adventure to save their owner."


def test_ratings_that_were_refused_are_no_summaries(recorded: Any) -> None:
    result, records, failed = recorded("ml-1m", "llm_rating")
    assert (result["built"], result["failed"]) == (0, 3_883)
    refused = [reason for reason in failed.values() if reason.endswith("refusal")]
    assert len(refused) == 20
    assert records == {}
