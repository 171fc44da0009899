"""Positions, delimiters, encodings and spilling: what the readers promise their callers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.io import csv_source
from pipelines.io.raw_rows import CsvStyle, RawBatch
from pipelines.io.sources import find_files, read_rows
from pipelines.io.spool import Spool, spools


def read(path: Path, style: CsvStyle | None = None) -> list[RawBatch]:
    (file,) = find_files(str(path), None, "events")
    return list(read_rows(file, style or CsvStyle(), ["a"], frozenset()))


def positions(batches: list[RawBatch]) -> tuple[dict[int, str], list[int]]:
    good = {
        int(number): row["a"]
        for batch in batches
        for number, row in zip(batch.numbers, batch.rows.to_pylist(), strict=True)
    }
    return good, [one.row for batch in batches for one in batch.broken]


LINE = st.sampled_from(["good", "short", "long", "bytes", "quoted"])


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(LINE, min_size=1, max_size=60), block=st.integers(60, 400), head=st.booleans()
)
def test_every_record_keeps_its_position(
    kinds: list[str], block: int, head: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = {
        "good": b"x%d,2,3",
        "short": b"x%d,2",
        "long": b"x%d,2,3,4",
        "bytes": b"x%d,\xe9,3",
        "quoted": b'"x%d","two\nlines",3',
    }
    kinds = [*kinds, *["good"] * len(kinds)]  # mostly broken bytes would be another encoding
    rows = [lines[kind] % place for place, kind in enumerate(kinds, 1)]
    path = tmp_path_factory.mktemp("in") / "x.csv"
    path.write_bytes(b"\n".join([b"a,b,c"] * head + rows) + b"\n")
    style = CsvStyle() if head else CsvStyle(header=False, columns=("a", "b", "c"))
    before, csv_source.BLOCK = csv_source.BLOCK, block
    try:
        good, broken = positions(read(path, style))
    finally:
        csv_source.BLOCK = before
    fine = {place for place, kind in enumerate(kinds, 1) if kind in ("good", "quoted")}
    assert good == {place: f"x{place}" for place in fine}
    assert sorted(broken) == sorted(set(range(1, len(kinds) + 1)) - fine)


def test_long_delimiters_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.io.text_stream.CHUNK", 7)
    path = tmp_path / "x.csv"
    path.write_text("".join(f"{n}::a:b::c\n" for n in range(50)))
    style = CsvStyle(delimiter="::", header=False, columns=("a", "b", "c"), quote=None)
    rows = [row for batch in read(path, style) for row in batch.rows.to_pylist()]
    assert rows == [{"a": str(n), "b": "a:b", "c": "c"} for n in range(50)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("a\n\xe9\n".encode(encoding))
    style = CsvStyle(encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    assert [batch.rows.to_pylist() for batch in read(path, style)] == [[{"a": "\xe9"}]]


def test_a_header_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("a,caf\xe9\n1,2\n3,4\n".encode("latin-1"))
    with pytest.raises(InputError, match="its header is not UTF-8"):
        read(tmp_path / "x.csv")


def test_a_header_that_repeats_a_column(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(InputError, match="column 'a' appears twice"):
        read(tmp_path / "x.csv")


def test_a_first_line_of_another_width(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(InputError, match="has 2 fields, this layout has 3"):
        read(tmp_path / "x.csv", CsvStyle(header=False, columns=("a", "b", "c")))


def test_which_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl.gz", "_log.csv", ".x.csv", "c.txt", "deep/d.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [f.name for f in find_files(str(tmp_path), None, "events")] == [
        *("a.jsonl.gz", "b.csv", "deep/d.parquet"),
    ]
    (tmp_path / "items.csv").write_text("")
    assert [f.name for f in find_files(str(tmp_path), None, "items")] == ["items.csv"]
    assert [f.name for f in find_files(str(tmp_path), None, "events", ["c.*"])] == ["c.txt"]


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(-3, 3), max_size=9), max_size=8),
    limit=st.integers(1, 30),
)
def test_a_spool_gives_back_what_it_got(groups: list[list[int]], limit: int) -> None:
    schema = pa.schema([("n", pa.int64())])
    expected: dict[int, list[int]] = {}
    count = 0
    with spools(schema) as (opened,):
        spool = Spool(schema, str(opened._folder), rows_in_memory=limit)
        for batch in groups:
            numbers = list(range(count, count + len(batch)))
            count += len(batch)
            for group, number in zip(batch, numbers, strict=True):
                expected.setdefault(group, []).append(number)
            spool.add_by(np.array(batch, np.int64), pa.table({"n": pa.array(numbers, pa.int64())}))
        assert spool.groups == sorted(expected)
        assert {g: spool.take(g)["n"].to_pylist() for g in spool.groups} == expected
        assert spool.take(99).num_rows == 0
        spool.close()
