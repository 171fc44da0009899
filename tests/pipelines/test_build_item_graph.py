"""The step that builds the item graph, on a real Spark and a real lake."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import build_item_graph, build_sequences
from pipelines.cli.main import main
from pipelines.errors import InputError
from pipelines.lineage import stale_partitions
from pipelines.settings import Settings
from tests.pipelines.builders import a_context, a_lake, event, publish_events

pytestmark = pytest.mark.usefixtures("spark")

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]
SETTINGS = Settings()


def build(folder: Path, ds: str, settings: Settings = SETTINGS) -> dict[str, Any]:
    build_sequences.run(a_context(folder, ds, settings))
    return build_item_graph.run(a_context(folder, ds, settings))


def edges(folder: Path, ds: str) -> set[tuple[Any, ...]]:
    lake = a_lake(folder)
    index = lake.read("item_index")
    names = dict(zip(index["item_idx"].to_pylist(), index["item_id"].to_pylist(), strict=True))
    return {
        (names[i], names[j], *rest)
        for i, j, *rest in zip(
            *lake.read("item_graph", ds).drop(["ds"]).to_pydict().values(), strict=True
        )
    }


def test_graphs_follow_their_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for day, ds in enumerate(DAYS):
        events = [event(user, f"i{day}", f"{ds}T10:00") for user in "uv"]
        publish_events(a_lake(tmp_path), events)
        build(tmp_path, ds)
    found = edges(tmp_path, DAYS[2])
    assert {edge[:2] + edge[3:] for edge in found if edge[2] == "transition"} == {
        ("i0", "i1", 2.0, 1),
        ("i1", "i2", 2.0, 1),
    }
    swing = (3 + 5) ** -0.6 / (3 + 1) / 2**0.5
    similar = {edge[:2]: edge[3:] for edge in found if edge[2] == "swing"}
    assert set(similar) == {(f"i{a}", f"i{b}") for a in range(3) for b in range(3) if a != b}
    assert similar["i1", "i0"] == (pytest.approx(swing), 1)
    assert similar["i1", "i2"] == (pytest.approx(swing), 2)  # equal weights follow the item id

    publish_events(a_lake(tmp_path, attempt=2), [event("u", "late", f"{DAYS[1]}T09:00")])
    capsys.readouterr()
    assert main(["stale", "--lake", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["table"], row["ds"]) for row in told] == [
        ("sequences", DAYS[1]), ("item_graph", DAYS[1]),
        ("sequences", DAYS[2]), ("item_graph", DAYS[2]),
    ]  # fmt: skip
    assert told[0]["reasons"] == [f"events/{DAYS[1]} has changed"]
    assert told[1]["reasons"] == [f"sequences/{DAYS[1]} is itself stale"]
    assert build(tmp_path, DAYS[1])["rebuilt"] == [DAYS[2]]
    assert stale_partitions(a_lake(tmp_path), SETTINGS) == []
    capsys.readouterr()
    assert main(["stale", "--lake", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing is stale\n"
    assert not build(tmp_path, DAYS[2])["changed"]


def test_a_night_without_pairs_has_an_empty_graph(tmp_path: Path) -> None:
    publish_events(a_lake(tmp_path), [event("u", "a", f"{DAYS[0]}T10:00")])
    assert build(tmp_path, DAYS[0])["rows"] == 0
    assert a_lake(tmp_path).published("item_graph") == [DAYS[0]]


def test_a_graph_needs_sequences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"build-sequences --partition {DAYS[0]} first"):
        build_item_graph.run(a_context(tmp_path, DAYS[0]))


def test_real_films_have_neighbours(tmp_path: Path, shared_data: Path) -> None:
    """ml-100k as one delivery: every bound holds on real, skewed data."""
    films = pq.read_table(shared_data / "ml-100k" / "events.parquet")
    ds = "1998-04-22"
    last = pa.scalar(a_context(tmp_path, ds).partition.start, pa.timestamp("us", tz="UTC"))  # type: ignore[union-attr]
    # Only the order matters here: the whole history is moved into one day.
    seconds = pc.rank(films["ts"], tiebreaker="first").cast(pa.int64())
    moved = pc.add(last.cast(pa.int64()), pc.multiply(seconds, 800_000))
    films = films.set_column(films.schema.get_field_index("ts"), "ts", moved.cast(last.type))
    films = films.append_column("ingested_ds", pa.array([ds] * films.num_rows))
    for name in ("position", "session_id", "surface", "query", "source_file"):
        if name not in films.schema.names:
            films = films.append_column(name, pa.nulls(films.num_rows))
    a_lake(tmp_path).publish("events", ds, films)
    rows = build(tmp_path, ds)["rows"]
    graph = a_lake(tmp_path).read("item_graph", ds)
    assert graph.num_rows == rows
    for kind in ("transition", "swing"):
        own = graph.filter(pc.equal(graph["kind"], kind))
        counted = own.group_by("item_idx").aggregate([("rank", "max"), ([], "count_all")])
        assert pc.max(counted["rank_max"]).as_py() == 100
        assert counted["rank_max"].to_pylist() == counted["count_all"].to_pylist()  # dense ranks
        assert counted.num_rows > 1000
