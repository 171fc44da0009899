"""Hold more rows than memory does, grouped by a whole number such as a day."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ROWS_IN_MEMORY = 4_000_000


class Spool:
    """Rows by group; beyond a number of rows they wait in temporary files.

    Rows of a group come back in the order in which they were added.
    """

    def __init__(
        self, schema: pa.Schema, folder: str, rows_in_memory: int = ROWS_IN_MEMORY
    ) -> None:
        """Spill into `folder`, which its owner deletes."""
        self._schema = schema
        self._folder = Path(folder)
        self._limit = rows_in_memory
        self._held: dict[int, list[pa.Table]] = defaultdict(list)
        self._rows = 0
        self._spilt: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._files: list[pa.MemoryMappedFile] = []

    @property
    def groups(self) -> list[int]:
        """The groups that have rows, ascending."""
        return sorted({*self._held, *self._spilt})

    def add(self, group: int, rows: pa.Table) -> None:
        """Add rows of one group."""
        if rows.num_rows:
            self._held[group].append(rows.select(self._schema.names).cast(self._schema))
            self._rows += rows.num_rows
            if self._rows > self._limit:
                self._spill()

    def add_by(self, groups: npt.NDArray[np.int64], rows: pa.Table) -> None:
        """Add rows, each to its own group, [num_rows]."""
        if not rows.num_rows:
            return
        order = np.argsort(groups, kind="stable")
        rows, sorted_groups = rows.take(pa.array(order)), groups[order]
        starts = np.flatnonzero(np.diff(sorted_groups, prepend=sorted_groups[0] - 1))
        ends = np.append(starts[1:], len(groups))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            self.add(int(sorted_groups[start]), rows.slice(start, end - start))

    def take(self, group: int) -> pa.Table:
        """All rows of a group."""
        pieces = []
        for file, batch in self._spilt.get(group, []):
            reader = pa.ipc.open_file(self._files[file])
            pieces.append(pa.Table.from_batches([reader.get_batch(batch)]))
        pieces += self._held.get(group, [])
        return pa.concat_tables(pieces) if pieces else self._schema.empty_table()

    def close(self) -> None:
        """Let go of the temporary files."""
        for file in self._files:
            file.close()
        self._files.clear()

    def _spill(self) -> None:
        path = self._folder / f"{id(self)}-{len(self._files)}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
            for place, (group, tables) in enumerate(self._held.items()):
                whole = pa.concat_tables(tables).combine_chunks()
                writer.write_batch(whole.to_batches()[0])
                self._spilt[group].append((len(self._files), place))
        self._files.append(pa.memory_map(str(path)))
        self._held.clear()
        self._rows = 0


@contextmanager
def spools(*schemas: pa.Schema) -> Iterator[tuple[Spool, ...]]:
    """Open one spool per schema in a temporary folder that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="reckoner-") as folder:
        opened = tuple(Spool(schema, folder) for schema in schemas)
        try:
            yield opened
        finally:
            for spool in opened:
                spool.close()
