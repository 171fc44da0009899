"""Give every item vector of a night its codes: codebooks fitted once, twins told apart for good."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog
import torch

from models.codebooks import Coded, code_vectors, fit_codebooks
from models.semantic_ids import code_diagnostics
from pipelines.lineage import use_settings
from pipelines.pace import Pace
from pipelines.partition import Partition
from pipelines.rebuild import Built, publish_derived
from pipelines.step import Context, Result
from pipelines.tables.vectors import ITEM_VECTORS, SEMANTIC_IDS, SEMANTIC_SLOTS
from pipelines.vector_column import matrix
from pipelines.vector_fits import Fit, config_of, ensure_fit

log = structlog.get_logger()

TABLE = SEMANTIC_IDS.name
SLOTS = SEMANTIC_SLOTS.name
# With fewer items for each value of a code, it would tell items apart instead of gathering them.
ITEMS_PER_VALUE = 4
WORTH_A_WARNING = 0.1


def run(context: Context, *, refit: bool = False, cascade: bool = True) -> Result:
    """Build the context's partition of `semantic_ids` from that of `item_vectors`.

    Args:
        context: names the partition and the lake.
        refit: fit the codebooks again, for this night and later ones: every item's codes change.
        cascade: also rebuild later partitions that are stale afterwards.
    """
    return publish_derived(context, TABLE, Coding(context, refit).build, cascade=cascade)


@dataclass
class Coding:
    """How one run builds partitions of `semantic_ids`."""

    context: Context
    refit: bool = False

    def build(self, night: Partition) -> Built:
        """Work a partition out and publish it, unless this is a dry run."""
        lake = self.context.lake
        use_settings(self.context.run, self.context.settings, "semantic_ids")
        names = ["item_idx", "vector", "encoder"]
        rows = lake.read(ITEM_VECTORS.name, night.ds, names).sort_by("item_idx")
        if not rows.num_rows:
            return self._publish(night, SEMANTIC_IDS.stored.empty_table(), {})
        vectors_XV = torch.from_numpy(matrix(rows["vector"]).copy())
        fit, coded = self._coded(rows["encoder"][0].as_py(), vectors_XV)
        bases: list[list[int]] = coded.codes_XG.tolist()
        items: list[int] = rows["item_idx"].to_pylist()
        slots = self._slots(fit.version, items, bases)
        codes = [[*base, slot] for base, slot in zip(bases, slots, strict=True)]
        columns = {
            "item_idx": rows["item_idx"],
            "codes": pa.array(codes, pa.list_(pa.int32())),
            "codebook_version": pa.array([fit.version] * len(codes), pa.string()),
        }
        values = fit.arrays["books_GKD"].shape[1]
        about = {
            "codebook_version": fit.version,
            **{k: round(v, 4) for k, v in code_diagnostics(coded.codes_XG, values).items()},
            "largest_cell": max(Counter(map(tuple, bases)).values()),
            "error": round(coded.error, 4),
            "drift": round(coded.error - fit.figures["error"], 4),
        }
        made = pa.table(columns, schema=SEMANTIC_IDS.stored)
        return self._publish(night, made, about | self._kept(night, made))

    def _publish(self, night: Partition, rows: pa.Table, about: dict[str, Any]) -> Built:
        log.info("semantic ids", ds=night.ds, items=rows.num_rows, **about)
        lake = self.context.lake
        commit = None if self.context.dry_run else lake.publish(TABLE, night.ds, rows)
        return Built(rows.num_rows, commit, about)

    def _coded(self, encoder: str, vectors_XV: torch.Tensor) -> tuple[Fit, Coded]:
        """Code the vectors, by new codebooks where there are none yet or they have aged."""
        fit = self._fit(encoder, vectors_XV, self.refit)
        self.refit = False  # later partitions of the same run follow this one
        coded = code_vectors(vectors_XV, fit.arrays)
        drift = coded.error - fit.figures["error"]
        most = self.context.settings.semantic_ids.max_drift
        if most is not None and drift > most:
            log.warning("codebooks have aged: fitted anew", drift=round(drift, 4), max_drift=most)
            fit = self._fit(encoder, vectors_XV, True)
            coded = code_vectors(vectors_XV, fit.arrays)
        elif drift > WORTH_A_WARNING:
            log.warning("codebooks have aged: consider --refit", drift=round(drift, 4))
        return fit, coded

    def _fit(self, encoder: str, vectors_XV: torch.Tensor, refit: bool) -> Fit:
        wanted = self.context.settings.semantic_ids
        decisive = wanted.model_dump(exclude={"max_drift", "method"})
        if wanted.method == "kmeans":
            del decisive["epochs"]
        config = config_of(encoder=encoder, **decisive)

        def make() -> Fit:
            codes = max(2, min(wanted.codes, len(vectors_XV) // ITEMS_PER_VALUE))
            arrays = fit_codebooks(
                vectors_XV,
                wanted.method,
                wanted.levels,
                codes,
                seed=wanted.seed,
                epochs=wanted.epochs,
                note=_saying(wanted.epochs),
            )
            coded = code_vectors(vectors_XV, arrays)
            figures = code_diagnostics(coded.codes_XG, codes) | {"error": coded.error}
            return Fit(wanted.method, config, arrays, len(vectors_XV), figures)

        return ensure_fit(self.context, wanted.method, config, make, refit=refit)

    def _slots(self, version: str, items: list[int], bases: list[list[int]]) -> list[int]:
        """Look up each item's number within its cell; newcomers get the next ones, for good."""
        cells = ["-".join(map(str, base)) for base in bases]
        pairs = list(zip(cells, items, strict=True))
        names = ["codebook_version", "cell", "item_idx", "slot"]
        lake = self.context.lake
        if not self.context.dry_run:
            commit = lake.append(SLOTS, lambda there: new_slots(there, version, pairs), names)
            if commit.changed:
                self.context.run.wrote(SLOTS, commit.version, commit.rows)
            lake.refresh(SLOTS)
        known = lake.read(SLOTS)
        known = pa.concat_tables([known, new_slots(known, version, pairs)])
        mine = known.filter(pc.equal(known["codebook_version"], version))
        given = dict(
            zip(
                zip(mine["cell"].to_pylist(), mine["item_idx"].to_pylist(), strict=True),
                mine["slot"].to_pylist(),
                strict=True,
            )
        )
        return [given[pair] for pair in pairs]

    def _kept(self, night: Partition, made: pa.Table) -> dict[str, Any]:
        """Say which share of the items with yesterday's text has yesterday's codes."""
        there = self.context.lake.unrecorded()
        days = [day for day in there.partitions(TABLE) if day < night.ds]
        if not days:
            return {}
        old = _by_item(there.read(TABLE, days[-1]), "codes")
        old_texts = _by_item(there.read(ITEM_VECTORS.name, days[-1]), "text_hash")
        texts = _by_item(self.context.lake.read(ITEM_VECTORS.name, night.ds), "text_hash")
        new = _by_item(made, "codes")
        same = [n for n in new if n in old and texts.get(n) == old_texts.get(n)]
        if not same:
            return {}
        kept = sum(new[n] == old[n] for n in same) / len(same)
        return {"unchanged_items": len(same), "unchanged_items_kept_codes": round(kept, 4)}


def new_slots(there: pa.Table, version: str, pairs: list[tuple[str, int]]) -> pa.Table:
    """Work out the rows that `semantic_slots` lacks, in order of item index.

    Args:
        there: the table.
        version: of the codebooks.
        pairs: each item's cell and index.
    """
    mine = there.filter(pc.equal(there["codebook_version"], version))
    cells, items = mine["cell"].to_pylist(), mine["item_idx"].to_pylist()
    known = set(zip(cells, items, strict=True))
    taken = Counter(cells)
    rows = []
    for cell, item in sorted(pairs, key=lambda pair: pair[1]):
        if (cell, item) not in known:
            rows.append((version, cell, item, taken[cell]))
            taken[cell] += 1
    names = SEMANTIC_SLOTS.schema.names
    return pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) for row in rows], schema=SEMANTIC_SLOTS.schema
    )


def _saying(epochs: int) -> Callable[[int], None]:
    """Say now and then how far the fitting is."""
    pace = Pace()

    def note(done: int) -> None:
        left = pace.seconds_left(done / epochs)
        if left is not None:
            log.info("fitting codebooks", epoch=f"{done}/{epochs}", seconds_left=round(left))

    return note


def _by_item(rows: pa.Table, column: str) -> dict[int, Any]:
    return dict(zip(rows["item_idx"].to_pylist(), rows[column].to_pylist(), strict=True))
