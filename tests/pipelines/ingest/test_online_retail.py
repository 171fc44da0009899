"""A real shop's 305 daily files: what must be caught is counted, row by row."""

import tarfile
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipelines.io.lake import Lake
from pipelines.run import Run
from tests.pipelines.ingest.conftest import Shell


@pytest.fixture
def days(shared_data: Path, tmp_path: Path) -> Path:
    archive = shared_data / "online-retail" / "by-day.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "days", filter="data")
    return tmp_path / "days"


def test_the_whole_history(shell: Shell, days: Path) -> None:
    words = ("--source", days, "--preset", "online-retail")
    result = shell.done("ingest-events", "--all-partitions", *words)
    assert result["files"] == result["dates"] == 305
    assert result["read"] == 541_909
    assert result["rejected_reasons"] == {"negative price": 2}
    assert result["skipped"] == {
        "no customer": 135_078,
        "cancellation": 8_905,
        "not a product": 1_554,
        "price zero": 33,
    }
    assert (result["kept"], result["merged"], result["events"]) == (396_337, 10_087, 386_250)
    events = Lake(shell.lake_uri, Run.unrecorded()).read("events", None, ["user_id", "item_id"])
    assert events.num_rows == 386_250
    assert pc.count_distinct(events["user_id"]).as_py() == 4_334
    assert pc.count_distinct(events["item_id"]).as_py() == 3_659


def test_one_day_at_a_time(shell: Shell, days: Path) -> None:
    words = ("--partition", "2011-11-29", "--source", days, "--preset", "online-retail")
    events = shell.done("ingest-events", *words)
    items = shell.done("ingest-items", *words)
    assert events["files"] == items["files"] == 1
    assert events["late"] == {}
    assert 0 < items["items"] < events["read"]
    titles = {row["item_id"]: row["title"] for row in shell.rows("items", "2011-11-29")}
    assert all(title == title.strip() and len(title) > 1 for title in titles.values())
    sold = {row["item_id"] for row in shell.rows("events", "2011-11-29")}
    assert sold <= titles.keys()
