"""Give every item of the catalogue a vector of its text as of a night; encode each text once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from models.components import Components, fit_components
from pipelines.catalogue import items_as_of
from pipelines.errors import input_errors
from pipelines.io.lake import Lake
from pipelines.io.text_encoder import Floats, TextEncoder, open_encoder
from pipelines.item_index import ensure_indexed, load_index, unseen
from pipelines.knowledge.vector_text import COLUMNS, KNOWLEDGE_COLUMNS, item_texts, summaries
from pipelines.lineage import use_settings
from pipelines.partition import Partition
from pipelines.rebuild import Built, publish_derived
from pipelines.step import Context, Result
from pipelines.tables.vectors import ITEM_VECTORS
from pipelines.vector_column import column, matrix
from pipelines.vector_fits import Fit, config_of, ensure_fit

log = structlog.get_logger()

TABLE = ITEM_VECTORS.name
FIRST_DS = "0001-01-01"


def run(context: Context, *, refit: bool = False, cascade: bool = True) -> Result:
    """Build the context's partition of `item_vectors`.

    Args:
        context: names the partition and the lake.
        refit: fit the projection of `vectors.pca` again, for this night and later ones.
        cascade: also rebuild later partitions that are stale afterwards.

    Raises:
        InputError: the encoder is not there, or there are fewer texts than components.
    """
    step = Encoding(context, open_encoder(context.settings.vectors), refit)
    return publish_derived(context, TABLE, step.build, cascade=cascade)


@dataclass
class Encoding:
    """How one run builds partitions of `item_vectors`."""

    context: Context
    encoder: TextEncoder
    refit: bool = False
    _seconds: float = field(default=0.0, init=False)

    def build(self, night: Partition) -> Built:
        """Work a partition out and publish it, unless this is a dry run."""
        lake, settings = self.context.lake, self.context.settings
        use_settings(self.context.run, settings, "vectors")
        lake.run.used("items", f"{FIRST_DS}..{night.ds}", None)
        items = items_as_of(lake, night.ds, COLUMNS, settings.items.snapshot)
        told = summaries(lake.read("item_knowledge", columns=KNOWLEDGE_COLUMNS), settings.llm.model)
        texts, keys = item_texts(items, told, settings.vectors.max_chars)
        text_of = dict(zip(keys, texts, strict=True))
        self._seconds = 0.0
        name, vectors, encoded = self._vectors(night, list(text_of), list(text_of.values()))
        rows = self._rows(night, items["item_id"], keys, list(text_of), name, vectors)
        about: dict[str, Any] = {
            "encoder": name,
            "encoded": encoded,
            "reused": len(text_of) - encoded,
            "encode_seconds": round(self._seconds, 2),
        }
        log.info("item vectors", ds=night.ds, items=rows.num_rows, **about)
        commit = None if self.context.dry_run else lake.publish(TABLE, night.ds, rows)
        return Built(rows.num_rows, commit, about)

    def _vectors(
        self, night: Partition, keys: list[str], texts: list[str]
    ) -> tuple[str, Floats, int]:
        """Find or make the vector of every distinct text; says how many were encoded."""
        wanted, name = self.context.settings.vectors.pca, self.encoder.name
        if wanted is None or not texts:
            return name, *self._completed(night, keys, texts, name, None)
        made: list[Floats] = []

        def fit() -> Fit:
            made.append(self._encode(texts))
            return fit_pca(made[0], wanted, name)

        config = config_of(encoder=name, components=wanted)
        pca = ensure_fit(self.context, "pca", config, fit, refit=self.refit)
        self.refit = False  # later partitions of the same run follow this one
        axes = Components(pca.arrays["mean"], pca.arrays["axes"], pca.figures["variance_kept"])
        name = f"{name}/{pca.version}"
        if made:
            return name, axes.apply(made[0]), len(texts)
        return name, *self._completed(night, keys, texts, name, axes)

    def _completed(
        self,
        night: Partition,
        keys: list[str],
        texts: list[str],
        name: str,
        axes: Components | None,
    ) -> tuple[Floats, int]:
        """Take over the vectors that other nights have of the same texts; encode the rest."""
        row_of, known = known_vectors(self.context.lake, night.ds, name, keys)
        missing = [text for key, text in zip(keys, texts, strict=True) if key not in row_of]
        made = self._encode(missing)
        if axes is not None:
            made = axes.apply(made)
        if not row_of:
            return made, len(missing)
        vectors = np.empty((len(keys), known.shape[1]), np.float32)
        is_known = np.array([key in row_of for key in keys], np.bool_)
        vectors[is_known] = known[[row_of[key] for key in keys if key in row_of]]
        vectors[~is_known] = made
        return vectors, len(missing)

    def _encode(self, texts: Sequence[str]) -> Floats:
        started = time.monotonic()
        vectors = self.encoder.encode(texts)
        self._seconds += time.monotonic() - started
        return vectors

    def _rows(
        self,
        night: Partition,
        item_ids: pa.ChunkedArray,
        keys: list[str],
        distinct: list[str],
        name: str,
        vectors: Floats,
    ) -> pa.Table:
        """Lay out the partition, by item index; the catalogue's new items get theirs here."""
        index = self._index(item_ids, night)
        place = pc.index_in(item_ids, value_set=index["item_id"].combine_chunks())
        numbers = index["item_idx"].take(place).combine_chunks()
        at = {key: number for number, key in enumerate(distinct)}
        chosen = vectors[[at[key] for key in keys]] if keys else vectors
        columns = {
            "item_idx": numbers,
            "vector": column(chosen),
            "encoder": pa.array([name] * len(keys), pa.string()),
            "text_hash": pa.array(keys, pa.string()),
        }
        return pa.table(columns, schema=ITEM_VECTORS.stored).sort_by("item_idx")

    def _index(self, item_ids: pa.ChunkedArray, night: Partition) -> pa.Table:
        """Index every item, sold or not: a text is enough to recommend one by."""
        lake = self.context.lake
        if self.context.dry_run:
            index = load_index(lake)
            return pa.concat_tables([index, unseen(index, item_ids, night.ds)])
        ensure_indexed(lake, item_ids, night.ds)
        lake.refresh("item_index")
        return load_index(lake)


def fit_pca(vectors: Floats, count: int, encoder: str) -> Fit:
    """Fit a projection on the vectors of one night.

    Raises:
        InputError: there are too few texts or coordinates.
    """
    with input_errors(f"vectors.pca={count}"):
        components = fit_components(vectors, count)
    arrays = {"mean": components.mean_V, "axes": components.axes_PV}
    config = config_of(encoder=encoder, components=count)
    return Fit("pca", config, arrays, len(vectors), {"variance_kept": components.kept})


def known_vectors(
    lake: Lake, ds: str, encoder: str, keys: Sequence[str]
) -> tuple[dict[str, int], Floats]:
    """Look texts' vectors up in what this night, the one before and the one after hold.

    It is a cache: a vector is the text's and the encoder's alone, wherever it was found. So these
    readings are no inputs and are not recorded.

    Returns:
        The row of each hash that was found, and float32 vectors [rows, V].
    """
    there = lake.unrecorded()
    days = there.partitions(TABLE)
    before = [day for day in days if day <= ds][-2:]
    after = [day for day in days if day > ds][:1]
    found: dict[str, int] = {}
    pieces: list[Floats] = []
    wanted = pa.array(keys, pa.string())
    for day in [*reversed(before), *after]:
        rows = there.read(TABLE, day, ["vector", "encoder", "text_hash"])
        is_wanted = pc.is_in(rows["text_hash"], value_set=wanted)
        rows = rows.filter(pc.and_(pc.equal(rows["encoder"], encoder), is_wanted))
        fresh = []
        for place, key in enumerate(rows["text_hash"].to_pylist()):
            if key not in found:
                found[key] = len(found)
                fresh.append(place)
        if fresh:
            pieces.append(matrix(rows["vector"].take(pa.array(fresh))))
        if len(found) == len(keys):
            break
    return found, np.concatenate(pieces) if pieces else np.zeros((0, 0), np.float32)
