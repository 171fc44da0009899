"""The README's snippets run as written."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.tables.publishing import RECOMMENDATIONS

ROOT = Path(__file__).resolve().parent.parent
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `.reckoner/lake` holds one published list."""
    home = tmp_path_factory.mktemp("reader")
    rows = [
        {
            "user_id": "u1",
            "rank": rank,
            "item_id": f"item-{rank}",
            "score": 1.0 / rank,
            "reason": "Because you bought 'a kettle'.",
            "source": "ranker",
            "model_name": "sasrec",
            "model_version": "1",
            "generated_at": datetime(2026, 3, 2, tzinfo=UTC),
        }
        for rank in (1, 2, 3)
    ]
    lake = Lake(str(home / ".reckoner" / "lake"), Run.start("test", "2026-03-01"))
    table = pa.Table.from_pylist(rows, schema=RECOMMENDATIONS.stored)
    lake.publish("recommendations", "2026-03-01", table)
    return home


def test_there_are_four_readers() -> None:
    assert len(SNIPPETS) == 4


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_print_the_list(published: Path, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[number]],
        cwd=published,
        env=os.environ | {"PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "item-1" in done.stdout or "ranker" in done.stdout
